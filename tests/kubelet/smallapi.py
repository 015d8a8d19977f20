"""A small, stateful stand-in for the API server: objects by path, list, watch, create, merge patch, delete.

Enough for a kubelet and no more: no validation, no selectors but `spec.nodeName`, one resourceVersion for all.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from typing import Any

from aiohttp import web

Obj = dict[str, Any]


class SmallApi:
    def __init__(self) -> None:
        self.objects: dict[str, Obj] = {}
        self.version = 1
        self.history: list[tuple[int, str, str, Obj]] = []
        self.changed = asyncio.Condition()
        self.runner: web.AppRunner | None = None
        self.away = False
        self.watching: set[asyncio.Transport] = set()

    async def start(self, *sockets: socket.socket) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        for sock in sockets:
            await web.SockSite(self.runner, sock).start()

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if self.away and request.transport:
            request.transport.abort()
            return web.Response()
        if path in ("/readyz", "/healthz"):
            return web.Response(text="ok")
        parts = path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        collection_size = 3 if rest[0] == "namespaces" and len(rest) > 2 else 1
        head = parts[: len(parts) - len(rest)]
        name, sub = [*rest[collection_size:], "", ""][:2]
        collection = "/".join(head + rest[:collection_size])
        key = f"{collection}/{name}"
        body = await request.json() if request.can_read_body else {}
        if request.method == "GET" and not name:
            if request.query.get("watch"):
                return await self.watch(request, collection)
            items = [item for at, item in self.objects.items() if self.wanted(request, collection, at, item)]
            return self.reply({"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items})
        if request.method == "POST":
            return await self.create(collection, body)
        if key not in self.objects:
            return self.status(404, "NotFound", f"{key} not found")
        if request.method == "GET":
            return self.reply(self.objects[key])
        if request.method == "PATCH":
            return await self.patch(key, sub, body)
        if request.method == "DELETE":
            return await self.delete(key, body)
        return self.status(405, "MethodNotAllowed", request.method)

    def wanted(self, request: web.Request, collection: str, at: str, item: Obj) -> bool:
        plural = collection.rpartition("/")[2]
        if at.rpartition("/")[0] != collection and not ("namespaces" not in collection and f"/{plural}/" in at):
            return False
        fields = dict(part.split("=") for part in request.query.get("fieldSelector", "").split(",") if part)
        return "spec.nodeName" not in fields or item.get("spec", {}).get("nodeName") == fields["spec.nodeName"]

    async def create(self, collection: str, body: Obj) -> web.Response:
        key = f"{collection}/{body['metadata']['name']}"
        if key in self.objects:
            return self.status(409, "AlreadyExists", key)
        body["metadata"].setdefault("uid", str(uuid.uuid4()))
        if "namespaces/" in collection:
            body["metadata"].setdefault("namespace", collection.split("namespaces/")[1].split("/")[0])
        await self.store(key, body, "ADDED")
        return self.reply(body, 201)

    async def patch(self, key: str, sub: str, body: Obj) -> web.Response:
        old = self.objects[key]
        uid = body.get("metadata", {}).get("uid")
        if uid and uid != old["metadata"]["uid"]:
            return self.status(409, "Conflict", "uid differs")
        new = merge(old, body if sub != "status" else {"status": body.get("status", {})})
        await self.store(key, new, "MODIFIED")
        return self.reply(new)

    async def delete(self, key: str, options: Obj) -> web.Response:
        obj = json.loads(json.dumps(self.objects[key]))
        uid = options.get("preconditions", {}).get("uid")
        if uid and uid != obj["metadata"]["uid"]:
            return self.status(409, "Conflict", "uid differs")
        grace = options.get("gracePeriodSeconds", obj.get("spec", {}).get("terminationGracePeriodSeconds", 30))
        if "/pods/" in key and grace:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            obj["metadata"] |= {"deletionTimestamp": now, "deletionGracePeriodSeconds": grace}
            await self.store(key, obj, "MODIFIED")
        else:
            await self.store(key, obj, "DELETED")
        return self.reply(obj)

    async def store(self, key: str, obj: Obj, event: str) -> None:
        self.version += 1
        obj = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.version)}}
        if event == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = obj
        async with self.changed:
            self.history.append((self.version, key, event, obj))
            self.changed.notify_all()

    async def watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        assert request.transport
        self.watching.add(request.transport)
        at = int(request.query.get("resourceVersion") or 0)
        try:
            while True:
                for version, key, event, obj in self.history:
                    if version > at and self.wanted(request, collection, key, obj):
                        await response.write(json.dumps({"type": event, "object": obj}).encode() + b"\n")
                at = self.version
                async with self.changed:
                    while self.version <= at:
                        await self.changed.wait()
        except ConnectionError:
            return response

    def leave(self) -> None:
        """Answer nobody, and cut every watch."""
        self.away = True
        while self.watching:
            self.watching.pop().abort()

    def reply(self, body: Obj, status: int = 200) -> web.Response:
        return web.json_response(body, status=status)

    def status(self, code: int, reason: str, message: str) -> web.Response:
        return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


def merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merge(made.get(key), value)
    return made
