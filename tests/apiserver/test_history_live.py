"""Two API servers over three etcd members, under load and in trouble: what clients and watchers saw can have happened.

Clients read, create, update and delete a few objects, each time from the version they saw; who got no answer does not know.
The truth is etcd's own history. Trouble is a server killed, a member killed or a network that stands still, each by itself, and
then all of that with processes that stand still and a network that falls apart. Every history is kept as a file (pytest keeps
those of the last three runs); a good one, falsified, must be found out.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nodecore.etcd.client import Delete, EtcdClient, EtcdConfig
from tests.apiserver.apiprocess import ApiServer
from tests.apiserver.history import Change, Op, Watched, violations
from tests.cuttable import Forwarder, forwarder
from tests.etcdserver import EtcdCluster, free_ports

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
SPACE, FOLDER = "/api/v1/namespaces/default/configmaps", "/registry/configmaps/default/"
KEYS = ("one", "two", "three")
LOST = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster.start(3) as found:
        yield found


class Network(threading.Thread):
    """The way from the API servers to etcd's members."""

    def __init__(self, cluster: EtcdCluster) -> None:
        super().__init__()
        self._cluster, self._ready = cluster, threading.Event()
        self.ways: list[Forwarder] = []

    def run(self) -> None:
        asyncio.run(self._carry())

    async def _carry(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            self.ways = [await stack.enter_async_context(forwarder(member.client_port)) for member in self._cluster.members]
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> Network:
        self.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(30)

    def every(self, change: str) -> None:
        """Do so to each way: pause, resume, cut, mend."""
        for way in self.ways:
            self._loop.call_soon_threadsafe(getattr(way, change))


@pytest.fixture(scope="module")
def network(cluster: EtcdCluster) -> Iterator[Network]:
    with Network(cluster) as found:
        yield found


@pytest.fixture(scope="module")
def servers(cluster: EtcdCluster, network: Network) -> Iterator[list[ApiServer]]:
    endpoints = ",".join(f"http://127.0.0.1:{way.port}" for way in network.ways)
    one = ApiServer.start(cluster.members[0], "--etcd-servers", endpoints)
    other = replace(one, port=free_ports(1)[0], process=None)
    try:
        other.launch()
        other.wait()
        yield [one, other]
    finally:
        other.kill9()
        one.close()


class Clients:
    """Those who use the servers, and what they saw."""

    def __init__(self, servers: list[ApiServer], session: aiohttp.ClientSession) -> None:
        self.servers, self.session = servers, session
        self.ops: list[Op] = []
        self.watches: list[Watched] = []
        self.done = asyncio.Event()
        self.last = 0

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        seen: dict[str, int] = {}
        while not self.done.is_set():
            key, server = rng.choice(KEYS), rng.choice(self.servers)
            kind = rng.choice(["get", "get", "create", "update", "update", "update", "delete"])
            if kind in ("update", "delete") and not seen.get(key):
                kind = "get"
            op = Op(f"{seed}-{len(self.ops)}", kind, key, time.monotonic(), 0, "unknown", expect=seen.get(key, 0))
            op = await self._asked(server, replace(op, expect=0) if kind in ("get", "create") else op)
            self.ops.append(replace(op, end=time.monotonic() if op.outcome != "unknown" else float("inf")))
            if op.outcome == "ok":
                seen[key] = 0 if kind == "delete" else op.revision
            elif op.outcome == "refused":
                seen[key] = 0
            await asyncio.sleep(0.05 if op.outcome == "unknown" else 0.002)

    async def _asked(self, server: ApiServer, op: Op) -> Op:
        body: Any = {"metadata": {"name": op.key}, "data": {"by": op.id}}
        path = SPACE if op.kind == "create" else f"{SPACE}/{op.key}"
        if op.kind == "update":
            body["metadata"]["resourceVersion"] = str(op.expect)
        if op.kind == "delete":
            body = {"preconditions": {"resourceVersion": str(op.expect)}}
        method = {"get": "GET", "create": "POST", "update": "PUT", "delete": "DELETE"}[op.kind]
        try:
            async with self.session.request(method, server.url + path, json=None if op.kind == "get" else body,
                                            timeout=aiohttp.ClientTimeout(6)) as reply:
                found = await reply.json()
        except LOST:
            return op
        if reply.status in (404, 409):
            return replace(op, outcome="ok") if op.kind == "get" else replace(op, outcome="refused")
        if reply.status >= 300:
            return op
        if op.kind == "delete":  # its revision is not told: the truth says which deletion it was
            return replace(op, outcome="deleted")
        return replace(op, outcome="ok", revision=int(found["metadata"]["resourceVersion"]),
                       seen=found["data"]["by"] if op.kind == "get" else "")

    async def watcher(self, since: int, seed: int) -> None:
        """Goes on where it was, at any server, until it has seen the last change."""
        rng, watched = random.Random(seed), Watched(since, 0)
        self.watches.append(watched)
        at = since
        while not self.last or at < self.last:
            server = rng.choice(self.servers)
            try:
                url = f"{server.url}{SPACE}?watch=1&resourceVersion={at}&timeoutSeconds={rng.randint(1, 4)}&allowWatchBookmarks=1"
                async with self.session.get(url, timeout=aiohttp.ClientTimeout(None, sock_read=6)) as reply:
                    async for line in reply.content:
                        at = told(json.loads(line), watched, at)
            except LOST:
                await asyncio.sleep(0.05)


def told(event: Any, watched: Watched, at: int) -> int:
    assert event["type"] != "ERROR", event
    revision = int(event["object"]["metadata"]["resourceVersion"])
    if event["type"] != "BOOKMARK":
        obj = event["object"]
        by = "" if event["type"] == "DELETED" else obj["data"]["by"]
        if obj["metadata"]["name"] in (*KEYS, "end"):
            watched.changes.append(Change(revision, obj["metadata"]["name"], by))
    assert revision >= at, f"{event} after {at}"
    return revision


@dataclass
class Place:
    """What there is to be harmed."""

    servers: list[ApiServer]
    cluster: EtcdCluster
    network: Network


async def killed_server(at: Place) -> None:
    for server in at.servers:
        server.kill9()
        await asyncio.sleep(1)
        server.launch()
        await asyncio.to_thread(server.wait)


async def killed_member(at: Place) -> None:
    """Each in its turn: one of them leads."""
    for member in at.cluster.members:
        member.kill9()
        await asyncio.sleep(1.5)
        await asyncio.to_thread(member.restart)


async def paused_network(at: Place) -> None:
    await disturbed(at, "pause", "resume")


async def cut_network(at: Place) -> None:
    await disturbed(at, "cut", "mend")


async def disturbed(at: Place, harm: str, cure: str) -> None:
    at.network.every(harm)
    await asyncio.sleep(2.5)
    at.network.every(cure)
    await asyncio.sleep(1)


async def standstill(at: Place) -> None:
    for process in (at.servers[1].process, at.cluster.members[0].process, at.cluster.members[2].process):
        assert process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1)


