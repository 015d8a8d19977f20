"""The nftables and conntrack adapters against the kernel, in a namespace of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodecore import errors
from nodecore.kernel.batch import HEADER, attribute
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.netns import Netns
from nodecore.kernel.nfnetlink import NETLINK_NETFILTER
from nodecore.kernel.nft import Nft
from nodecore.kernel.nftnews import touched
from nodecore.kernel.ports import EVERYTHING
from nodecore.net import Family

pytestmark = pytest.mark.kernel
Inside = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Runs a coroutine with everything it opens and starts in a fresh namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Netns.create() as space:
        def run(work: Coroutine[Any, Any, Any]) -> Any:
            with space.enter():
                return asyncio.run(work)

        yield run


def test_a_transaction_is_all_or_nothing(inside: Inside) -> None:
    async def work() -> None:
        nft = Nft()
        with pytest.raises(errors.NotFound):
            await nft.load("add table ip a\nadd rule ip a nowhere accept\n")
        assert await nft.list_table("ip", "a") is None
        with pytest.raises(errors.Invalid, match="nft: "):
            await nft.load("nonsense\n")
        with pytest.raises(errors.AlreadyExists):
            await nft.load("create table ip a\ncreate table ip a\n")
        await nft.load("add table ip a\n")
        assert "table ip a" in (await nft.list_table("ip", "a") or "")
        with pytest.raises(errors.NotFound, match="no-such-nft"):
            await Nft(command=("no-such-nft",)).load("")

    inside(work())


def test_changes_are_those_of_others(inside: Inside) -> None:
    async def work() -> None:
        nft, seen = Nft(), asyncio.Queue[str]()

        async def listen() -> None:
            async for name in nft.changes():
                await seen.put(name)

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)
        for round_ in range(20):  # our own are never told, however fast nft is
            await nft.load(f"add table ip ours\nadd chain ip ours c{round_}\n")
        await asyncio.to_thread(subprocess.run, ["nft", "add", "table", "inet", "theirs"], check=True)
        assert await asyncio.wait_for(seen.get(), 30) == "inet theirs"
        await asyncio.to_thread(subprocess.run, ["nft", "flush", "chain", "ip", "ours", "c1"], check=True)
        await asyncio.to_thread(subprocess.run, ["nft", "delete", "table", "ip", "ours"], check=True)
        assert await asyncio.wait_for(seen.get(), 30) == "ip ours"
        listener.cancel()

    inside(work())


def add_table_as(port: int, name: str) -> None:
    """What somebody's nft does, whose pid is this."""
    begin, end, new_table, request_create = 0x10, 0x11, 10 << 8, 0x401
    whole, ip = struct.pack("!BBH", 0, 0, 10), struct.pack("!BBH", 2, 0, 0)
    bodies = (begin, whole), (new_table, ip + attribute(1, name.encode() + b"\0")), (end, whole)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((port, 0))
        sock.send(b"".join(HEADER.pack(HEADER.size + len(body), kind, request_create, 0, 0) + body for kind, body in bodies))


def test_whoever_is_given_the_pid_of_a_child_of_ours_is_somebody_else(inside: Inside, tmp_path: Path) -> None:
    async def work() -> None:
        nft = Nft(command=("sh", "-c", f'echo $$ >{tmp_path}/pid; exec nft "$@"', "nft"))
        changes = nft.changes()
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        for round_ in range(3):
            await asyncio.gather(*(nft.load(f"add table ip ours{number}\n") for number in range(4)))
            await nft.load("add table ip ours\n")
            add_table_as(int((tmp_path / "pid").read_text()), f"theirs{round_}")
            assert await asyncio.wait_for(first, 30) == f"ip theirs{round_}"
            first = asyncio.ensure_future(anext(changes))
        first.cancel()

    inside(work())


def test_noise_is_no_news() -> None:
    assert touched(b"") == []
    assert touched(b"\0" * 64) == []
    assert touched(os.urandom(7)) == []
    assert EVERYTHING not in touched(b"\xff" * 300)


def test_udp_flows(inside: Inside) -> None:
    async def work() -> None:
        rule = "udp dport 99 dnat to 127.0.0.1:1234"
        await Nft().load(f"table ip t {{\nchain o {{\ntype nat hook output priority -100;\n{rule}\n}}\n}}\n")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for number in range(300):
                sock.sendto(b"?", (f"127.0.1.{number % 250}", 99 if number < 250 else 98))
            conntrack = Conntrack()
            found = await conntrack.list_flows(Family.IPV4, "udp")
            assert {(flow.endpoint, flow.endpoint_port) for flow in found if flow.port == 99} == {("127.0.0.1", 1234)}
            one = await conntrack.delete_flows(Family.IPV4, "udp", lambda it: (it.destination, it.port) == ("127.0.1.7", 99))
            assert one == 1
            assert await conntrack.delete_flows(Family.IPV4, "udp", lambda flow: flow.port == 99) == 249
            assert {flow.port for flow in await conntrack.list_flows(Family.IPV4, "udp")} == {98}
            assert await conntrack.list_flows(Family.IPV6, "udp") == []

    inside(work())
