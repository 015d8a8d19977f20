"""Two API servers over three etcd members, killed and stopped under load: what clients and watchers saw can have happened.

Clients read, create, update and delete a few objects, each time from the version they saw; who got no answer does not know.
The truth is etcd's own history. A bad history is kept as a file, named in the failure.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nodecore.etcd.client import EtcdClient, EtcdConfig
from tests.apiserver.apiprocess import ApiServer
from tests.apiserver.history import Change, Op, Watched, violations
from tests.etcdserver import EtcdCluster, free_ports

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
SPACE, FOLDER = "/api/v1/namespaces/default/configmaps", "/registry/configmaps/default/"
KEYS = ("one", "two", "three")
LOST = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster.start(3) as found:
        yield found


@pytest.fixture
def servers(cluster: EtcdCluster) -> Iterator[list[ApiServer]]:
    one = ApiServer.start(cluster.members[0], "--etcd-servers", ",".join(cluster.endpoints))
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


async def trouble(servers: list[ApiServer], cluster: EtcdCluster) -> None:
    """A server killed, a member killed, a server stopped for a while, a member stopped for a while."""
    def stopped(process: Any, number: int) -> None:
        process.send_signal(number)

    await asyncio.sleep(2)
    servers[0].kill9()
    await asyncio.sleep(1)
    servers[0].launch()
    await asyncio.to_thread(servers[0].wait)
    cluster.members[1].kill9()
    await asyncio.sleep(3)
    await asyncio.to_thread(cluster.members[1].restart)
    for process in (servers[1].process, cluster.members[0].process, cluster.members[2].process):
        stopped(process, signal.SIGSTOP)
        await asyncio.sleep(2.5)
        stopped(process, signal.SIGCONT)
        await asyncio.sleep(1)
    servers[1].kill9()
    await asyncio.to_thread(cluster.members[0].kill9)
    servers[1].launch()
    await asyncio.to_thread(servers[1].wait)
    await asyncio.to_thread(cluster.members[0].restart)
    await asyncio.sleep(1)


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


@pytest.mark.timeout(480)
async def test_no_history_is_impossible(servers: list[ApiServer], cluster: EtcdCluster) -> None:
    async with EtcdClient(EtcdConfig(cluster.endpoints)) as etcd:
        since = await etcd.revision()
        connector = aiohttp.TCPConnector(ssl=servers[0].context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            clients = Clients(servers, session)
            users = [asyncio.create_task(clients.client(seed)) for seed in range(8)]
            watchers = [asyncio.create_task(clients.watcher(since, seed)) for seed in range(6)]
            await trouble(servers, cluster)
            async with asyncio.timeout(120):
                while sum(op.outcome != "unknown" for op in clients.ops) <= 300:
                    await asyncio.sleep(0.1)
            clients.done.set()
            await asyncio.gather(*users)
            end = {"metadata": {"name": "end"}, "data": {"by": "end"}}
            async with session.post(servers[0].url + SPACE, json=end) as reply:
                clients.last = int((await reply.json())["metadata"]["resourceVersion"])
            await asyncio.wait_for(asyncio.gather(*watchers), 120)
        truth = [change for change in await truth_of(etcd, since, clients.last) if change.key in (*KEYS, "end")]
    for watched in clients.watches:
        watched.until = clients.last
    ops = settled(clients.ops, truth)
    found = violations(ops, truth, clients.watches)
    if found:
        kept = Path(tempfile.mkstemp(prefix="history-", suffix=".json")[1])
        kept.write_text(json.dumps({"violations": found, "ops": list(map(asdict, ops)), "truth": list(map(asdict, truth)),
                                    "watches": list(map(asdict, clients.watches))}, indent=1))
        raise AssertionError(f"{len(found)} violations in {kept}, the first: {found[:3]}")
    answered = [op for op in ops if op.outcome != "unknown"]
    assert len(answered) > 300
    assert {op.kind for op in answered if op.outcome == "ok"} == {"get", "create", "update", "delete"}
    print(f"{len(ops)} operations, {len(ops) - len(answered)} without an answer, {len(truth)} changes, {len(watchers)} watchers")