async def both_killed(at: Place) -> None:
    at.servers[1].kill9()
    await asyncio.to_thread(at.cluster.members[0].kill9)
    at.servers[1].launch()
    await asyncio.to_thread(at.servers[1].wait)
    await asyncio.to_thread(at.cluster.members[0].restart)


FAULTS: dict[str, tuple[Callable[[Place], Awaitable[None]], ...]] = {
    "killed-apiserver": (killed_server,), "killed-etcd-member": (killed_member,), "paused-network": (paused_network,),
    "everything": (killed_server, killed_member, standstill, paused_network, cut_network, both_killed),
}


async def truth_of(etcd: EtcdClient, since: int, until: int) -> list[Change]:
    found: list[Change] = []
    async for batch in etcd.watch(FOLDER, since + 1, previous=False):
        for event in batch.events:
            by = json.loads(event.kv.value)["data"]["by"] if event.type == "PUT" else ""
            found.append(Change(event.kv.mod_revision, event.kv.key.removeprefix(FOLDER), by))
        if found and found[-1].revision >= until:
            break
    return found


def settled(ops: list[Op], truth: list[Change]) -> list[Op]:
    """Deletions with the revision that the truth gives the one that followed the version they were meant for."""
    after = {}
    for at, change in enumerate(truth):
        before = next((each for each in reversed(truth[:at]) if each.key == change.key), None)
        if before and change.deletes:
            after[change.key, before.revision] = change.revision
    return [op if op.outcome != "deleted" else replace(op, outcome="ok", revision=after.get((op.key, op.expect), -1))
            for op in ops]


