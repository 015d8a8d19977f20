"""Client and informer against a small server that misbehaves on purpose: the network's faults, one by one."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from nodecore import errors
from nodecore.kube import config
from nodecore.kube.client import KubeClient
from nodecore.kube.informer import Informer
from nodecore.kube.objects import Node
from nodecore.kube.reading import Reader
from nodecore.kube.resource import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from tests.etcdserver import Pki, make_pki

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[KubeClient]:
    app = web.Application()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with KubeClient(config.KubeConfig(f"http://127.0.0.1:{port}")) as client:
            yield client
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


def config_map(name: str, version: int, value: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version)}, "data": {"v": value}}


@pytest.mark.parametrize(("code", "reason", "kind"), [
    (404, "NotFound", errors.NotFound), (409, "AlreadyExists", errors.AlreadyExists), (409, "Conflict", errors.Conflict),
    (403, "Forbidden", errors.Denied), (410, "Expired", errors.Expired), (422, "Invalid", errors.Invalid),
    (429, "TooManyRequests", errors.Busy), (503, "ServiceUnavailable", errors.Unreachable),
])
async def test_status_bodies_become_our_errors(code: int, reason: str, kind: type[errors.Fault]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": reason, "message": "because", "code": code}, status=code)

    async with serving(handler) as client:
        with pytest.raises(kind, match="because"):
            await client.get(PODS, "p", "d")


async def test_nobody_there_is_unreachable() -> None:
    told: list[tuple[str, str]] = []
    async with KubeClient(config.KubeConfig("http://127.0.0.1:1")) as client:
        client.on_answer = lambda method, code: told.append((method, code))
        with pytest.raises(errors.Unreachable, match=r"http://127\.0\.0\.1:1"):
            await client.list(NODES)
        with pytest.raises(errors.Unreachable, match="watch of nodes broke"):
            await anext(client.watch(NODES, "1"))
    assert told == [("GET", "<error>")] * 2


async def test_paths_queries_and_bodies() -> None:
    seen: list[tuple[str, str, str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        text = await request.text()
        content = request.headers.get("Content-Type", "")
        seen.append((request.method, request.path_qs, content, json.loads(text) if text else None))
        return web.json_response({"metadata": {"name": "x"}})

    async with serving(handler) as client:
        await client.create(PODS, {"a": 1}, "d", name="p", subresource="binding")
        await client.patch(DEPLOYMENTS, "w", {"spec": {}}, "d", kind="strategic-merge-patch", subresource="status")
        await client.delete(CONFIG_MAPS, "c", "d", grace=0, uid="u1", propagation="Foreground")
        await client.list(PODS, labels="a in (b,c)", fields="spec.nodeName=n1")
    assert [(method, path) for method, path, _, _ in seen] == [
        ("POST", "/api/v1/namespaces/d/pods/p/binding"),
        ("PATCH", "/apis/apps/v1/namespaces/d/deployments/w/status"),
        ("DELETE", "/api/v1/namespaces/d/configmaps/c"),
        ("GET", "/api/v1/pods?labelSelector=a+in+(b,c)&fieldSelector=spec.nodeName%3Dn1"),
    ]
    assert seen[1][2] == "application/strategic-merge-patch+json"
    assert seen[2][3]["preconditions"] == {"uid": "u1"}
    assert (seen[2][3]["gracePeriodSeconds"], seen[2][3]["propagationPolicy"]) == (0, "Foreground")


class Scripted:
    """Lists and watches as told: each list and each watch takes the next entry."""

    def __init__(self, lists: list[tuple[int, list[dict[str, Any]]]], watches: list[list[Any]]) -> None:
        self.lists, self.watches, self.asked = lists, watches, []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.asked.append("list")
            version, items = self.lists.pop(0)
            return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})
        self.asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        for step in self.watches.pop(0) if self.watches else ["hang"]:
            if step == "hang":
                await asyncio.sleep(300)
            elif step == "break":
                assert request.transport is not None
                request.transport.abort()
            elif isinstance(step, bytes):
                await response.write(step)
            else:
                await response.write(json.dumps({"type": step[0], "object": step[1]}).encode() + b"\n")
        return response


async def follow(server: Scripted, condition: Callable[[Informer[Any]], bool]) -> Informer[Any]:
    async with serving(server) as client:
        informer: Informer[Any] = Informer(client, CONFIG_MAPS)
        task = asyncio.create_task(informer.run())
        try:
            await until(lambda: condition(informer))
        finally:
            task.cancel()
        return informer


async def test_a_broken_watch_resumes_where_it_was() -> None:
    server = Scripted([(5, [config_map("a", 3)])], [
        [("ADDED", config_map("b", 7)), "break"],
        [("MODIFIED", config_map("a", 8, "new")), ("BOOKMARK", {"metadata": {"resourceVersion": "12"}})],
        [("DELETED", config_map("b", 13)), "hang"],
    ])
    informer = await follow(server, lambda informer: informer.version == "13")
    assert set(informer.items) == {"d/a"}
    assert informer.items["d/a"]["data"]["v"] == "new"
    assert server.asked == ["list", "5", "7", "12"]


@pytest.mark.parametrize("where", ["event", "status"])
async def test_an_expired_version_lists_anew_and_forgets_what_is_gone(where: str) -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}

    class Old(Scripted):
        async def __call__(self, request: web.Request) -> web.StreamResponse:
            if where == "status" and "watch" in request.query and len(self.asked) == 1:
                self.asked.append("410")
                return web.json_response(gone, status=410)
            return await super().__call__(request)

    server = Old([(5, [config_map("a", 3), config_map("b", 4)]), (20, [config_map("b", 4), config_map("c", 19)])],
                 [[("ERROR", gone)], ["hang"]] if where == "event" else [["hang"]])
    informer = await follow(server, lambda informer: informer.version == "20")
    assert set(informer.items) == {"d/b", "d/c"}


async def test_events_are_split_wherever_the_network_cuts_them() -> None:
    line = json.dumps({"type": "ADDED", "object": config_map("x", 6, "é" * 50_000)}).encode() + b"\n"
    pieces: list[Any] = [line[i : i + 7_001] for i in range(0, len(line), 7_001)]
    server = Scripted([(5, [])], [[*pieces, "hang"]])
    informer = await follow(server, lambda informer: "d/x" in informer.items)
    assert informer.items["d/x"]["data"]["v"] == "é" * 50_000


async def test_typed_views_decode_only_their_fields() -> None:
    class View(msgspec.Struct):
        metadata: dict[str, Any]

    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [config_map("a", 1)]})

    async with serving(handler) as client:
        found = await client.list(CONFIG_MAPS, into=View)
    assert isinstance(found.items[0], View)
    assert found.version == "1"


class Numbered(msgspec.Struct):
    metadata: dict[str, Any]
    data: dict[str, int] | None = None


def numbered(name: str, version: int, value: object) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version)}, "data": {"v": value}}


async def test_one_unreadable_object_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    """Skipped, counted, named in one line; what was read of it before stays until it goes; readable again, it is back."""
    server = Scripted(
        [(5, [numbered("a", 3, 1), numbered("bad", 4, "x")])],
        [[("ADDED", numbered("b", 6, 2)), ("MODIFIED", numbered("bad", 7, "y")), ("MODIFIED", numbered("a", 8, "z")),
          ("BOOKMARK", {"metadata": {"resourceVersion": "9"}}), "break"],
         [("MODIFIED", numbered("bad", 10, 3)), ("DELETED", numbered("a", 11, "z")), "hang"]],
    )
    seen: list[tuple[str, bool]] = []
    async with serving(server) as client:
        informer: Informer[Numbered] = Informer(client, CONFIG_MAPS, into=Numbered,
                                                on_item=lambda key, item: seen.append((key, item is not None)))
        task = asyncio.create_task(informer.run())
        try:
            await until(lambda: informer.version == "11")
        finally:
            task.cancel()
    assert (set(informer.items), informer.unreadable) == ({"d/b", "d/bad"}, {})
    assert server.asked == ["list", "5", "9"]
    assert seen == [("d/a", True), ("d/b", True), ("d/bad", True), ("d/a", False)]
    told = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert len(told) == 2, told
    assert "d/bad" in told[0]
    assert "Expected `int`, got `str`" in told[0]
    assert "d/a" in told[1]


async def test_a_list_for_others_says_which_object_is_wrong() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [numbered("bad", 1, "x")]})

    async with serving(handler) as client:
        with pytest.raises(errors.Invalid, match="d/bad"):
            await client.list(CONFIG_MAPS, into=Numbered)


@pytest.mark.parametrize(("text", "complaint"), [
    ("{", "neither JSON nor YAML"),
    ("[1]", "not a kubeconfig"),
    ('{"current-context": "x"}', "contexts has no entry called 'x'"),
    ('{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"clusters":[{"name":"k","cluster":'
     '{"server":"https://h","certificate-authority-data":"%%"}}],"users":[{"name":"u","user":{}}]}', "is not base64"),
    ('{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"clusters":[{"name":"k","cluster":'
     '{"server":"https://h"}}],"users":[{"name":"u","user":{"exec":{}}}]}', r"user\.exec is not supported"),
    ('{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k"}}],"clusters":[{"name":"k","cluster":'
     '{"server":"https://h","proxy-url":"http://p"}}]}', r"cluster\.proxy-url is not supported"),
])
def test_a_bad_kubeconfig_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=complaint) as caught:
        config.load(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_kubeconfig_is_named() -> None:
    with pytest.raises(errors.UserError, match="/nowhere/config: No such file"):
        config.load("/nowhere/config")


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    import yaml

    document = {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://h:6443/", "insecure-skip-tls-verify": True}}],
                "users": [{"name": "u", "user": {"token": "t"}}]}
    (tmp_path / "a").write_text(json.dumps(document))
    (tmp_path / "b").write_text(yaml.safe_dump(document))
    assert config.load(str(tmp_path / "a")) == config.load(str(tmp_path / "b"))
    assert config.load(str(tmp_path / "a")).server == "https://h:6443"


def test_a_context_without_a_user_is_nobodys(tmp_path: Path) -> None:
    document = {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
                "clusters": [{"name": "k", "cluster": {"server": "http://h:1"}}]}
    (tmp_path / "a").write_text(json.dumps(document))
    assert config.load(str(tmp_path / "a")) == config.KubeConfig("http://h:1")


async def test_lists_are_read_without_asyncio_as_well() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path.endswith("pods"):
            return web.json_response({"reason": "Forbidden", "message": "because"}, status=403)
        if request.path.endswith("nodes"):
            return web.json_response({"items": [{"metadata": {"name": "n"}}]})
        return web.json_response({"items": None} if request.path.endswith("deployments") else {"items": 7})

    def read(server: str) -> None:
        with Reader(config.KubeConfig(f"{server}/behind"), user_agent="x") as reader:
            assert [node.metadata.name for node in reader.list(NODES, Node)] == ["n"]
            assert reader.list(DEPLOYMENTS, Node) == ()
            with pytest.raises(errors.Denied, match="because"):
                reader.list(PODS, Node)
            with pytest.raises(errors.Invalid, match="something unexpected"):
                reader.list(CONFIG_MAPS, Node)

    async with serving(handler) as client:
        await asyncio.to_thread(read, client.config.server)
    assert asked[0] == "/behind/api/v1/nodes"
    with Reader(config.KubeConfig("http://127.0.0.1:1"), user_agent="x") as reader, pytest.raises(errors.Unreachable):
        reader.list(NODES, Node)


def kubeconfig(directory: Path, port: int) -> Path:
    """Of files beside it, as they are found on a node where they are renewed."""
    user = {"client-certificate": "etcd.crt", "client-key": "etcd.key"}
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.crt"}
    path = directory / "kubeconfig"
    path.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                                "clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}]}))
    return path


async def test_credentials_that_were_renewed_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is another one, of another authority, at the same port; while not all files are new, the old count."""
    monkeypatch.setattr("nodecore.kube.client.LOOK_SECONDS", 0.0)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = make_pki(tmp_path / "old"), make_pki(tmp_path / "new")
    seen: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        seen.append(request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
        return web.json_response({"items": []})

    async def serve(pki: Pki, port: int) -> web.AppRunner:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pki.ca)
        context.load_cert_chain(pki.cert, pki.key)
        context.verify_mode = ssl.CERT_REQUIRED
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, reuse_address=True).start()
        return runner

    first = await serve(old, 0)
    port = first.addresses[0][1]
    async with KubeClient(config.load(str(kubeconfig(tmp_path / "old", port)))) as client:
        await client.list(NODES)
        await first.cleanup()
        second = await serve(new, port)
        with pytest.raises(errors.Unreachable):
            await client.list(NODES)
        for half in (b"", b"-----BEGIN CERTIFICATE-----"):
            (tmp_path / "old" / "ca.crt").write_bytes(half)
            with pytest.raises(errors.Unreachable):
                await client.list(NODES)
        for name in ("ca.crt", "etcd.crt", "etcd.key"):
            (tmp_path / "old" / name).write_bytes((tmp_path / "new" / name).read_bytes())
            if name != "etcd.key":
                with pytest.raises(errors.Unreachable):
                    await client.list(NODES)
        await client.list(NODES)
        await second.cleanup()
    assert len(set(seen)) == 2
