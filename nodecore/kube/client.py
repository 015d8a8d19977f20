"""A client of the Kubernetes API: the verbs, a watch, and foreign errors made ours.

Objects go out as dicts and come back as dicts, or as the msgspec Struct asked for with `into` (only the fields
it names are decoded). Every call may raise `nodecore.errors`: NotFound 404, AlreadyExists and Conflict 409,
Expired 410, Invalid 400/415/422, Denied 401/403, Busy 429, Unreachable for the network and 5xx.

Must not know: what the objects mean. Read next: `nodecore/kube/informer.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from nodecore import errors
from nodecore.files import look
from nodecore.kube.answers import Status, decoded, error_of
from nodecore.kube.config import KubeConfig
from nodecore.kube.http import aiohttp
from nodecore.kube.resource import Resource

T = TypeVar("T")
log = logging.getLogger(__name__)
Body = dict[str, Any]
MERGE, STRATEGIC, JSON_PATCH = "merge-patch", "strategic-merge-patch", "json-patch"
LOOK_SECONDS = 5.0  # between two looks at the files with our credentials
LINE_LIMIT = 64 * 1024 * 1024
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
WATCH_GRACE = 30  # seconds a watch may outlive the timeout it asked the server for
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))  # a dead peer shows in 25 s


class Meta(msgspec.Struct, rename="camel"):
    """The part of ListMeta and ObjectMeta that reading a stream needs."""

    resource_version: str = ""
    name: str = ""
    namespace: str = ""


class _Versioned(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)


class _ListHead(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    metadata: Meta = msgspec.field(default_factory=Meta)


class _EventHead(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that is not of the type asked for: its `namespace/name`, as far as that can be read, and what is wrong."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[T]):
    """A list as it stood at `version`."""

    items: list[T]
    version: str
    unreadable: list[Unreadable] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """`ADDED`, `MODIFIED`, `DELETED`, or `BOOKMARK` (whose object is None), and the version it happened at."""

    type: str
    object: T | None
    version: str
    unreadable: Unreadable | None = None


class KubeClient:
    """One API server, one identity, pooled connections. Use as an async context manager."""

    def __init__(self, config: KubeConfig, *, user_agent: str = "flanneld-py") -> None:
        self.config = config
        self._agent = user_agent
        self._http: aiohttp.ClientSession | None = None
        self._before: aiohttp.ClientSession | None = None  # with the credentials of before: its watches go on until they end
        self.on_answer: Callable[[str, str], None] = lambda method, code: None  # the code `<error>`: none came
        self._looked, self._seen = 0.0, list(map(look, config.files))

    async def __aenter__(self) -> KubeClient:
        self._http = self._session(self.config)
        return self

    def _session(self, config: KubeConfig) -> aiohttp.ClientSession:
        context = config.ssl_context()
        connector = aiohttp.TCPConnector(limit=0, ssl=context if context else True, socket_factory=_keepalive_socket)
        return aiohttp.ClientSession(connector=connector, headers={"User-Agent": self._agent})

    async def _renew(self) -> None:
        """Take what has become of the files with our credentials; while they do not fit one another, go on with the old."""
        now = time.monotonic()
        if not self._http or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if (seen := list(map(look, self.config.files))) == self._seen:
            return
        self._seen = seen
        try:
            config = self.config.renewed()
            if config == self.config:
                return
            fresh = self._session(config)
        except errors.UserError as error:
            log.warning("%s; going on with the credentials of before", error)
            return
        log.info("the credentials for API %s are new", config.server)
        ended, self._before = self._before, self._http
        self.config, self._http = config, fresh
        if ended:
            await ended.close()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        for session in (self._http, self._before):
            if session:
                await session.close()
        self._http = self._before = None

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, into: Any = dict,
                  subresource: str | None = None) -> Any:
        """Read one object."""
        return decoded(await self._call("GET", resource.path(namespace, name, subresource)), into)

    async def list(self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = "",
                   into: Any = dict, version: str = "", strict: bool = True) -> ObjectList[Any]:
        """Read all objects that match the label and field selectors; if not `strict`, what cannot be read is set apart."""
        query = _query(labelSelector=labels, fieldSelector=fields, resourceVersion=version)
        head = decoded(await self._call("GET", resource.path(namespace), query=query), _ListHead)
        found: ObjectList[Any] = ObjectList([], head.metadata.resource_version)
        for raw in head.items or []:
            item = _read(raw, into)
            if not isinstance(item, Unreadable):
                found.items.append(item)
            elif strict:
                raise errors.Invalid(f"{resource.plural} {item.key}: {item.reason}")
            else:
                found.unreadable.append(item)
        return found

    async def create(self, resource: Resource, body: Body, namespace: str | None = None, *,
                     subresource: str | None = None, name: str | None = None) -> Any:
        """Make an object (or post to a subresource such as `binding`)."""
        return decoded(await self._call("POST", resource.path(namespace, name, subresource), body=body), dict)

    async def replace(self, resource: Resource, body: Body, *, subresource: str | None = None) -> Any:
        """Put a whole object; its `metadata.resourceVersion`, where there is one, must still be the current one."""
        meta = body["metadata"]
        path = resource.path(meta.get("namespace"), meta["name"], subresource)
        return decoded(await self._call("PUT", path, body=body), dict)

    async def patch(self, resource: Resource, name: str, body: Any, namespace: str | None = None, *,
                    kind: str = MERGE, subresource: str | None = None) -> Any:
        """Change part of an object by a merge, strategic merge or JSON patch."""
        path = resource.path(namespace, name, subresource)
        return decoded(await self._call("PATCH", path, body=body, content=f"application/{kind}+json"), dict)

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, *, grace: int | None = None,
                     propagation: str = "", uid: str = "") -> None:
        """Ask for an object's deletion; `grace` in seconds; `uid` guards against deleting its successor."""
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if propagation:
            options["propagationPolicy"] = propagation
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._call("DELETE", resource.path(namespace, name), body=options)

    async def raw(self, path: str) -> bytes:
        """GET any path."""
        return await self._call("GET", path)

    async def watch(self, resource: Resource, version: str, namespace: str | None = None, *, labels: str = "",
                    fields: str = "", into: Any = dict, timeout: int = 300) -> AsyncIterator[WatchEvent[Any]]:
        """Stream what happens after `version`; ends when the server ends it. Raises `Expired` when it is too old.

        Of an object that cannot be read, the event has None and says so in `unreadable`.
        """
        query = _query(labelSelector=labels, fieldSelector=fields, resourceVersion=version, watch="true",
                       allowWatchBookmarks="true", timeoutSeconds=str(timeout))
        limit = aiohttp.ClientTimeout(total=timeout + WATCH_GRACE, sock_connect=5)
        await self._renew()
        answered = False
        try:
            async with self._request("GET", resource.path(namespace), query, None, "", limit) as response:
                answered = True
                self.on_answer("GET", str(response.status))
                if response.status >= 400:
                    raise error_of(response.status, await response.read())
                async for line in _lines(response.content):
                    yield _event(line, into)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not answered:
                self.on_answer("GET", "<error>")
            raise errors.Unreachable(f"watch of {resource.plural} broke: {error or type(error).__name__}") from None

    async def _call(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None,
                    content: str = "application/json") -> bytes:
        await self._renew()
        try:
            async with self._request(method, path, query, body, content, TIMEOUT) as response:
                self.on_answer(method, str(response.status))
                data: bytes = await response.read()
                if response.status >= 400:
                    raise error_of(response.status, data)
                return data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.on_answer(method, "<error>")
            raise errors.Unreachable(f"API {self.config.server}: {error or type(error).__name__}") from None

    def _request(self, method: str, path: str, query: Mapping[str, str] | None, body: Any, content: str,
                 timeout: aiohttp.ClientTimeout) -> Any:
        if self._http is None:
            raise errors.Bug("KubeClient used outside `async with`")
        headers = {"Accept": "application/json"}
        token = self.config.bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            headers["Content-Type"] = content
        url = self.config.server + quote(path)
        return self._http.request(method, url, params=query, data=data, headers=headers, timeout=timeout)


