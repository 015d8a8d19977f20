"""An API server's get, list and watch, just enough to feed the proxy: a store of objects, one thread per request."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATHS = {"/api/v1/nodes": "Node", "/api/v1/services": "Service", "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice"}
Object = dict[str, Any]


class Api:
    """Holds Services and EndpointSlices; what is put or deleted reaches every watcher."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.log: list[tuple[str, str, Object]] = []  # kind, event type, object; the revision is the index + 1
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in PATHS.values()}
        self.oldest = 0  # what was before is forgotten
        self.held: set[str] = set()  # kinds whose list does not answer yet
        self.shown: int | None = None  # the latest version that is told of; None for all
        self.server: ThreadingHTTPServer | None = None
        self.connections: set[socket.socket] = set()
        self.watches: set[tuple[str, socket.socket]] = set()  # kind, and where it is told

    def put(self, *objects: Object) -> None:
        with self.changed:
            for item in objects:
                kind, key = item["kind"], item["metadata"]["name"]
                event = "MODIFIED" if key in self.objects[kind] else "ADDED"
                self._record(kind, event, item)
                self.objects[kind][key] = item
            self.changed.notify_all()

    def delete(self, kind: str, name: str) -> None:
        with self.changed:
            self._record(kind, "DELETED", self.objects[kind].pop(name))
            self.changed.notify_all()

    def clear(self) -> None:
        for kind, items in self.objects.items():
            for name in list(items):
                self.delete(kind, name)

    def _record(self, kind: str, event: str, item: Object) -> None:
        item["metadata"]["resourceVersion"] = str(len(self.log) + 1)
        self.log.append((kind, event, json.loads(json.dumps(item))))

    def rewind(self, version: int) -> None:
        """Show the past, and nothing newer, until `catch_up`; who asks from a later version is told to list again."""
        with self.changed:
            self.shown = version

    def compact(self) -> None:
        """Forget how it came to this: who asks from an earlier version is told to list again."""
        self.oldest = len(self.log)

    def catch_up(self) -> None:
        """Send everything that happened since."""
        with self.changed:
            self.shown = None
            self.changed.notify_all()

    def _past(self, kind: str) -> list[Object]:
        """The objects as they were at the version that is shown."""
        found: dict[str, Object] = {}
        for of, event, item in self.log[: self.shown]:
            if of == kind:
                found[item["metadata"]["name"]] = item
                if event == "DELETED":
                    del found[item["metadata"]["name"]]
        return list(found.values())

    def hold(self, *kinds: str) -> None:
        with self.changed:
            self.held = set(kinds)
            self.changed.notify_all()

    def start(self, sock: socket.socket) -> None:
        """Serve on a listening socket (of whatever namespace)."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.connections.add(self.connection)
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                try:
                    if "watch" in query:
                        api.watch(self, PATHS[url.path], int(query["resourceVersion"][0]))
                    elif url.path not in PATHS:
                        api.get(self, *url.path.rsplit("/", 1))
                    else:
                        api.list(self, PATHS[url.path])
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass

        self.server = Server(sock.getsockname(), Handler, bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = sock
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Vanish: no new connections, and the old ones broken."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def get(self, handler: BaseHTTPRequestHandler, path: str, name: str) -> None:
        with self.changed:
            found = self.objects[PATHS[path]].get(name)
        missing = {"kind": "Status", "code": 404, "reason": "NotFound"}
        self._say(handler, 200 if found else 404, found or missing)

    def list(self, handler: BaseHTTPRequestHandler, kind: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: kind not in self.held, timeout=30)
            found = {"kind": f"{kind}List", "metadata": {"resourceVersion": str(self._latest())}, "items": self._past(kind)}
        self._say(handler, 200, found)

    @staticmethod
    def _say(handler: BaseHTTPRequestHandler, code: int, said: Object) -> None:
        body = json.dumps(said).encode()
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _latest(self) -> int:
        return len(self.log) if self.shown is None else self.shown

    def watch(self, handler: BaseHTTPRequestHandler, kind: str, since: int) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        server = self.server
        self.watches.add((kind, handler.connection))
        if not self.oldest <= since <= self._latest():
            gone = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(gone), gone))
            return
        while self.server is server:
            with self.changed:
                self.changed.wait_for(lambda at=since: self._latest() > at or self.server is not server, timeout=1)
                news, since = self.log[since : self._latest()], self._latest()
            lines = b"".join(json.dumps({"type": event, "object": item}).encode() + b"\n"
                             for of, event, item in news if of == kind)
            if lines:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(lines), lines))
                handler.wfile.flush()