def falsified(ops: list[Op], truth: list[Change], watches: list[Watched]) -> dict[str, tuple[Any, Any, Any]]:
    """The same history, but for one thing that cannot have happened."""
    first = next(op for op in ops if op.kind == "update" and op.outcome == "ok")
    gone = next(op for op in ops if op.kind == "delete" and op.outcome == "ok")
    told = watches[0]
    swapped = [told.changes[1], told.changes[0], *told.changes[2:]]
    risen = Op("late", "get", gone.key, gone.end + 1e6, gone.end + 1e6 + 1, "ok", revision=gone.expect, seen="whoever")
    return {
        "a lost update": (ops, [change for change in truth if change.revision != first.revision], []),
        "an update over another": ([replace(op, expect=op.expect - 1) if op is first else op for op in ops], truth, []),
        "a refused write that was made": ([replace(op, outcome="refused") if op is first else op for op in ops], truth, []),
        "a resurrected object": ([*ops, risen], truth, []),
        "a change not told": (ops, truth, [replace(told, changes=told.changes[1:])]),
        "a change told twice": (ops, truth, [replace(told, changes=[told.changes[0], *told.changes])]),
        "changes out of order": (ops, truth, [replace(told, changes=swapped)]),
    }


async def answered(clients: Clients, more: int) -> None:
    """Go on until so many more questions have had an answer."""
    wanted = more + sum(op.outcome != "unknown" for op in clients.ops)
    async with asyncio.timeout(120):
        while sum(op.outcome != "unknown" for op in clients.ops) <= wanted:
            await asyncio.sleep(0.1)


async def history(at: Place, fault: str) -> tuple[list[Op], list[Change], list[Watched]]:
    """What clients did, what was so and what watchers were told, while the fault came and went."""
    async with EtcdClient(EtcdConfig(at.cluster.endpoints)) as etcd:
        await etcd.txn([], [Delete(f"{FOLDER}{key}") for key in (*KEYS, "end")])
        since = await etcd.revision()
        connector = aiohttp.TCPConnector(ssl=at.servers[0].context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            clients = Clients(at.servers, session)
            users = [asyncio.create_task(clients.client(seed)) for seed in range(8)]
            watchers = [asyncio.create_task(clients.watcher(since, seed)) for seed in range(6)]
            for happens in FAULTS[fault]:
                await answered(clients, 50)
                await happens(at)
            await answered(clients, 150)
            clients.done.set()
            await asyncio.gather(*users)
            end = {"metadata": {"name": "end"}, "data": {"by": "end"}}
            async with session.post(at.servers[0].url + SPACE, json=end) as reply:
                clients.last = int((await reply.json())["metadata"]["resourceVersion"])
            await asyncio.wait_for(asyncio.gather(*watchers), 120)
        truth = [change for change in await truth_of(etcd, since, clients.last) if change.key in (*KEYS, "end")]
    for watched in clients.watches:
        watched.until = clients.last
    return settled(clients.ops, truth), truth, clients.watches


@pytest.mark.timeout(480)
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_history_is_impossible(fault: str, servers: list[ApiServer], cluster: EtcdCluster, network: Network,
                                        tmp_path: Path) -> None:
    ops, truth, watches = await history(Place(servers, cluster, network), fault)
    found = violations(ops, truth, watches)
    kept = tmp_path / "history.json"
    kept.write_text(json.dumps({"violations": found, "ops": list(map(asdict, ops)), "truth": list(map(asdict, truth)),
                                "watches": list(map(asdict, watches))}, indent=1))
    assert not found, f"{len(found)} violations in {kept}, the first: {found[:3]}"
    for what, wrong in falsified(ops, truth, watches).items():
        assert violations(*wrong), f"{what} was not found"
    told = [op for op in ops if op.outcome != "unknown"]
    assert {op.kind for op in told if op.outcome == "ok"} == {"get", "create", "update", "delete"}
    print(f"{fault}: {len(ops)} operations, {len(ops) - len(told)} without an answer, {len(truth)} changes")
