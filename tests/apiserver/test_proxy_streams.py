"""The proxy subresource: what names mean, which endpoint is chosen, and real requests to a pod, a Service and a node."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from minik8s.apiserver.request import routes
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.verbs.proxying import Named, allowed, endpoint_of, port_of_pod, read_name
from minik8s.apiserver.verbs.stream import Kubelet
from tests.apiserver.apiprocess import ApiServer
from tests.labs import until

SPACE = "/api/v1/namespaces/default"


@pytest.mark.parametrize(("path", "wanted"), [
    ("/api/v1/nodes/n/proxy/", Target("", "v1", "nodes", "", "n", "proxy", "/")),
    ("/api/v1/nodes/n/proxy", Target("", "v1", "nodes", "", "n", "proxy")),
    ("/api/v1/nodes/n:10250/proxy/a/b", Target("", "v1", "nodes", "", "n:10250", "proxy", "/a/b")),
    (f"{SPACE}/pods/p/proxy/a%2Fb//c/", Target("", "v1", "pods", "default", "p", "proxy", "/a%2Fb//c/")),
    (f"{SPACE}/services/https:s:web/proxy/proxy/x", Target("", "v1", "services", "default", "https:s:web", "proxy", "/proxy/x")),
    (f"{SPACE}/pods/p/proxy/../../secrets", None), (f"{SPACE}/pods/p/proxy/%2e%2E/x", None), (f"{SPACE}/pods/p/proxy/a b", None),
    (f"{SPACE}/pods/../proxy/x", None), (f"{SPACE}/pods/p/log/x", None), ("/apis/apps/v1/nodes/n/proxy/x", None),
])
def test_urls(path: str, wanted: Target | None) -> None:
    assert routes.parse(path) == wanted


def test_names() -> None:
    assert read_name("web") == Named("web")
    assert read_name("web:http") == Named("web", "", "http")
    assert read_name("https:web:443") == Named("web", "https", "443")
    for bad in ("ftp:web:1", "a:b:c:d"):
        with pytest.raises(Refused):
            read_name(bad)


def test_ports_of_a_pod() -> None:
    pod: Any = {"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}, {
        "ports": [{"name": "admin", "containerPort": 9000}]}]}}
    assert [port_of_pod(pod, wanted) for wanted in ("", "web", "admin", "77")] == [8080, 8080, 9000, 77]
    assert port_of_pod({"metadata": {}, "spec": {"containers": [{}]}}, "") == 80
    with pytest.raises(Refused):
        port_of_pod(pod, "other")


def test_endpoints_of_a_service() -> None:
    service: Any = {"metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}
    ready = {"addresses": ["10.0.0.1"], "conditions": {"ready": True}}
    slices: Any = [{"ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
                    "endpoints": [ready, {"addresses": ["10.0.0.2"], "conditions": {"ready": False}}]}]
    for wanted, port in (("a", 8080), ("80", 8080), ("b", 8081), ("81", 8081)):
        assert endpoint_of(service, slices, wanted) == Kubelet("10.0.0.1", port)
    for wanted, why in (("", "no endpoints"), ("c", "no service port"), ("9", "no service port")):
        with pytest.raises(Refused, match=why):
            endpoint_of(service, slices, wanted)
    with pytest.raises(Refused, match="no endpoints"):
        endpoint_of(service, [], "a")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "", "name",
                                     "::ffff:127.0.0.1"])
def test_addresses_that_can_only_be_ours(address: str) -> None:
    assert not allowed(address)


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("NOT TESTED: this machine has no address but loopback")
        return str(sock.getsockname()[0])


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body.decode()}
        told = json.dumps(said).encode()
        self.send_response(203)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(api: ApiServer) -> Iterator[int]:
    """A pod and a Service whose endpoint is a little HTTP server on this machine."""
    server = http.server.ThreadingHTTPServer((own_address(), 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, address = server.server_address[1], server.server_address[0]
    container = {"name": "c", "image": "x", "ports": [{"containerPort": port}]}
    pod = {"metadata": {"name": "echo"}, "spec": {"containers": [container]}}
    assert api.call("POST", f"{SPACE}/pods", pod).code == 201
    api.call("PATCH", f"{SPACE}/pods/echo/status", {"status": {"podIP": address, "podIPs": [{"ip": address}]}},
             content="application/merge-patch+json")
    service = {"metadata": {"name": "echo"}, "spec": {"ports": [{"name": "web", "port": 80}]}}
    assert api.call("POST", f"{SPACE}/services", service).code == 201
    assert api.call("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {
        "metadata": {"name": "echo", "labels": {"kubernetes.io/service-name": "echo"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": port}], "endpoints": [{"addresses": [address]}]}).code == 201
    yield port
    server.shutdown()
    for path in (f"{SPACE}/pods/echo?gracePeriodSeconds=0", f"{SPACE}/services/echo",
                 "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/echo"):
        api.call("DELETE", path)


@pytest.mark.etcd
def test_requests_to_a_pod_and_a_service(api: ApiServer, site: int) -> None:
    for where in ("pods/echo", f"pods/echo:{site}", "services/echo", "services/echo:web", "services/http:echo:80"):
        path = f"{SPACE}/{where}/proxy/some/path%2Fx/?q=1&r=a%20b"
        found = api.call("GET", path, headers={"X-Own": "kept", "Authorization": ""})
        assert (found.code, found.body["path"]) == (203, "/some/path%2Fx/?q=1&r=a%20b")
        assert found.body["headers"]["X-Own"] == "kept"
        assert "Authorization" not in found.body["headers"]
    posted = api.call("POST", f"{SPACE}/pods/echo/proxy/", b"x" * 100_000, content="text/plain")
    assert (posted.code, posted.body["method"], len(posted.body["body"])) == (203, "POST", 100_000)
    assert api.call("GET", f"{SPACE}/services/echo:other/proxy/").code == 503
    assert api.call("GET", f"{SPACE}/pods/none/proxy/").code == 404
    assert api.call("GET", f"{SPACE}/pods/echo:1/proxy/").code == 503
    assert api.call("GET", f"{SPACE}/pods/echo/proxy/", user="nobody").code == 403
    assert api.kubectl("get", "--raw", f"{SPACE}/pods/echo/proxy/raw").stdout.startswith('{"method": "GET", "path": "/raw"')


@pytest.mark.etcd
def test_a_pod_that_says_it_is_us(api: ApiServer) -> None:
    pod = {"metadata": {"name": "liar"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    api.call("POST", f"{SPACE}/pods", pod)
    api.call("PATCH", f"{SPACE}/pods/liar/status", {"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}},
             content="application/merge-patch+json")
    refused = api.call("GET", f"{SPACE}/pods/liar:2379/proxy/version")
    assert (refused.code, refused.body["message"]) == (400, "address not allowed")
    api.call("DELETE", f"{SPACE}/pods/liar?gracePeriodSeconds=0")


@pytest.mark.etcd
def test_a_node_that_says_it_is_us(api: ApiServer) -> None:
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "liar"}, "status": status})
    refused = api.call("GET", "/api/v1/nodes/liar:2379/proxy/version")
    assert (refused.code, refused.body["message"]) == (400, "address not allowed")
    assert api.call("GET", "/api/v1/nodes/https:liar:2379/proxy/version").code == 400
    api.call("DELETE", "/api/v1/nodes/liar")


@pytest.mark.etcd
def test_a_kubelet_that_is_an_api_server(api: ApiServer) -> None:
    """Asked as a kubelet it would know this server's certificate, and do what that may."""
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
              "daemonEndpoints": {"kubeletEndpoint": {"Port": api.port}}}
    assert api.call("POST", "/api/v1/nodes", {"metadata": {"name": "mirror"}, "status": status}).code == 201
    until(lambda: api.call("GET", f"{SPACE}/endpoints/kubernetes").body["subsets"][0]["ports"][0]["port"] == api.port, what="us")
    refused = api.call("GET", "/api/v1/nodes/mirror/proxy/api/v1/secrets")
    assert (refused.code, refused.body["message"]) == (400, "address not allowed")
    api.call("DELETE", "/api/v1/nodes/mirror")


