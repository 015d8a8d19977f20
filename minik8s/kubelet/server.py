"""The kubelet's HTTPS server: what the API server asks of a node.

    GET  /containerLogs/NS/POD/CONTAINER    ?follow tailLines sinceSeconds sinceTime timestamps previous limitBytes
    any  /exec/NS/POD/CONTAINER             ?command=... input output error tty   (upgrade to WebSocket v4 or SPDY/3.1)
    any  /attach/NS/POD/CONTAINER, /portForward/NS/POD
    GET  /pods, /metrics, /healthz          the last one for everybody

A client certificate of `--client-ca-file` is needed, of the API server or an administrator. The runtime speaks WebSocket
`v4.channel.k8s.io` and SPDY. Newer WebSockets are refused at once: the API server, which kubectl speaks to, makes them SPDY.
Read next: `minik8s/kubelet/passthrough.py`, `minik8s/kubelet/logs.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nodecore.errors import Busy, Denied, Fault, Invalid, NotFound, UserError
from nodecore.kube.http import web

from .config import Config
from .cri import Runtime
from .log_lines import LogOptions
from .logs import stream_log
from .passthrough import pass_through
from .records import RUNNING, Container, name_of
from .times import seconds_of
from .worker import PodWorker

STATUS = {NotFound: 404, Invalid: 400, Denied: 403, Busy: 429}
SPOKEN = {"v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io", "channel.k8s.io"}
FORWARD_SPOKEN = {"v4.channel.k8s.io", "v4.base64.channel.k8s.io"}
TRUSTED_GROUPS, TRUSTED_NAMES = {"system:masters"}, {"kube-apiserver-kubelet-client", "system:kube-apiserver"}
WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Holder(Protocol):
    """What the server needs of the kubelet."""

    config: Config
    runtime: Runtime
    workers: dict[str, PodWorker]


def tls_context(config: Config) -> ssl.SSLContext:
    """Our certificate, and the CA that clients' certificates must be from."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=config.client_ca_file)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"--client-ca-file: {config.client_ca_file}: {error.strerror or error}") from None
    try:
        context.load_cert_chain(config.tls_cert_file, config.tls_private_key_file)
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"--tls-cert-file, --tls-private-key-file: {error.strerror or error}") from None
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def trusted(certificate: Mapping[str, Any] | None) -> bool:
    """Whether a verified client certificate is the API server's or an administrator's."""
    subject = [pair for group in (certificate or {}).get("subject", ()) for pair in group]
    return any((key == "organizationName" and value in TRUSTED_GROUPS) or (key == "commonName" and value in TRUSTED_NAMES)
               for key, value in subject)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who may ask, and faults as plain answers."""
    if request.path != "/healthz":
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if not certificate:
            return web.Response(status=401, text="Unauthorized\n")
        if not trusted(certificate):
            return web.Response(status=403, text="Forbidden: neither the API server nor an administrator\n")
    try:
        return await handler(request)
    except Fault as error:
        return web.Response(status=STATUS.get(type(error), 500), text=f"{error}\n")


class Api:
    """The handlers."""

    def __init__(self, kubelet: Holder) -> None:
        self._kubelet = kubelet
        self._begin = time.time()

    def routes(self) -> list[web.RouteDef]:
        """Every path served."""
        return [
            web.get("/healthz", self.healthz), web.get("/pods", self.pods), web.get("/metrics", self.metrics),
            web.get("/containerLogs/{namespace}/{pod}/{container}", self.logs),
            web.route("*", "/exec/{namespace}/{pod}/{container}", self.exec),
            web.route("*", "/attach/{namespace}/{pod}/{container}", self.attach),
            web.route("*", "/portForward/{namespace}/{pod}", self.port_forward),
        ]

    def _worker(self, request: web.Request) -> PodWorker:
        wanted, uid = f"{request.match_info['namespace']}/{request.match_info['pod']}", request.query.get("uid")
        for key, worker in self._kubelet.workers.items():
            if name_of(worker.pod) == wanted and not worker.gone and uid in (None, key):
                return worker
        raise NotFound(f"pod {wanted} is not on this node")

    def _running(self, request: web.Request) -> Container:
        name = request.match_info["container"]
        run = self._worker(request).actual.latest(name)
        if run is None or run.state != RUNNING:
            raise NotFound(f'container not found ("{name}")')
        return run

    async def healthz(self, _request: web.Request) -> web.Response:
        """Alive."""
        return web.Response(text="ok")

    async def pods(self, _request: web.Request) -> web.Response:
        """The pods of this node as the API has them."""
        items = [worker.pod for worker in self._kubelet.workers.values() if not worker.gone]
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def metrics(self, _request: web.Request) -> web.Response:
        """A few figures in Prometheus' text format."""
        workers = list(self._kubelet.workers.values())
        running = sum(len(worker.actual.running()) for worker in workers)
        text = (f"# TYPE kubelet_running_pods gauge\nkubelet_running_pods {sum(1 for w in workers if w.actual.running())}\n"
                f'# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state="running"}} {running}\n'
                f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {self._begin:.3f}\n")
        return web.Response(text=text)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """A container's log."""
        options, worker, name = log_options(request.query), self._worker(request), request.match_info["container"]
        run = chosen_run(worker, name, previous=options.previous)

        def running() -> bool:
            now = next((item for item in worker.actual.containers if item.id == run.id), None)
            return not worker.done and now is not None and now.state == RUNNING

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        pieces = stream_log(Path(run.log_path), options, running)
        first = await anext(pieces, b"")
        await response.prepare(request)
        try:
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
            await response.write_eof()
        except ConnectionError:
            pass
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """Run a command in a container, streams attached."""
        refuse_unspoken(request, SPOKEN)
        command = request.query.getall("command", [])
        if not command:
            raise Invalid("you must specify at least 1 command")
        streams = stream_flags(request.query)
        return await pass_through(request, await self._kubelet.runtime.exec_url(self._running(request).id, command, **streams))

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """A container's own streams."""
        refuse_unspoken(request, SPOKEN)
        url = await self._kubelet.runtime.attach_url(self._running(request).id, **stream_flags(request.query))
        return await pass_through(request, url)

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        """Connections to a pod's ports."""
        refuse_unspoken(request, FORWARD_SPOKEN)
        box = self._worker(request).actual.current
        if box is None or not box.ready:
            raise NotFound(f"pod {request.match_info['pod']} is not running")
        texts = [text for given in request.query.getall("port", []) for text in given.split(",")]
        if not all(text.isdecimal() for text in texts):
            raise Invalid("port: not a number")
        return await pass_through(request, await self._kubelet.runtime.port_forward_url(box.id, [int(text) for text in texts]))


def chosen_run(worker: PodWorker, name: str, *, previous: bool) -> Container:
    """The run whose log is wanted."""
    pod = worker.pod["metadata"]["name"]
    run = worker.actual.previous(name) if previous else worker.actual.latest(name)
    if run is None and previous:
        raise Invalid(f'previous terminated container "{name}" in pod "{pod}" not found')
    if run is None:
        reason = worker.waiting_for(name)
        raise Invalid(f'container "{name}" in pod "{pod}" is waiting to start: {WAITING.get(reason, reason)}')
    return run


def refuse_unspoken(request: web.Request, spoken: set[str]) -> None:
    """Turn down a WebSocket whose protocols the runtime does not know, so that the client falls back to SPDY."""
    if not request.headers.get("Upgrade"):
        raise Invalid("Upgrade request required")
    if request.headers["Upgrade"].lower() != "websocket":
        return
    offered = {item.strip() for item in request.headers.get("Sec-WebSocket-Protocol", "").split(",")} - {""}
    if offered and not offered & spoken:
        raise Denied(f"WebSocket protocol {', '.join(sorted(offered))} is not supported: use SPDY/3.1 or v4.channel.k8s.io")


def _flag(query: Mapping[str, str], *names: str) -> bool:
    return any(query.get(name, "").lower() in ("1", "true") for name in names)


def stream_flags(query: Mapping[str, str]) -> dict[str, bool]:
    """Which streams are wanted; the kubelet's names (input, output, error) and the API's (stdin, stdout, stderr)."""
    tty = _flag(query, "tty")
    made = {"tty": tty, "stdin": _flag(query, "input", "stdin"), "stdout": _flag(query, "output", "stdout"),
            "stderr": _flag(query, "error", "stderr") and not tty}
    if not (made["stdin"] or made["stdout"] or made["stderr"]):
        raise Invalid("you must specify at least 1 of stdin, stdout, stderr")
    return made


def log_options(query: Mapping[str, str]) -> LogOptions:
    """PodLogOptions from a query; `Invalid` names what is wrong."""

    def number(name: str) -> int | None:
        text = query.get(name)
        if text is None or text == "":
            return None
        if not text.isdecimal():
            raise Invalid(f"{name}: {text!r} is not a number of at least 0")
        return int(text)

    since, seconds = 0.0, number("sinceSeconds")
    if seconds is not None:
        since = time.time() - seconds
    elif query.get("sinceTime"):
        try:
            since = seconds_of(query["sinceTime"])
        except ValueError:
            raise Invalid(f"sinceTime: {query['sinceTime']!r} is not an RFC 3339 time") from None
    return LogOptions(_flag(query, "follow"), _flag(query, "previous"), _flag(query, "timestamps"), number("tailLines"),
                      number("limitBytes"), since, query.get("stream") or "All")


def listen(config: Config) -> tuple[socket.socket, ssl.SSLContext]:
    """The socket and its certificates, or a `UserError` before anything else has begun."""
    context = tls_context(config)
    family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
    both = config.address == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((config.address, config.port), family=family, backlog=128, dualstack_ipv6=both), context
    except OSError as error:
        raise UserError(f"--port: cannot listen on {config.address}:{config.port}: {os.strerror(error.errno or 0)}") from None


async def serve(kubelet: Holder, listener: tuple[socket.socket, ssl.SSLContext]) -> None:
    """Answer, for ever."""
    app = web.Application(middlewares=[guard])
    app.add_routes(Api(kubelet).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False)
    await runner.setup()
    await web.SockSite(runner, listener[0], ssl_context=listener[1]).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
