"""The rim: one HTTP request in, one answer out; who, what, may they, do it; every error a Status, none lost.

    paths that are no resource   health, version, discovery, OpenAPI, metrics     documents.py
    resources                    the verb's function                              dispatch.py
    watch, log, exec ...         streams that hold the connection                 watching.py, stream.py

Read next: `request/routes.py`, `verbs/dispatch.py`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from minik8s.apiserver import documents
from minik8s.apiserver.auth.authenticate import NOBODY
from minik8s.apiserver.auth.authorize import Attributes, User
from minik8s.apiserver.auth.guard import Guard
from minik8s.apiserver.auth.questions import attributes
from minik8s.apiserver.certificates import Certificates
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.connections import forget_heads, respond
from minik8s.apiserver.health import Health
from minik8s.apiserver.kinds.catalogue import BY_RESOURCE, REVIEW_BY_RESOURCE
from minik8s.apiserver.kinds.registry import refusal as not_served
from minik8s.apiserver.request import bodies, routes
from minik8s.apiserver.request.audit import Audit
from minik8s.apiserver.request.call import Call, refusal
from minik8s.apiserver.request.rates import Rates
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.seats import READING, Limits, Seats, patience, vital
from minik8s.apiserver.request.status import Refused, method_not_allowed, no_such_path, of
from minik8s.apiserver.verbs.dispatch import Dispatch
from minik8s.apiserver.verbs.proxying import proxy
from minik8s.apiserver.verbs.stream import PATHS as STREAMS
from minik8s.apiserver.verbs.stream import carry
from minik8s.apiserver.verbs.watching import Watching
from nodecore.kube.http import web
from nodecore.loop.rounds import Rounds
from nodecore.loop.wakeup import Wakeup

log = logging.getLogger(__name__)
BODY_SECONDS = 30
BEGUN = 16  # lists and writes in one round of the event loop


class Handler:
    """Answers the requests of one server."""

    def __init__(self, cluster: Cluster, health: Health, guard: Guard, kubelets: Certificates | None, address: str,
                 audit: Audit | None = None, limits: Limits = Limits()) -> None:  # noqa: B008
        self._cluster, self._health, self._guard, self._kubelets = cluster, health, guard, kubelets
        self._dispatch = Dispatch(cluster, guard)
        self._address, self._metrics = address, health.metrics
        self._watchings: set[Watching] = set()
        self._ended = Wakeup()
        self._audit, self._limit = audit, limits.seconds
        self._reads, self._writes = Seats(limits.reads), Seats(limits.writes)
        self._rates = Rates(limits.user_rate, limits.anonymous_rate, self._metrics.rejected)
        self._begun = Rounds(BEGUN)
        self._streams: set[asyncio.Task[Any]] = set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path, _, _ = request.raw_path.partition("?")
        target = routes.parse(path)
        verb = routes.verb(request.method, target, request.query) if target else request.method.lower()
        began = time.monotonic()
        code = 500
        response: web.StreamResponse | None = None
        try:
            found = await self._answer(request, path, target, verb)
            response = await self._watch(request, found) if isinstance(found, Call) else found
            code = response.status
        except asyncio.CancelledError:
            code = 499
            raise
        except Exception as error:  # the rim: whatever it is, the client gets a Status
            refused = of(error)
            code = refused.code
            if refused.code == 500 and not isinstance(error, Refused):
                log.exception("%s %s", request.method, path)
            response = respond(refusal(refused, request.headers.get("Accept", "")))
        finally:
            if self._audit:
                self._write_down(self._audit, request, Attributes(verb, path=path) if target is None else
                                 attributes(verb, target, request.query), code, response)
            known = target and self._cluster.registry.find((target.group, target.version, target.plural))
            self._metrics.answered(verb, target if known else None, code, time.monotonic() - began)
        return response

    def _write_down(self, audit: Audit, request: web.BaseRequest, asked: Attributes, code: int,
                    response: web.StreamResponse | None) -> None:
        about = {"source": request.remote or "", "agent": request.headers.get("User-Agent", ""), "sent": request.get("sent"),
                 "answered": response.body if isinstance(response, web.Response) else None}
        try:
            audit.note(request.get("user", NOBODY), asked, request.raw_path, code, about)
        except OSError as error:
            log.error("audit log: %s", error)

    async def _answer(self, request: web.BaseRequest, path: str, target: Target | None, verb: str) -> web.StreamResponse | Call:
        """The answer; or the call for a watch, begun by who awaits this: ten thousand of them hold on to all they are in."""
        user = request["user"] = await self._who(request, target)
        await self._guard.permit(user, attributes(verb, target, request.query) if target else Attributes(verb, path=path))
        if target is None:
            found = await documents.document(request, path, self._health, self._cluster.registry, self._address,
                                             self._guard.accounts)
            if found is None:
                raise no_such_path()
            return respond(found)
        return await self._resource(request, target, verb, user)

    async def _who(self, request: web.BaseRequest, target: Target | None) -> User:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        try:
            user = await self._guard.user(certificate, request.headers)
            self._rates.count(user, target, request.remote or "", time.monotonic())
        except Refused as refused:
            if refused.code == 401:
                self._rates.count_stranger(request.remote or "", time.monotonic())
            raise
        return user

    async def _resource(self, request: web.BaseRequest, target: Target, verb: str, user: User) -> web.StreamResponse | Call:
        place = (target.group, target.version, target.plural)
        content = request.headers.get("Content-Type", "")
        review = REVIEW_BY_RESOURCE.get(place)
        if review and not target.name and bool(target.namespace) == review.resource.namespaced:
            if verb != "create":
                raise method_not_allowed()
            async def reviewed() -> web.StreamResponse:
                return respond(await self._dispatch.review(review, await _body(request), content, user, target.namespace))

            return await self._seated(verb, user, target, request.query, reviewed)
        if place == ("", "v1", "bindings") and verb == "create" and target.namespace:
            kind = BY_RESOURCE["", "v1", "pods"]
        else:
            found = self._cluster.registry.find(place)
            if found is None or (target.namespace and not found.resource.namespaced):
                raise no_such_path(not_served(target.group, target.plural))
            kind = found
        call = Call(kind, target, verb, request.query, user, content=content, accept=request.headers.get("Accept", ""),
                    agent=request.headers.get("User-Agent", ""))
        if target.subresource == "proxy" and kind.sub("proxy"):
            return await self._held(proxy(self._cluster, call, request, self._kubelet_tls))
        if target.subresource in STREAMS and kind.sub(target.subresource):
            return await self._stream(request, call)
        if verb == "watch":
            if verb not in kind.verbs:
                raise method_not_allowed()
            return call
        return await self._seated(verb, user, target, request.query, partial(self._whole, request, call))

    async def _seated(self, verb: str, user: User, target: Target, query: Mapping[str, str],
                      work: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """An answer in one piece, if there is a seat, and in time."""
        seats, seconds = self._reads if verb in READING else self._writes, patience(query, self._limit)
        if not seats.take(user, target):
            self._metrics.rejected["concurrency-limit"] += 1
            raise Refused(429, "too many requests, please try again later")
        self._metrics.begin(verb)
        try:
            async with asyncio.timeout(seconds) as limit:
                if verb != "get" and not vital(user, target):
                    await self._begun.turn()
                return await work()
        except TimeoutError:
            if not limit.expired():
                raise
            why = "Timeout: request did not complete within the allotted timeout"
            raise Refused(504, why, reason="Timeout") from None
        finally:
            seats.leave(user)
            self._metrics.end(verb)

    async def _whole(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        """A request that is answered in one piece; a write goes on to its end even if the client leaves."""
        if call.verb in READING:
            return _warned(respond(await self._dispatch.read(call), whole=request.method == "HEAD"), call)
        body = await _body(request)
        whole = Call(call.kind, call.target, call.verb, call.query, call.user, body, call.content, call.accept, call.agent)
        return _warned(respond(await self._dispatch.write_to_the_end(whole)), whole, whole.kind.unheeded)

    async def _watch(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        watching = Watching(self._cluster, call, self._metrics)
        first, events = await watching.begin()
        response = web.StreamResponse(headers={"Content-Type": watching.form.stream, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        _warned(response, call)
        self._metrics.long["WATCH"] += 1
        self._watchings.add(watching)
        try:
            await response.prepare(request)
            if not self._audit:
                forget_heads(request, response)
            await watching.run(first, events, response.write)
            await response.write_eof()
        except ConnectionError as error:
            log.debug("watch of %s: the client has gone: %s", call.target.plural, error)
            if request.transport:
                request.transport.abort()
        finally:
            self._metrics.long["WATCH"] -= 1
            self._watchings.discard(watching)
            self._ended.wake()
        return response

    @property
    def _kubelet_tls(self) -> ssl.SSLContext | None:
        return self._kubelets.current if self._kubelets else None

    async def end_streams(self, seconds: float) -> None:
        """This server is about to end: watches end as if their time were over, other streams are cut."""
        for watching in self._watchings:
            watching.stop()
        for task in self._streams:
            task.cancel()
        try:
            async with asyncio.timeout(seconds):
                while self._watchings or self._streams:
                    await self._ended.wait()
        except TimeoutError:
            log.debug("streams are left over")

    async def _stream(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        if request.method not in ("GET", "POST"):
            raise method_not_allowed()
        if call.target.subresource != "log" and "upgrade" not in request.headers.get("Connection", "").lower():
            raise Refused(400, "Upgrade request required")
        return await self._held(carry(self._cluster, call, request, self._kubelet_tls))

    async def _held(self, stream: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
        """A stream that has the connection for itself."""
        task = asyncio.current_task()
        assert task
        self._metrics.long["CONNECT"] += 1
        self._streams.add(task)
        try:
            return await stream
        finally:
            self._metrics.long["CONNECT"] -= 1
            self._streams.discard(task)
            self._ended.wake()


async def _body(request: web.BaseRequest) -> bytes:
    """The request's body; 413 for one that is too large, said or found out."""
    large = Refused(413, f"Request entity too large: limit is {bodies.LARGEST}")
    if (request.content_length or 0) > bodies.LARGEST:
        raise large
    if request.content.is_eof() and request.content.total_bytes <= bodies.LARGEST and not request.content.exception():
        whole = request["sent"] = await request.content.read()  # it is all here
        return whole
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                parts += chunk
                if len(parts) > bodies.LARGEST:
                    raise large
    except TimeoutError:
        raise Refused(408, "the body of the request did not arrive in time", reason="Timeout") from None
    except web.HTTPException as error:
        raise Refused(400, str(error)) from None
    whole = request["sent"] = bytes(parts)
    return whole


def _warned(response: web.StreamResponse, call: Call, more: str = "") -> web.StreamResponse:
    for warning in filter(None, (call.kind.warning, more, *call.warnings[:20])):
        plain = "".join(letter if letter.isprintable() else " " for letter in warning[:500])
        quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response
