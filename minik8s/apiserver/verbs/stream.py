"""Log, exec, attach, port-forward: the client's connection joined to the node's kubelet, byte for byte.

The API server reads the request's head, finds the pod's node, opens TLS to its kubelet with its own certificate, sends the
same request under the kubelet's path, and from there on only carries bytes: WebSocket, SPDY and chunked logs alike. Newer
WebSockets are for itself to translate. Must not know: what the bytes mean. Read next: `handler.py`, `websockets.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import Refused, bad_request
from minik8s.apiserver.verbs.websockets import SPDY, newer, translate
from nodecore.kube.http import web

Object = dict[str, Any]
PATHS = {"log": "containerLogs", "exec": "exec", "attach": "attach", "portforward": "portForward"}
RENAMED = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
LOG_OPTIONS = ("follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes", "stream")
DROPPED = frozenset({"host", "authorization", "content-length", "transfer-encoding", "expect", "accept-encoding"})
CHUNK = 65536
CONNECT_SECONDS = 10
UNREACHABLE = (OSError, TimeoutError, OverflowError, ValueError)  # the last two: a port, a name, that cannot be


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Where a node's kubelet listens."""

    host: str
    port: int

    @property
    def text(self) -> str:
        """As `host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def kubelet_of(node: Object) -> Kubelet:
    """The address of a node's kubelet."""
    status = node.get("status") or {}
    addresses = {each.get("type"): each.get("address") for each in reversed(status.get("addresses") or [])}
    host = addresses.get("InternalIP") or addresses.get("Hostname")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
    if not host:
        raise Refused(500, f"no preferred addresses found for node {node['metadata']['name']!r}; known addresses: []")
    return Kubelet(str(host), int(port))


def checked_kubelet_of(cluster: Cluster, node: Object) -> Kubelet:
    """The same, unless that is an API server: nodes say themselves where they are, and it would take us for who we are."""
    found, kind = kubelet_of(node), BY_PLURAL["endpoints"]
    servers = cluster.cache(kind).get(kind.key("default", "kubernetes"))
    subsets = (servers.object if servers else {}).get("subsets") or ()
    if found.port in {port.get("port") for each in subsets for port in each.get("ports") or ()}:
        raise bad_request("address not allowed")
    return found


def container_of(pod: Object, wanted: str) -> str:
    """The container meant: the one named, the annotated default, or the only one."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = [each["name"] for each in spec.get("containers") or []]
    others = [each["name"] for part in ("initContainers", "ephemeralContainers") for each in spec.get(part) or []]
    if wanted:
        if wanted not in (*names, *others):
            raise bad_request(f"container {wanted[:100]} is not valid for pod {name}")
        return wanted
    if len(names) != 1:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join([*names, *others])}]")
    return str(names[0])


def upstream(call: Call, query: list[tuple[str, str]], pod: Object) -> str:
    """The path and query under which the kubelet knows the request."""
    sub, meta = call.target.subresource, pod["metadata"]
    parts = [PATHS[sub], meta["namespace"], meta["name"]]
    if sub == "portforward":
        kept = [("port", value) for key, value in query if key in ("port", "ports")]
    else:
        parts.append(container_of(pod, call.query.get("container", "")))
        if sub == "log":
            kept = [(key, value) for key, value in query if key in LOG_OPTIONS]
        else:
            kept = [(key, value) for key, value in query if key == "command"]
            kept += [(short, "1") for name, short in RENAMED.items() if truthy(call.query.get(name, ""))]
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(kept)}" if kept else path


async def carry(cluster: Cluster, call: Call, request: web.BaseRequest, context: ssl.SSLContext | None) -> web.StreamResponse:
    """Answer the request with whatever the pod's kubelet answers."""
    pod = await cluster.get(call.kind, call.target.namespace, call.target.name)
    node_name = pod["spec"].get("nodeName")
    path = upstream(call, list(request.rel_url.query.items()), pod)
    if not node_name:
        if call.target.subresource == "log":
            raise Refused(400, f"pod {call.target.name} does not have a host assigned")
        raise bad_request(f"pod {call.target.name} does not have a host assigned")
    kubelet = checked_kubelet_of(cluster, await cluster.get(BY_PLURAL["nodes"], "", node_name))
    reader, writer = await _connect(kubelet, context)
    try:
        if protocol := newer(request, call.target.subresource):
            writer.write(_spdy_head(kubelet, path, SPDY[protocol]))
            await _good_head(kubelet, reader)
            return await translate(request, protocol, reader, writer)
        writer.write(_head(request, kubelet, path, upgrade=call.target.subresource != "log"))
        await writer.drain()
        if call.target.subresource == "log":
            assert isinstance(request.transport, asyncio.Transport)
            request.transport.write(await _good_head(kubelet, reader))
        await join(request, reader, writer)
    finally:
        writer.transport.abort()
    return web.StreamResponse()


