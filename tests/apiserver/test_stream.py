"""Log, exec and port-forward against a kubelet made of a TLS socket, which shows what reached it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
PODS = "/api/v1/namespaces/default/pods"


@dataclass
class FakeKubelet:
    """Answers a request's head with `reply`, then sends back whatever comes, in capitals."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    reply: bytes = b""


@pytest.fixture
def kubelet(api: ApiServer) -> Iterator[FakeKubelet]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(api.file("ca.crt")))
    context.load_cert_chain(api.file("node.crt"), api.file("node.key"))
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    made = FakeKubelet(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with context.wrap_socket(raw, server_side=True) as sock:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(65536)
                made.heads.append(head)
                sock.sendall(made.reply)
                if b"101" not in made.reply[:20]:
                    continue
                while data := sock.recv(65536):
                    sock.sendall(data.upper())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
              "daemonEndpoints": {"kubeletEndpoint": {"Port": made.port}}}
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "stream-node"}, "status": status})
    for name, containers in (("s", ["c"]), ("two", ["a", "b"])):
        spec = {"nodeName": "stream-node", "containers": [{"name": each, "image": "x"} for each in containers]}
        assert api.call("POST", PODS, {"metadata": {"name": name}, "spec": spec}).code == 201
    yield made
    listener.close()
    for name in ("s", "two"):
        api.call("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
    api.call("DELETE", "/api/v1/nodes/stream-node")


def upgraded(api: ApiServer, request: str) -> tuple[ssl.SSLSocket, bytes]:
    sock = api.context().wrap_socket(socket.create_connection(("127.0.0.1", api.port), timeout=60), server_hostname="127.0.0.1")
    sock.sendall(request.encode())
    head = b""
    while b"\r\n\r\n" not in head:
        received = sock.recv(65536)
        assert received, head
        head += received
    return sock, head


def echoed(sock: ssl.SSLSocket, data: bytes) -> bytes:
    """Send and receive at once, from one thread: a TLS socket of this Python is not to be used by two."""
    sent, got = 0, b""
    sock.setblocking(False)
    while len(got) < len(data):
        ready, writable, _ = select.select([sock], [sock] if sent < len(data) else [], [], 60)
        assert ready or writable, f"{len(got)} of {len(data)} bytes came back"
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if writable:
                sent += sock.send(data[sent : sent + 16384])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            received = sock.recv(65536)
            assert received, f"closed after {len(got)} of {len(data)} bytes"
            got += received
    return got


@pytest.mark.parametrize(("method", "protocol", "extra"), [
    ("GET", "websocket", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                         "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"),
    ("POST", "SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n"),
])
def test_upgrades_are_carried(api: ApiServer, kubelet: FakeKubelet, method: str, protocol: str, extra: str) -> None:
    kubelet.reply = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n".encode()
    path = f"{PODS}/s/exec?command=ls&command=-l&stdout=true&stdin=true"
    start = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    sock, head = upgraded(api, f"{start}Upgrade: {protocol}\r\n{extra}\r\n")
    with sock:
        assert head.startswith(b"HTTP/1.1 101")
        sent = kubelet.heads[-1].decode()
        assert sent.startswith(f"{method} /exec/default/s/c?command=ls&command=-l&")
        assert "input=1" in sent
        assert "output=1" in sent
        assert f"Upgrade: {protocol}" in sent
        for size in (1, 1000, 300_000):
            assert echoed(sock, b"a" * size) == b"A" * size


def test_logs(api: ApiServer, kubelet: FakeKubelet) -> None:
    kubelet.reply = (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                     b"6\r\nhello\n\r\n0\r\n\r\n")
    assert api.kubectl("logs", "s", "--tail=3").stdout == "hello\n"
    assert kubelet.heads[-1].startswith(b"GET /containerLogs/default/s/c?tailLines=3 HTTP/1.1\r\n")
    for refusal in (b"Content-Length: 7\r\n\r\nnot yet", b"Transfer-Encoding: chunked\r\n\r\n7\r\nnot yet\r\n0\r\n\r\n"):
        kubelet.reply = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n" + refusal
        told = api.kubectl("logs", "s", check=False)
        assert (told.returncode, told.stderr) == (1, "Error from server (BadRequest): not yet\n")
    message = api.call("GET", f"{PODS}/two/log").body["message"]
    assert message == "a container name must be specified for pod two, choose one of: [a b]"
    assert api.call("GET", f"{PODS}/s/log?container=other").code == 400
    assert api.call("GET", f"{PODS}/none/log").code == 404


def test_a_kubelet_that_is_not_there(api: ApiServer, kubelet: FakeKubelet) -> None:
    api.call("PATCH", "/api/v1/nodes/stream-node/status", {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}},
             content="application/merge-patch+json")
    answer = api.call("GET", f"{PODS}/s/log")
    assert (answer.code, answer.body["kind"]) == (500, "Status")
    assert api.call("GET", f"{PODS}/s/exec?command=x").code == 400
