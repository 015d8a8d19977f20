"""A small HTTP server for `/healthz`, `/readyz`, `/metrics`: standard library, one thread, GET only.

A thread, so that it answers even while the event loop is busy; the standard library, because aiohttp would
cost each agent 15 MB for three URLs. Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodecore.errors import UserError

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Reply]


def check(ok: Callable[[], bool], good: str = "ok", bad: str = "not ok") -> Route:
    """A route that answers 200 or 503 by what `ok()` says at that moment."""
    return lambda: Reply(good) if ok() else Reply(bad, status=503)


def serve(host: str, port: int, routes: Mapping[str, Route], *, what: str = "--healthz-port") -> ThreadingHTTPServer:
    """Serve the routes from a daemon thread; raises `UserError` when the address cannot be had."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """Answer one request."""
            route = routes.get(self.path.partition("?")[0])
            reply = route() if route else Reply("404 page not found", status=404)
            body = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a probe a second is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UserError(f"{what}: cannot listen on {host}:{port}: {error.strerror}") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