async def _good_head(kubelet: Kubelet, reader: asyncio.StreamReader) -> bytes:
    """The head of a kubelet's answer; what it refuses is refused in its words."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        code = int(head.split(maxsplit=2)[1])
        if code < 300:
            return head
        async with asyncio.timeout(CONNECT_SECONDS):
            body = await reader.read(CHUNK)
            while len(body) < CHUNK and (more := await reader.read(CHUNK)):
                body += more
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError, ValueError, IndexError) as error:
        raise Refused(500, f'Get "https://{kubelet.text}": {error or "timed out"}') from None
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(body.split(b"\r\n")[1::2])
    raise Refused(code if code in (400, 403, 404, 429) else 500, body.decode(errors="replace").strip()[:CHUNK])


async def _connect(kubelet: Kubelet, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if context is None:
        raise Refused(500, "this server was started without --kubelet-client-certificate: it cannot reach kubelets")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(kubelet.host, kubelet.port, ssl=context, server_hostname=kubelet.host)
    except UNREACHABLE as error:
        why = str(error) or "timed out"
        raise Refused(500, f"Get \"https://{kubelet.text}\": {why}") from None


def _head(request: web.BaseRequest, kubelet: Kubelet, path: str, *, upgrade: bool) -> bytes:
    lines = [f"{request.method} {path} HTTP/1.1".encode(), f"Host: {kubelet.text}".encode()]
    for name, value in request.raw_headers:
        lower = name.decode("latin-1").lower()
        if lower not in DROPPED and (upgrade or lower not in ("connection", "upgrade")):
            lines.append(name + b": " + value)
    if not upgrade:
        lines.append(b"Connection: close")
    if request.method == "POST":
        lines.append(b"Content-Length: 0")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _spdy_head(kubelet: Kubelet, path: str, protocol: str) -> bytes:
    return (f"POST {path} HTTP/1.1\r\nHost: {kubelet.text}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n").encode()


class _Taken(asyncio.Protocol):
    """The client's side of a connection taken from the HTTP server: hands on what it receives, minds what it can send."""

    def __init__(self, to: asyncio.StreamWriter) -> None:
        self._to = to
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = asyncio.Event()
        self._open.set()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self._to.write(data)

    def eof_received(self) -> bool:
        """The client will send no more."""
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if not self.closed.done():
            self.closed.set_result(None)
        self._open.set()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._open.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._open.set()

    async def drained(self) -> None:
        """Wait until the client can take more."""
        await self._open.wait()


async def join(request: web.BaseRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes both ways until either side ends."""
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    taken = _Taken(writer)
    transport.set_protocol(taken)
    transport.resume_reading()

    async def back() -> None:
        while data := await reader.read(CHUNK):
            transport.write(data)
            await taken.drained()

    returning = asyncio.create_task(back(), name="stream back")
    try:
        await asyncio.wait((returning, taken.closed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        returning.cancel()
        await asyncio.gather(returning, return_exceptions=True)
        transport.close()
