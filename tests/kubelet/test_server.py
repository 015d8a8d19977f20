"""Logs and streams through the kubelet's HTTPS server, as the API server asks for them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from .conftest import Stage, phase

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def session_of(stage: Stage, identity: str) -> aiohttp.ClientSession:
    directory = stage.cell.directory
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if identity:
        context.load_cert_chain(directory / f"{identity}.crt", directory / f"{identity}.key")

    def inside(address: Any) -> Any:
        with stage.cell.netns.enter():
            import socket

            return socket.socket(address[0], address[1], address[2])

    connector = aiohttp.TCPConnector(ssl=context, socket_factory=inside)
    return aiohttp.ClientSession(f"https://127.0.0.1:{stage.cell.kubelet_port}", connector=connector)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def talker(stage: Stage) -> AsyncIterator[aiohttp.ClientSession]:
    # the runtime reads the two streams side by side: only what comes after the other was read has an order
    await stage.run("talker", "httpd -p 80 -h /etc; for i in 1 2 3; do echo line $i; done; "
                              "while test ! -e /tmp/read; do sleep 0.1; done; echo oops >&2; "
                              "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    await stage.ready("talker")
    async with session_of(stage, "client") as session:
        async def said(words: str) -> None:
            async with asyncio.timeout(90):
                while words not in await (await session.get("/containerLogs/default/talker/main")).text():
                    await asyncio.sleep(0.05)

        await said("line 3\n")
        await stage.kubectl("exec", "talker", "--", "touch", "/tmp/read")
        await said("oops\n")
        yield session
    await stage.delete("talker")
    await stage.gone("talker")


async def test_only_the_trusted_may_ask(stage: Stage, talker: aiohttp.ClientSession) -> None:
    for identity, path, status in (("", "/pods", 401), ("stranger", "/pods", 403), ("", "/healthz", 200)):
        async with session_of(stage, identity) as session, session.get(path) as response:
            assert response.status == status
    async with talker.get("/pods") as response:
        assert "talker" in [item["metadata"]["name"] for item in (await response.json())["items"]]
    async with talker.get("/metrics") as response:
        assert "kubelet_running_pods" in await response.text()


@pytest.mark.parametrize(("query", "lines"), [
    ("", ["line 1", "line 2", "line 3", "oops"]),
    ("?tailLines=2", ["line 3", "oops"]),
    ("?tailLines=0", []),
    ("?limitBytes=4", ["line"]),
    ("?sinceSeconds=3600&stream=Stderr", ["oops"]),
])
async def test_logs(talker: aiohttp.ClientSession, query: str, lines: list[str]) -> None:
    async with talker.get(f"/containerLogs/default/talker/main{query}") as response:
        assert response.status == 200
        assert (await response.text()).splitlines() == lines


async def test_logs_that_cannot_be(talker: aiohttp.ClientSession) -> None:
    for path, status in (("default/nobody/main", 404), ("default/talker/main?previous=true", 400),
                         ("default/talker/main?tailLines=x", 400), ("default/talker/other", 400)):
        async with talker.get(f"/containerLogs/{path}") as response:
            assert response.status == status, await response.text()


async def test_logs_follow_to_the_end_of_the_container(stage: Stage, talker: aiohttp.ClientSession) -> None:
    await stage.run("short", "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done", spec={"restartPolicy": "Never"})
    await stage.until("short", lambda pod: phase(pod) in ("Running", "Succeeded"))
    async with talker.get("/containerLogs/default/short/main?follow=true&timestamps=true") as response:
        text = await response.text()
    assert [line.split(" ")[1] for line in text.splitlines()] == ["1", "2", "3", "4", "5"]
    await stage.delete("short")
    await stage.gone("short")


async def exec_over_websocket(session: aiohttp.ClientSession, query: str, stdin: bytes = b"") -> tuple[bytes, dict[str, Any]]:
    output, verdict = b"", {}
    async with session.ws_connect(f"/exec/default/talker/main?{query}", protocols=("v4.channel.k8s.io",)) as ws:
        assert ws.protocol == "v4.channel.k8s.io"
        if stdin:
            await ws.send_bytes(b"\0" + stdin)
        async for message in ws:
            channel, data = message.data[0], message.data[1:]
            if channel in (1, 2):
                output += data
            elif channel == 3:
                verdict = json.loads(data)
    return output, verdict


async def test_exec(talker: aiohttp.ClientSession) -> None:
    output, verdict = await exec_over_websocket(talker, "command=sh&command=-c&command=echo+hi;exit+4&stdout=1&stderr=1")
    assert output == b"hi\n"
    assert verdict["status"] == "Failure"
    assert verdict["details"]["causes"][0]["message"] == "4"


async def test_exec_with_input(talker: aiohttp.ClientSession) -> None:
    output, verdict = await exec_over_websocket(talker, "command=head&command=-n1&input=1&output=1", b"abc\n")
    assert (output, verdict["status"]) == (b"abc\n", "Success")


async def test_new_websocket_protocols_make_kubectl_fall_back(talker: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await talker.ws_connect("/exec/default/talker/main?command=ls&stdout=1", protocols=("v5.channel.k8s.io",))
    assert caught.value.status == 403
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
    async with talker.post("/exec/default/talker/main?command=ls&stdout=1", headers=headers) as response:
        assert response.status == 101
        assert response.headers["X-Stream-Protocol-Version"] == "v4.channel.k8s.io"


async def test_port_forward(talker: aiohttp.ClientSession) -> None:
    async with talker.ws_connect("/portForward/default/talker?port=80", protocols=("v4.channel.k8s.io",)) as ws:
        await ws.send_bytes(b"\0GET /passwd HTTP/1.0\r\n\r\n")
        data = b""
        async with asyncio.timeout(90):
            async for message in ws:
                data += message.data[1:] if message.data[0] == 0 else b""
                if b"nobody" in data:
                    break
    assert b"200 OK" in data


async def test_streams_that_cannot_be(talker: aiohttp.ClientSession) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    for path, status in (("exec/default/talker/main?stdout=1", 400), ("exec/default/talker/main?command=ls", 400),
                         ("exec/default/nobody/main?command=ls&stdout=1", 404), ("attach/default/talker/x?stdout=1", 404)):
        async with talker.post(f"/{path}", headers=headers) as response:
            assert response.status == status, await response.text()
