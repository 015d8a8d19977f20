"""A small HTTP server for `/healthz`, `/readyz`, `/metrics`: standard library, one thread, GET and HEAD only.

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
Query = Callable[[Mapping[str, str]], Reply]  # ... that looks at what was asked behind the question mark


NONE: Mapping[str, Query] = {}


def check(ok: Callable[[], bool], good: str = "ok", bad: str = "not ok") -> Route:
    """A route that answers 200 or 503 by what `ok()` says at that moment."""
    return lambda: Reply(good) if ok() else Reply(bad, status=503)


def serve(host: str, port: int, routes: Mapping[str, Route], *, what: str = "--healthz-port",
          queries: Mapping[str, Query] = NONE) -> ThreadingHTTPServer:
    """Serve the routes and queries from a daemon thread; raises `UserError` when the address cannot be had."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from socket import AF_INET, AF_INET6
    from socketserver import TCPServer
    from urllib.parse import parse_qsl

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_HEAD(self) -> None:
            """Answer without the text."""
            self.do_GET()

        def do_GET(self) -> None:
            """Answer one request."""
            path, _, asked = self.path.partition("?")
            route, query = routes.get(path), queries.get(path)
            reply = query(dict(parse_qsl(asked))) if query else route() if route else Reply("404 page not found", status=404)
            body = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a probe a second is no news."""

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET

        def server_bind(self) -> None:
            """Bind, without asking DNS for our own name as the class above does: that may take ten seconds to fail."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, self.server_address[1]

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise UserError(f"{what}: cannot listen on {where}: {error.strerror}") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
