"""Running a server: its named checks, its metrics, its end in good order, certificates that change."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from minik8s.apiserver.certificates import Certificates
from minik8s.pki.authority import Authority, Identity
from nodecore.errors import UserError
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer, free_ports
from tests.labs import until

pytestmark = pytest.mark.etcd
SPACE = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def own(api_etcd: EtcdServer) -> Iterator[ApiServer]:
    server = ApiServer.start(api_etcd)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("root", ["healthz", "livez", "readyz"])
def test_named_checks(api: ApiServer, root: str) -> None:
    assert api.call("GET", f"/{root}").body == "ok"
    told = str(api.call("GET", f"/{root}?verbose").body)
    assert "[+]ping ok\n" in told
    assert told.endswith(f"{root} check passed\n")
    assert api.call("GET", f"/{root}/ping").body == "ok"
    assert api.call("GET", f"/{root}/nothing").code == 404
    left_out = str(api.call("GET", f"/{root}?verbose&exclude=ping&exclude=nothing").body)
    assert "[+]ping excluded: ok\n" in left_out
    assert "warn: some health checks cannot be excluded: no matches for 'nothing'\n" in left_out


def test_metrics_have_the_names_monitors_know(api: ApiServer) -> None:
    api.call("POST", SPACE, {"metadata": {"name": "measured"}})
    api.call("GET", f"{SPACE}/measured")
    api.call("GET", "/api/v1/namespaces/default/nonsense-of-a-scanner")
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=api.context())
    connection.request("GET", f"{SPACE}?watch=1&fieldSelector=metadata.name=measured")
    assert b"measured" in connection.getresponse().readline()
    text = str(api.call("GET", "/metrics").body)
    connection.close()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"apiserver_request", "apiserver_request_duration_seconds", "apiserver_current_inflight_requests",
            "apiserver_longrunning_requests", "apiserver_storage_objects", "apiserver_watch_events",
            "apiserver_watch_cache_events_received", "etcd_request_duration_seconds", "process_resident_memory_bytes",
            "process_open_fds", "process_start_time_seconds"} <= families.keys()
    made = [sample for sample in families["apiserver_request"].samples
            if sample.labels["resource"] == "configmaps" and sample.labels["verb"] == "POST" and sample.labels["code"] == "201"]
    assert len(made) == 1
    assert (made[0].labels["scope"], made[0].labels["version"], made[0].value >= 1) == ("namespace", "v1", True)
    watching = {sample.labels["verb"]: sample.value for sample in families["apiserver_longrunning_requests"].samples}
    assert watching["WATCH"] >= 1
    objects = {sample.labels["resource"]: sample.value for sample in families["apiserver_storage_objects"].samples}
    assert objects["configmaps"] >= 1
    assert "scanner" not in text


@pytest.mark.slow
def test_an_end_in_good_order(api_etcd: EtcdServer) -> None:
    """Unready at once, answering all the while; watches end as if in time, with the revision to go on from; exit code 0.

    A machine that does not come to asking within the while is given a longer one.
    """
    for delay in (1.0, 30.0):
        with contextlib.closing(ApiServer.start(api_etcd, "--shutdown-delay-duration", f"{delay:g}s")) as server:
            began = time.monotonic()
            try:
                return in_good_order(server)
            except (AssertionError, OSError):
                if time.monotonic() - began < delay or delay > 1:
                    raise


def in_good_order(own: ApiServer) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", own.port, context=own.context(), timeout=60)
    connection.request("GET", f"{SPACE}?watch=1&allowWatchBookmarks=1&labelSelector=none-such")
    watch = connection.getresponse()
    assert watch.status == 200
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.extend(watch))
    reader.start()
    assert own.process
    own.process.terminate()
    until(lambda: own.call("GET", "/readyz").code == 500)
    assert own.call("GET", "/livez").code == 200
    made = own.call("POST", SPACE, {"metadata": {"generateName": "late-"}})
    assert made.code == 201
    reader.join(60)
    (line,) = told
    event = json.loads(line)
    assert event["type"] == "BOOKMARK"
    assert int(event["object"]["metadata"]["resourceVersion"]) >= int(made.body["metadata"]["resourceVersion"])
    assert own.process.wait(60) == 0
    assert "Traceback" not in own.file("log").read_text()


@pytest.mark.slow
def test_certificates_are_read_anew(own: ApiServer) -> None:
    """A new CA signs server and clients: new connections go by it, those of the old CA are strangers, old connections stay."""
    old = http.client.HTTPSConnection("127.0.0.1", own.port, context=own.context())
    old.request("GET", f"{SPACE}?limit=1")
    assert old.getresponse().read()
    before, was = own.context(), serial(own)
    authority = Authority()
    own.file("ca.crt").write_bytes(authority.pair.certificate)
    who = {"server": Identity("kube-apiserver", (), ("127.0.0.1",)), "admin": Identity("admin", ("system:masters",))}
    for name, identity in who.items():
        pair = authority.issue(identity)
        own.file(f"{name}.crt").write_bytes(pair.certificate)
        own.file(f"{name}.key").write_bytes(pair.key)
    until(lambda: serial(own) != was, what="the new certificate")
    assert own.call("GET", f"{SPACE}?limit=1").code == 200
    old.request("GET", f"{SPACE}?limit=1")
    assert old.getresponse().status == 200
    before.check_hostname, before.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(http.client.HTTPSConnection("127.0.0.1", own.port, context=before))


class WithoutCertificates(ApiServer):
    """Told of no certificates but where to keep its own."""

    def argv(self) -> list[str]:
        files = ("--tls", "--client-ca", "--cluster-sign", "--kubelet", str(self.directory))
        return [*(word for word in super().argv() if not word.startswith(files)), "--cert-dir", str(self.file("own"))]


@pytest.mark.slow
def test_a_server_makes_its_own_certificates_and_renews_them_in_time(api_etcd: EtcdServer, tmp_path: Path) -> None:
    """Of a year's third that is left only seconds are, at the start; clients know the CA and notice nothing.

    A machine that takes longer to start a server has more of them.
    """
    for seconds in (8, 90):
        place = tmp_path / str(seconds)
        server, own = WithoutCertificates(api_etcd, place, free_ports(1)[0]), place / "own"
        due = certificates_due(own, seconds)
        server.launch()
        try:
            if until(lambda: serial(server)) != due and seconds == 8:  # noqa: B023
                continue
            (own / "admin.kubeconfig").rename(place / "admin.kubeconfig")
            assert "default" in server.kubectl("get", "namespaces").stdout
            authority = (own / "ca.crt").read_bytes()
            until(lambda: serial(server) != due, seconds=120, what="the new certificate")  # noqa: B023
            assert "default" in server.kubectl("get", "namespaces").stdout
            assert (own / "ca.crt").read_bytes() == authority
            assert all((own / name).stat().st_mode & 0o077 == 0 for name in ("admin.key", "apiserver.key"))
            return
        finally:
            server.close()


def certificates_due(own: Path, seconds: float) -> bytes:
    """A directory of a server's certificates, its own to be renewed in so many seconds, which is told as it will show it."""
    own.mkdir(parents=True)
    authority = Authority()
    names = ("127.0.0.1", "::1", "localhost", socket.gethostname(), "10.96.0.1", "kubernetes", "kubernetes.default",
             "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    due = authority.issue(Identity("kube-apiserver", (), names), datetime.timedelta(seconds=1800 + seconds))  # made an hour ago
    for name, pair in (("ca", authority.pair), ("apiserver", due)):
        (own / f"{name}.crt").write_bytes(pair.certificate)
        (own / f"{name}.key").write_bytes(pair.key)
    return ssl.PEM_cert_to_DER_cert(due.certificate.decode())


def half(server: ApiServer, query: str = "") -> ssl.SSLSocket:
    """A write that has begun and will not come to an end."""
    sock = server.context().wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="127.0.0.1")
    sock.sendall(f"POST {SPACE}{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 "Content-Length: 1000\r\n\r\n{".encode())
    return sock


def seated(server: ApiServer) -> int:
    """How many writes are under way."""
    told = server.call("GET", "/metrics").body
    found = re.search(r'^apiserver_current_inflight_requests\{request_kind="mutating"\} (\d+)', told, re.M)
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_writes_without_an_end_take_the_seats_of_writes_and_no_others(api_etcd: EtcdServer) -> None:
    made = {"metadata": {"generateName": "limited-"}}
    flags = ("--max-mutating-requests-inflight", "3", "--max-requests-inflight", "3")
    with contextlib.closing(ApiServer.start(api_etcd, *flags)) as server:
        with half(server), half(server), half(server):
            until(lambda: seated(server) == 3, what="all seats taken")  # one that came before the last of them would unseat it
            refused = server.call("POST", SPACE, made)
            assert (refused.code, refused.body["reason"], refused.headers["Retry-After"]) == (429, "TooManyRequests", "1")
            assert server.call("GET", f"{SPACE}?limit=1").code == 200
            assert server.call("GET", "/readyz").code == 200
            assert server.call("GET", f"{SPACE}?watch=1&timeoutSeconds=1").code == 200
        until(lambda: server.call("POST", SPACE, made).code == 201)


@pytest.mark.slow
def test_no_request_takes_longer_than_it_or_the_server_says(api_etcd: EtcdServer) -> None:
    with contextlib.closing(ApiServer.start(api_etcd, "--request-timeout", "2s")) as server:
        with half(server) as one, half(server, "?timeout=1s") as two, half(server, "?timeout=1h") as three:
            for slow in (one, two, three):
                assert slow.recv(1000).startswith(b"HTTP/1.1 504 ")
        late = server.call("GET", f"{SPACE}?timeout=nonsense")
        assert (late.code, "timeout" in late.body["message"]) == (400, True)
        assert server.call("GET", f"{SPACE}?limit=1&timeout=5s").code == 200


def ask(connection: http.client.HTTPSConnection) -> None:
    connection.request("GET", f"{SPACE}?limit=1")
    connection.getresponse()


def serial(api: ApiServer) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", api.port)) as raw, context.wrap_socket(raw) as sock:
        found = sock.getpeercert(binary_form=True)
        assert found
        return found


def test_a_client_certificate_is_read_anew_when_it_is_whole(tmp_path: Path) -> None:
    def load() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
        except (OSError, ssl.SSLError) as error:
            raise UserError(str(error)) from None
        return context

    one, two = (Authority().issue(Identity("kube-apiserver")) for _ in range(2))
    (tmp_path / "crt").write_bytes(one.certificate)
    (tmp_path / "key").write_bytes(one.key)
    shown = Certificates(load, (str(tmp_path / "crt"), str(tmp_path / "key")))
    first = shown.current
    assert not shown.look()
    (tmp_path / "crt").write_bytes(two.certificate)
    assert not shown.look(), "the key is still the old one's"
    assert shown.current is first
    (tmp_path / "key").write_bytes(two.key)
    assert shown.look()
    assert shown.current is not first
