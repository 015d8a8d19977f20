"""The proxy subresource of pods, services and nodes: where a request goes, and its way there and back.

    pods/[https:]NAME[:PORT]/proxy/PATH        the pod's address; without a port its first container port
    services/[https:]NAME[:PORT]/proxy/PATH    a ready endpoint of that port, by name or number
    nodes/[https:]NAME[:PORT]/proxy/PATH       the kubelet, as ourselves; or another port of the node

The credentials of the client stay here. The answer is carried as it comes, upgrades too. An address that can only be ours
(loopback, link-local and the like) is refused, but for a kubelet, which has to show its certificate.
Must not know: what is asked. Read next: `stream.py`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from dataclasses import dataclass
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.status import Refused, bad_request
from minik8s.apiserver.verbs.stream import CONNECT_SECONDS, DROPPED, UNREACHABLE, Kubelet, checked_kubelet_of, join
from nodecore.kube.http import web
from nodecore.net import read_address

Object = dict[str, Any]
KUBELET_PORT = "10250"
SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Named:
    """What the name in the URL says."""

    name: str
    scheme: str = ""
    port: str = ""


def read_name(text: str) -> Named:
    """Read `name`, `name:port` or `scheme:name:port`."""
    parts = text.split(":")
    if len(parts) == 1:
        return Named(text)
    if len(parts) == 2:
        return Named(parts[0], "", parts[1])
    if len(parts) == 3 and parts[0] in ("http", "https", ""):
        return Named(parts[1], parts[0], parts[2])
    raise bad_request(f"invalid {text[:100]!r}: must be name, name:port or scheme:name:port")


def port_of_pod(pod: Object, wanted: str) -> int:
    """The port meant: a number, a container port's name, or the first there is."""
    if wanted.isdecimal():
        return int(wanted)
    ports = [port for container in pod["spec"].get("containers") or [] for port in container.get("ports") or []]
    for port in ports:
        if not wanted or port.get("name") == wanted:
            return int(port["containerPort"])
    if wanted:
        raise bad_request(f"pod {pod['metadata']['name']} has no port called {wanted[:63]!r}")
    return 80


def endpoint_of(service: Object, slices: list[Object], wanted: str) -> Kubelet:
    """A ready endpoint of the service's port meant; 503 where there is none."""
    name, ports = service["metadata"]["name"], service["spec"].get("ports") or []
    if not wanted and len(ports) > 1:
        raise Refused(503, f'no endpoints available for service "{name}"')
    found = [port for port in ports if not wanted or wanted in (port.get("name"), str(port["port"]))]
    if not found:
        raise Refused(503, f'no service port "{wanted[:63]}" found for service "{name}"')
    choices = [
        Kubelet(endpoint["addresses"][0], port["port"])
        for each in slices for port in each.get("ports") or []
        if port.get("port") and (port.get("name") or "") == (found[0].get("name") or "")
        for endpoint in each.get("endpoints") or [] if (endpoint.get("conditions") or {}).get("ready", True)
    ]
    if not choices:
        raise Refused(503, f'no endpoints available for service "{name}"')
    return random.choice(choices)


def allowed(address: str) -> bool:
    """Whether a pod or an endpoint may be at this address."""
    try:
        found = read_address(address)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    return not (found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified)


async def proxy(cluster: Cluster, call: Call, request: web.BaseRequest, kubelets: ssl.SSLContext | None) -> web.StreamResponse:
    """Send the request on and carry what is answered."""
    target, named = call.target, read_name(call.target.name)
    context, kubelet = None, False
    if named.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as the original: nobody knows its CA
    found = await cluster.get(call.kind, target.namespace, named.name)
    if target.plural == "nodes":
        place = checked_kubelet_of(cluster, found)
        kubelet = named.port in ("", KUBELET_PORT, str(place.port))
        if kubelet:
            context = kubelets
            if context is None:
                raise Refused(500, "this server was started without --kubelet-client-certificate: it cannot reach kubelets")
        else:
            place = Kubelet(place.host, _number(named.port))
    elif target.plural == "pods":
        place = Kubelet(str((found.get("status") or {}).get("podIP") or ""), port_of_pod(found, named.port))
        if not place.host:
            raise bad_request(f"pod {named.name} has no address yet")
    else:
        place = endpoint_of(found, await _slices(cluster, target.namespace, named.name), named.port)
    if not kubelet and not allowed(place.host):
        raise bad_request("address not allowed")
    await _carry(request, place, target.rest or "/", context)
    return web.StreamResponse()


async def _slices(cluster: Cluster, namespace: str, service: str) -> list[Object]:
    kind = BY_PLURAL["endpointslices"]
    cache = cluster.cache(kind)
    await cache.ready()
    objects = [entry.object for entry in cache.snapshot(kind.folder(namespace)).entries]
    return [obj for obj in objects if (obj["metadata"].get("labels") or {}).get(SERVICE_NAME) == service]


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise bad_request(f"{text[:20]!r} is not a port")
    return int(text)


async def _carry(request: web.BaseRequest, place: Kubelet, path: str, context: ssl.SSLContext | None) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(place.host, place.port, ssl=context,
                                                           server_hostname=place.host if context else None)
    except UNREACHABLE as error:
        raise Refused(503, f"error trying to reach service: dial tcp {place.text}: {error or 'timed out'}") from None
    try:
        writer.write(_head(request, place, path))
        async for chunk in request.content.iter_any():
            writer.write(chunk if request.content_length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
        if request.body_exists and request.content_length is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        answer = closing(await reader.readuntil(b"\r\n\r\n"))
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(answer)
        await join(request, reader, writer)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        raise Refused(503, f"error trying to reach service: {place.text}: {error}") from None
    finally:
        writer.transport.abort()


def closing(head: bytes) -> bytes:
    """The head of an answer that is the connection's last, and says so; an upgrade stays as it is."""
    first, *lines = head[:-4].split(b"\r\n")
    if first.split(b" ")[1:2] == [b"101"]:
        return head
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in (b"connection", b"keep-alive")]
    return b"\r\n".join([first, *kept, b"Connection: close"]) + b"\r\n\r\n"


def _head(request: web.BaseRequest, place: Kubelet, path: str) -> bytes:
    upgrade = "upgrade" in request.headers.get("Connection", "").lower()
    query = request.raw_path.partition("?")[2]
    lines = [f"{request.method} {path}{'?' if query else ''}{query} HTTP/1.1".encode(), f"Host: {place.text}".encode()]
    for name, value in request.raw_headers:
        lower = name.decode("latin-1").lower()
        if lower not in DROPPED and not lower.startswith("impersonate-") and (upgrade or lower not in ("connection", "upgrade")):
            lines.append(name + b": " + value)
    if not upgrade:
        lines.append(b"Connection: close")
    if request.content_length is not None:
        lines.append(f"Content-Length: {request.content_length}".encode())
    elif request.body_exists:
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"