def _keepalive_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a peer that vanished without a word, which a quiet watch would not."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split a watch into its JSON lines, of any length up to LINE_LIMIT."""
    buffer = bytearray()
    async for chunk in stream.iter_any():
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            buffer += chunk[start:end]
            if buffer.strip():
                yield bytes(buffer)
            buffer.clear()
            start = end + 1
        buffer += chunk[start:]
        if len(buffer) > LINE_LIMIT:
            raise errors.Invalid("watch event larger than 64 MiB")


def _event(line: bytes, into: Any) -> WatchEvent[Any]:
    head = decoded(line, _EventHead)
    if head.type == "ERROR":
        status = decoded(head.object, Status)
        raise error_of(status.code or 500, bytes(head.object))
    version = _meta(head.object).resource_version
    item = None if head.type == "BOOKMARK" else _read(head.object, into)
    if isinstance(item, Unreadable):
        return WatchEvent(head.type, None, version, item)
    return WatchEvent(head.type, item, version)


def _read(raw: msgspec.Raw, into: Any) -> Any:
    """The object, or the `Unreadable` that tells why not."""
    try:
        return msgspec.json.decode(raw, type=into)
    except msgspec.DecodeError as error:
        meta = _meta(raw)
        return Unreadable(f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name or "?", str(error))


def _meta(raw: msgspec.Raw) -> Meta:
    try:
        return msgspec.json.decode(raw, type=_Versioned).metadata
    except msgspec.DecodeError:
        return Meta()


def _query(**values: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


async def wait_reachable(client: KubeClient, *, path: str = "/readyz", pause: float = 0.1) -> None:
    """Wait until the API answers `path`."""
    while True:
        try:
            await client.raw(path)
        except (errors.Unreachable, errors.Busy):
            await asyncio.sleep(pause)
        else:
            return
