"""The etcd client against real members: verbs, errors by class, TLS, login, failover, and another library's eyes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from etcdserver import EtcdCluster, EtcdServer, make_pki, shared_etcd

from nodecore.errors import AlreadyExists, Denied, Expired, Invalid, NotFound, Unreachable, UserError
from nodecore.etcd.client import Compare, Delete, EtcdClient, EtcdConfig, Get, Put, absent, parse_endpoints, unchanged
from tests.promised import at_some_pace

__all__ = ["shared_etcd"]
pytestmark = pytest.mark.etcd


@pytest.fixture
async def etcd(shared_etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(EtcdConfig(shared_etcd.endpoints)) as client:
        yield client
        await client.delete_prefix("")


async def test_key_values(etcd: EtcdClient) -> None:
    first = await etcd.put("/kv/a", b"1")
    second = await etcd.put("/kv/a", b"2")
    assert second == first + 1
    found = await etcd.get("/kv/a")
    assert found is not None
    assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"2", first, second, 2)
    past = await etcd.get("/kv/a", revision=first)
    assert past is not None
    assert past.value == b"1"
    assert await etcd.delete("/kv/a") is True
    assert await etcd.delete("/kv/a") is False
    assert await etcd.get("/kv/a") is None


async def test_range_pages_at_one_revision(etcd: EtcdClient) -> None:
    for name in "abcde":
        await etcd.put(f"/range/{name}", name.encode())
    await etcd.put("/rangf", b"not below the prefix")
    page = await etcd.range("/range/", limit=2)
    await etcd.put("/range/aa", b"later")
    rest = await etcd.range("/range/", revision=page.revision, start=page.items[-1].key + "\0", keys_only=True)
    assert [kv.key[-1] for kv in (*page.items, *rest.items)] == list("abcde")
    assert page.more
    assert page.count == 5
    assert not rest.more
    assert {kv.value for kv in rest.items} == {b""}


async def test_transactions(etcd: EtcdClient) -> None:
    made = await etcd.txn([absent("/txn/a")], [Put("/txn/a", b"1"), Put("/txn/b", b"2")])
    again = await etcd.txn([absent("/txn/a")], [Put("/txn/a", b"x")], [Get("/txn/", prefix=True)])
    assert made.succeeded
    assert not again.succeeded
    there = {kv.key: kv.mod_revision for kv in again.responses[0].items}
    assert there == {"/txn/a": made.revision, "/txn/b": made.revision}
    by_value = await etcd.txn(
        [Compare("/txn/a", "value", "=", b"1"), Compare("/txn/b", "version", "<", 2), unchanged("/txn/b", made.revision)],
        [Delete("/txn/", prefix=True)],
    )
    assert by_value.succeeded
    assert [kv.value for kv in by_value.responses[0].items] == [b"1", b"2"]
    await etcd.create("/txn/once", b"")
    with pytest.raises(AlreadyExists):
        await etcd.create("/txn/once", b"")


async def test_leases(etcd: EtcdClient) -> None:
    lease = await etcd.grant(60)
    await etcd.put("/lease/a", b"", lease=lease)
    status = await etcd.time_to_live(lease)
    assert (status.granted, status.keys) == (60, ("/lease/a",))
    assert await etcd.keepalive_once(lease) == 60
    with pytest.raises(AlreadyExists):
        await etcd.grant(60, lease)
    await etcd.revoke(lease)
    assert await etcd.get("/lease/a") is None
    assert (await etcd.time_to_live(lease)).ttl == -1
    with pytest.raises(NotFound):
        await etcd.keepalive_once(lease)
    with pytest.raises(NotFound):
        await etcd.put("/lease/a", b"", lease=lease)


async def test_compacted_revision_is_expired(etcd: EtcdClient) -> None:
    old = await etcd.put("/compact", b"1")
    new = await etcd.put("/compact", b"2")
    await etcd.compact(new)
    with pytest.raises(Expired):
        await etcd.get("/compact", revision=old)
    with pytest.raises(Expired):
        await etcd.compact(new)
    with pytest.raises(Expired, match=f"oldest left is {new}"):
        await anext(etcd.watch("/compact", old))


@pytest.mark.parametrize("megabytes", [2, 3])
async def test_what_is_too_large_is_not_tried_again(etcd: EtcdClient, megabytes: int) -> None:
    """etcd refuses the one, its gRPC the other, with the code of a member that is busy."""
    with pytest.raises(Invalid, match=r"larg"):
        await etcd.put("/large", b"x" * (megabytes * 1024 * 1024))


async def test_answers_larger_than_grpcs_usual_limit(etcd: EtcdClient) -> None:
    for i in range(6):
        await etcd.put(f"/large/{i}", bytes(1_000_000))
    assert sum(len(kv.value) for kv in (await etcd.range("/large/")).items) == 6_000_000


async def test_another_library_reads_the_same(etcd: EtcdClient, shared_etcd: EtcdServer) -> None:
    """PyPI's etcd3 in a process of its own: its generated code needs protobuf's Python implementation."""
    await etcd.put("/eyes/ours", b"\x00\xffbytes")
    script = (
        "import sys, json, etcd3\n"
        "c = etcd3.client(host='127.0.0.1', port=int(sys.argv[1]))\n"
        "value, meta = c.get('/eyes/ours')\n"
        "c.put('/eyes/theirs', 'hello')\n"
        "print(json.dumps([value.hex(), meta.key.decode(), meta.mod_revision, meta.create_revision]))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(shared_etcd.client_port)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )
    if "ImportError" in child.stderr or "ModuleNotFoundError" in child.stderr:
        pytest.skip(f"the etcd3 package cannot be imported: {child.stderr.strip().splitlines()[-1]}")
    assert child.returncode == 0, child.stderr
    ours = await etcd.get("/eyes/ours")
    assert ours is not None
    assert json.loads(child.stdout) == [ours.value.hex(), ours.key, ours.mod_revision, ours.create_revision]
    theirs = await etcd.get("/eyes/theirs")
    assert theirs is not None
    assert theirs.value == b"hello"


@pytest.mark.parametrize("text", [
    "", ",", "http://", "ftp://host:2379", "http://host", "http://host:port", "http://host:2379/path", "host", "http://[::1",
    "http://host:99999",
])
def test_wrong_endpoint_names_the_flag(text: str) -> None:
    with pytest.raises(UserError, match=r"^--etcd-servers: ") as caught:
        parse_endpoints(text, what="--etcd-servers")
    assert "\n" not in str(caught.value)


def test_endpoints() -> None:
    texts = parse_endpoints("http://a:1, https://b:2,[::1]:3")
    config = EtcdConfig(texts, ca="ca.crt")
    assert [(target.address, target.tls) for target in config.targets()] == [("a:1", False), ("b:2", True), ("[::1]:3", True)]


def test_wrong_files_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"/nowhere/ca\.crt"):
        EtcdClient(EtcdConfig(("https://a:1",), ca="/nowhere/ca.crt"))
    with pytest.raises(UserError, match="go together"):
        EtcdConfig(("https://a:1",), cert="a.crt")


async def test_nobody_there_is_unreachable_within_the_timeout() -> None:
    async def attempt(pace: float) -> None:
        async with EtcdClient(EtcdConfig(("http://127.0.0.1:9",)), timeout=0.5 * pace) as client:
            start = time.monotonic()
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*refused"):
                await client.get("/a")
            with pytest.raises(Unreachable):
                await client.put("/a", b"")
            assert time.monotonic() - start < 2 * pace

    await at_some_pace(attempt)


@pytest.mark.slow
async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    with EtcdServer.start(tls=pki) as server:
        async with EtcdClient(EtcdConfig(server.endpoints, pki.ca, pki.cert, pki.key)) as client:
            revision = await client.put("/tls", b"1")
            assert (await anext(client.watch("/tls", revision))).events[0].kv.value == b"1"
        async with EtcdClient(EtcdConfig(server.endpoints, pki.ca), timeout=1) as stranger:
            with pytest.raises(Unreachable):
                await stranger.get("/tls")
        other = tmp_path / "other"
        other.mkdir()
        strange = EtcdConfig(server.endpoints, make_pki(other).ca, pki.cert, pki.key)

        async def told(pace: float) -> None:
            async with EtcdClient(strange, timeout=pace) as wary:
                with pytest.raises(Unreachable, match=r"(?i)certificate"):
                    await wary.get("/tls")

        await at_some_pace(told)


@pytest.mark.slow
async def test_login_and_its_renewal() -> None:
    with EtcdServer.start(extra=("--auth-token-ttl", "1")) as server:
        def ctl(*argv: str) -> None:
            subprocess.run(["etcdctl", "--endpoints", server.endpoint, *argv], check=True, capture_output=True, timeout=120,
                           env={**os.environ, "ETCDCTL_API": "3"})
        ctl("user", "add", "root:secret")
        ctl("user", "grant-role", "root", "root")
        ctl("user", "add", "reader:pass")
        ctl("role", "add", "reads")
        ctl("role", "grant-permission", "reads", "--prefix=true", "read", "/open/")
        ctl("user", "grant-role", "reader", "reads")
        ctl("auth", "enable")
        config = EtcdConfig(server.endpoints, username="root", password="secret")
        mortal = replace(config, username="reader", password="pass")
        async with EtcdClient(config) as root, EtcdClient(mortal) as reader, EtcdClient(mortal) as listener:
            revision = await root.put("/open/a", b"1")
            lonely = listener.watch("/open/", revision)  # nothing else is asked through this client
            await anext(lonely)
            watch = reader.watch("/open/", revision)
            assert (await anext(watch)).events[0].kv.value == b"1"
            with pytest.raises(Denied):
                await reader.put("/open/a", b"2")
            with pytest.raises(Denied):
                await anext(reader.watch("/closed/", 0))
            server.kill9()
            await asyncio.to_thread(server.restart)  # it has forgotten every token
            assert await root.put("/open/b", b"2") > revision
            for each in (watch, lonely):
                async with asyncio.timeout(60):
                    assert (await anext(each)).events[0].kv.key == "/open/b"
            assert await reader.get("/open/b") is not None
        async with EtcdClient(replace(config, password="wrong")) as wrong:
            with pytest.raises(Denied):
                await wrong.get("/open/a")
        async with EtcdClient(EtcdConfig(server.endpoints)) as nobody:
            with pytest.raises(Denied):
                await nobody.get("/open/a")


@pytest.mark.slow
async def test_failover() -> None:
    """Three members, one after the other killed, and one that only hangs: reads, writes and the watch go on."""
    with EtcdCluster.start(3) as cluster:
        async with EtcdClient(EtcdConfig(cluster.endpoints), timeout=60) as client:
            revision = await client.put("/f/0", b"")
            watch = client.watch("/f/", revision)
            seen: list[str] = []

            async def follow() -> None:
                async for batch in watch:
                    seen.extend(event.kv.key for event in batch.events)

            task = asyncio.create_task(follow())
            for round_, member in enumerate(cluster.members, 1):
                await asyncio.to_thread(member.kill9)
                assert await client.get("/f/0") is not None
                await _put(client, f"/f/{round_}")
                await asyncio.to_thread(member.restart)
            await _until(lambda: seen == ["/f/0", "/f/1", "/f/2", "/f/3"], lambda: f"{seen}")
            task.cancel()
        async with (
            EtcdClient(EtcdConfig(cluster.endpoints), timeout=6) as client,
            EtcdClient(EtcdConfig(cluster.endpoints[1:])) as rest,
        ):
            watch = client.watch("/f/3", 1)
            await anext(watch)
            cluster.members[0].pause()
            try:
                assert await client.get("/f/1") is not None
                await _put(rest, "/f/3/later")
                async with asyncio.timeout(60):
                    assert (await anext(watch)).events[0].kv.key == "/f/3/later"
            finally:
                cluster.members[0].resume()


@pytest.mark.slow
async def test_a_member_without_a_majority_does_not_answer_from_the_past() -> None:
    with EtcdCluster.start(3) as cluster:
        async with EtcdClient(EtcdConfig(cluster.endpoints[:1])) as patient:
            await patient.put("/m", b"")
        async with EtcdClient(EtcdConfig(cluster.endpoints[:1]), timeout=2) as client:
            for member in cluster.members[1:]:
                member.kill9()
            with pytest.raises(Unreachable):
                await client.get("/m")


async def _put(client: EtcdClient, key: str) -> None:
    """A put that may have been cut off in the middle is made again only if it did not get through."""
    while True:
        try:
            await client.txn([absent(key)], [Put(key, b"")])
        except Unreachable:
            continue
        return


async def _until(done: object, what: object) -> None:
    deadline = time.monotonic() + 60
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline, what()  # type: ignore[operator]
        await asyncio.sleep(0.02)
