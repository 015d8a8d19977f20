"""A little API server over the schema package alone: enough for kubectl to create, apply, get and explain on loopback."""

import asyncio
import contextlib
import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from minik8s.apiserver import schema
from minik8s.apiserver.schema.served import EXTRAS, RESOURCES

PROTOBUF = "application/vnd.kubernetes.protobuf"
GIVEN = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
KINDS = {(item.api_version, item.plural): item for item in RESOURCES}


@dataclass
class Stub:
    """What kubectl sent, and what it left."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/openapi/"):
            return openapi(request)
        if request.method == "GET" and path in discovery():
            return web.json_response(discovery()[path])
        body = await request.read()
        if request.method == "POST":
            return self.create(path, request, body)
        if path not in self.objects:
            return (
                self.listing(request)
                if request.method == "GET" and is_collection(path)
                else failure(404, "NotFound", "not found")
            )
        made = self.objects[path]
        if request.method == "PATCH":
            made = patched(made, request.content_type, json.loads(body))
        elif request.method == "PUT":
            made = json.loads(body)
        if "dryRun" not in request.query:
            self.objects[path] = made
        return web.json_response(made)

    def create(self, path: str, request: web.Request, body: bytes) -> web.Response:
        obj = schema.decode_protobuf(body) if request.content_type == PROTOBUF else json.loads(body)
        self.raw.append(body)
        self.received.append(obj)
        errors = [*schema.validate(schema.GVK.of(obj), obj)]
        if refused := schema.refusal(schema.GVK.of(obj), errors, strict=request.query.get("fieldValidation") == "Strict"):
            return failure(400, "BadRequest", refused)
        stored = {**obj, "metadata": {**GIVEN, **obj["metadata"]}}
        if "dryRun" not in request.query:
            self.objects[f"{path}/{stored['metadata'].get('name')}"] = stored
        return web.json_response(stored, status=201)

    def listing(self, request: web.Request) -> web.Response:
        items = [obj for path, obj in self.objects.items() if path.rpartition("/")[0] == request.path]
        resource = resource_of(request.path)
        if "as=Table" in request.headers.get("Accept", ""):
            now = datetime.datetime(2026, 1, 1, 0, 5, 30, tzinfo=datetime.UTC)
            return web.json_response(
                schema.table(resource.kind, items, now, include=request.query.get("includeObject", "Metadata"))
            )
        return web.json_response(
            {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": {}, "items": items}
        )


def patched(obj: dict[str, Any], form: str, patch: Any) -> dict[str, Any]:
    if form == "application/strategic-merge-patch+json":
        return schema.strategic_merge(obj, patch, schema.GVK.of(obj))
    return schema.json_patch(obj, patch) if form == "application/json-patch+json" else schema.merge_patch(obj, patch)


def openapi(request: web.Request) -> web.Response:
    if request.path == "/openapi/v2":
        return web.Response(body=schema.openapi_v2_protobuf(), headers={"Content-Type": schema.OPENAPI_V2_TYPE})
    gv = request.path.removeprefix("/openapi/v3").strip("/")
    body = schema.openapi_v3(gv) if gv else schema.openapi_v3_index()
    return web.Response(body=body, content_type="application/json")


def failure(code: int, reason: str, message: str) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(status, status=code)


def resource_of(path: str) -> Any:
    parts = path.strip("/").split("/")
    version = "/".join(parts[1:2] if parts[0] == "api" else parts[1:3])
    return KINDS.get((version, parts[-1]))


def is_collection(path: str) -> bool:
    return resource_of(path) is not None


def discovery() -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    shorts = {"pods": ["po"], "services": ["svc"], "deployments": ["deploy"]}
    lists: dict[str, list[dict[str, Any]]] = {}
    for item in RESOURCES:
        entry = {
            "name": item.plural,
            "singularName": item.kind.lower(),
            "namespaced": item.namespaced,
            "kind": item.kind,
            "verbs": verbs,
            "shortNames": shorts.get(item.plural, []),
            "categories": ["all"],
        }
        lists.setdefault(item.api_version, []).append(entry)
    for extra in EXTRAS:
        if extra.path:
            name = extra.path.rpartition("/")[2]
            version = f"{extra.group}/{extra.version}" if extra.group else extra.version
            lists.setdefault(version, []).append(
                {
                    "name": name,
                    "singularName": name,
                    "namespaced": "{namespace}" in extra.path,
                    "kind": extra.kind,
                    "verbs": ["create"],
                }
            )
    groups = [
        {
            "name": version.partition("/")[0],
            "versions": [gv := {"groupVersion": version, "version": "v1"}],
            "preferredVersion": gv,
        }
        for version in lists
        if "/" in version
    ]
    answers: dict[str, Any] = {
        ("/apis/" if "/" in version else "/api/") + version: {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": found,
        }
        for version, found in lists.items()
    }
    answers["/version"] = {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    answers["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return answers


@contextlib.asynccontextmanager
async def serving():
    """The stub on a free port of loopback."""
    stub = Stub()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", stub.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stub
    finally:
        await runner.cleanup()


@dataclass
class Kubectl:
    """A kubectl that talks to a stub."""

    binary: str
    server: str
    home: Path

    async def run(self, *argv: str, stdin: str = "", ok: bool | None = True) -> str:
        env = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(self.home / "none")}
        process = await asyncio.create_subprocess_exec(
            self.binary,
            "--server",
            self.server,
            *argv,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        assert ok is None or (process.returncode == 0) == ok, f"kubectl {' '.join(argv)}: {err.decode()}"
        return err.decode() if ok is False else out.decode()