@pytest.mark.etcd
def test_ports_and_names_that_cannot_be(api: ApiServer, site: int) -> None:
    """Numbers and names come from clients and nodes; what they cannot mean is nobody's fault but theirs."""
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/echo"
    assert api.call("GET", f"{SPACE}/pods/echo:99999/proxy/").code == 503
    assert api.call("PATCH", slices, {"ports": [{"name": "web"}]}, content="application/merge-patch+json").code == 200
    assert api.call("GET", f"{SPACE}/services/echo/proxy/").code == 503
    for address, port in (("192.0.2.1", 70000), (".." * 40, 10250)):
        ends = {"kubeletEndpoint": {"Port": port}}
        status = {"addresses": [{"type": "InternalIP", "address": address}], "daemonEndpoints": ends}
        api.call("POST", "/api/v1/nodes", {"metadata": {"name": "odd"}, "status": status})
        assert api.call("GET", "/api/v1/nodes/odd/proxy/").code == 503
        pod = {"metadata": {"name": "odd"}, "spec": {"nodeName": "odd", "containers": [{"name": "c", "image": "x"}]}}
        api.call("POST", f"{SPACE}/pods", pod)
        assert "https://" in api.call("GET", f"{SPACE}/pods/odd/log").body["message"]
        api.call("DELETE", f"{SPACE}/pods/odd?gracePeriodSeconds=0")
        api.call("DELETE", "/api/v1/nodes/odd")


@pytest.mark.etcd
def test_the_connection_serves_on_or_ends(api: ApiServer, site: int) -> None:
    """What comes after a proxied request on the same connection is not taken for the pod's."""
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=api.context())
    connection.request("GET", f"{SPACE}/pods/echo/proxy/")
    reply = connection.getresponse()
    assert reply.status == 203
    reply.read()
    connection.request("GET", "/version")
    assert b"gitVersion" in connection.getresponse().read()
