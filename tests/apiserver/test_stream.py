"""Log, exec and port-forward against a kubelet made of a TLS socket, which shows what reached it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from minik8s.apiserver.verbs.websockets import ERROR, RESIZE, STDIN, STDOUT, Streams, wanted
from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
PODS = "/api/v1/namespaces/default/pods"


@dataclass
class FakeKubelet:
    """Answers a request's head with `reply`, then sends back what `turn` makes of whatever comes: capitals."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    reply: bytes = b""
    turn: Callable[[bytes], bytes] = bytes.upper


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
                    sock.sendall(made.turn(data))

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


def test_new_websockets_become_spdy() -> None:
    """Streams are opened with odd numbers, under headers that inflate without a dictionary; 255 ends one of them."""
    streams = Streams(wanted({"stdin": "true", "stdout": "1", "stderr": "true", "tty": "true"}))
    assert streams.channels == {1: ERROR, 3: STDIN, 5: STDOUT, 7: RESIZE}
    inflate, rest, names = zlib.decompressobj(), streams.opening, []
    while rest:
        control, kind, length, number, beside, priority = struct.unpack(">HHIIIH", rest[:18])
        assert (control, kind, number in streams.channels, beside, priority) == (0x8003, 1, True, 0, 0)
        headers, rest = inflate.decompress(rest[18:8 + length]), rest[8 + length:]
        assert headers.startswith(b"\0\0\0\1\0\0\0\x0astreamtype\0\0\0")
        names.append(headers[22:].decode())
    assert names == ["error", "stdin", "stdout", "resize"]
    assert streams.sent(b"\0abc") == b"\0\0\0\x03\0\0\0\x03abc"
    assert streams.sent(b"\xff\0") == b"\0\0\0\x03\x01\0\0\0"
    for nothing in (b"\0", b"\x01abc", b"\x02abc", b"\x09abc", b"\xff", b"\xff\x01", b"\xff\x09"):
        assert streams.sent(nothing) == b""


async def test_a_new_websocket_and_a_kubelet_that_speaks_spdy(api: ApiServer, kubelet: FakeKubelet) -> None:
    opening, got = Streams(wanted({"stdin": "1", "stdout": "1"})).opening, bytearray()
    ping = b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x02"

    def turn(data: bytes) -> bytes:
        """What comes on stdin, on stdout; then the end, as an error stream tells it."""
        got.extend(data)
        return b"\0\0\0\x05\0\0\0\x03ABC" + b"\0\0\0\x01\0\0\0\x02{}" if got.endswith(b"\x03abc") else b""

    kubelet.reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n" + ping
    kubelet.turn = turn
    url = f"{api.url}{PODS}/s/exec?command=cat&stdout=true&stdin=true"
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, protocols=("v5.channel.k8s.io",), ssl=api.context()) as ws:
            assert ws.protocol == "v5.channel.k8s.io"
            assert await ws.receive_bytes(timeout=60) == b"\x01"
            await ws.send_bytes(b"\0abc")
            assert [await ws.receive_bytes(timeout=60) for _ in range(2)] == [b"\x01ABC", b"\x03{}"]
        assert bytes(got).replace(ping, b"") == opening + b"\0\0\0\x03\0\0\0\x03abc"
        assert ping in got
        head = kubelet.heads[-1].decode()
        assert head.startswith("POST /exec/default/s/c?command=cat&")
        assert "X-Stream-Protocol-Version: v4.channel.k8s.io" in head
        kubelet.turn = bytes.upper
        tunnel = "SPDY/3.1+portforward.k8s.io"
        async with session.ws_connect(f"{api.url}{PODS}/s/portforward", protocols=(tunnel,), ssl=api.context()) as ws:
            assert (ws.protocol, await ws.receive_bytes(timeout=60)) == (tunnel, ping)
            await ws.send_bytes(b"a" * 100_000)
            received = b""
            while len(received) < 100_000:
                received += await ws.receive_bytes(timeout=60)
            assert received == b"A" * 100_000
        assert "X-Stream-Protocol-Version: portforward.k8s.io" in kubelet.heads[-1].decode()
        kubelet.reply = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, protocols=("v5.channel.k8s.io",), ssl=api.context())
        assert refused.value.status == 404


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
