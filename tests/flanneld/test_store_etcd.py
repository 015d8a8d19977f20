"""Leases in a real etcd: races, reservations, compaction, partitions, a full disk, users, TLS, members that die.

Over loopback: gRPC's threads keep the namespace they were made in.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cuttable import forwarder
from etcdserver import EtcdCluster, EtcdServer, make_pki

from flanneld_py.lease import Part
from flanneld_py.netconf import parse_netconf
from flanneld_py.store.etcd import EtcdLeaseStore
from flanneld_py.store.port import Held, Snapshot, Wish
from flanneld_py.tenure import Tenure
from nodecore.errors import Busy, Denied, Fault, Unreachable
from nodecore.etcd.client import EtcdClient, EtcdConfig
from nodecore.net import Family
from tests.promised import at_some_pace

PREFIX = "/coreos.com/network"
CONF = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
DUAL = CONF | {"EnableIPv6": True, "IPv6Network": "fd00:5::/48"}
pytestmark = pytest.mark.etcd


def wish(number: int, config: dict[str, Any] = CONF) -> Wish:
    def data(family: Family, before: Part | None) -> dict[str, Any]:
        return {"VNI": 1, "VtepMAC": f"02:00:00:00:{number // 256:02x}:{number % 256:02x}"}

    conf = parse_netconf(json.dumps(config))
    public = {Family.IPV4: ip_address("192.168.0.0") + number, Family.IPV6: ip_address("2001:db8::") + number}
    return Wish(conf, {family: public[family] for family in conf.families}, (), data)


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer.start() as made:
        yield made


@pytest.fixture
async def etcd(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(EtcdConfig(server.endpoints)) as client:
        await client.delete_prefix("")
        yield client


async def subnets(client: EtcdClient) -> dict[str, Any]:
    found = await client.range(f"{PREFIX}/subnets/")
    return {item.key.rpartition("/")[2]: item for item in found.items}


async def until(what: Callable[[], object], why: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def followed(store: EtcdLeaseStore, *takers: Callable[[Snapshot], None]) -> AsyncIterator[list[Snapshot]]:
    """Everything `watch` says."""
    seen: list[Snapshot] = []

    async def follow() -> None:
        async for snapshot in store.watch():
            seen.append(snapshot)
            for take in takers:
                take(snapshot)

    task = asyncio.create_task(follow())
    try:
        await until(lambda: seen, "the first list")
        yield seen
        assert not task.done(), task.exception()
    finally:
        task.cancel()


# --- allocation --------------------------------------------------------------------------------------------------


async def test_a_hundred_nodes_at_once_get_a_hundred_subnets(server: EtcdServer, etcd: EtcdClient) -> None:
    clients = [EtcdClient(EtcdConfig(server.endpoints)) for _ in range(10)]
    try:
        stores = [EtcdLeaseStore(clients[number % 10], PREFIX) for number in range(100)]
        before = transactions(server)
        held = await asyncio.gather(*(store.acquire(wish(number + 1)) for number, store in enumerate(stores)))
        tried = transactions(server) - before
    finally:
        for client in clients:
            await client.close()
    assert len({one.lease.key for one in held}) == 100
    assert (await subnets(etcd)).keys() == {one.lease.key for one in held}
    assert len({one.handle for one in held}) == 100
    print(f"{tried} transactions")
    assert tried < 500, "who loses a race chooses among what is left"


def transactions(server: EtcdServer) -> int:
    """How many etcd has answered so far."""
    with urllib.request.urlopen(f"{server.endpoint}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    counts = re.findall(r'^grpc_server_handled_total\{[^}]*grpc_method="Txn"[^}]*\} (\S+)$', text, re.M)
    return sum(int(float(count)) for count in counts)


async def test_what_is_of_two_families_is_given_out_once_in_each(etcd: EtcdClient) -> None:
    """Two nodes choose the same IPv4 subnet with different IPv6 ones: different keys, so both are written; one makes way."""

    class Dice(random.Random):
        def __init__(self, *numbers: int) -> None:
            super().__init__(1)
            self.numbers = list(numbers)

        def randrange(self, stop: int) -> int:  # type: ignore[override]
            return self.numbers.pop(0) if self.numbers else super().randrange(stop)

    one, two = EtcdLeaseStore(etcd, PREFIX, rng=Dice(5, 5)), EtcdLeaseStore(etcd, PREFIX, rng=Dice(5, 6))
    held = await asyncio.gather(one.acquire(wish(1, DUAL)), two.acquire(wish(2, DUAL)))
    parts = [part.subnet for each in held for part in each.lease.parts]
    assert len(parts) == len(set(parts)) == 4
    assert (await subnets(etcd)).keys() == {each.lease.key for each in held}


async def test_losing_a_race_leaves_no_etcd_lease_behind(server: EtcdServer, etcd: EtcdClient) -> None:
    small = {"Network": "10.5.0.0/24", "SubnetLen": 28}
    before = leases_of(server)
    held = await asyncio.gather(*(EtcdLeaseStore(etcd, PREFIX).acquire(wish(number, small)) for number in range(1, 16)))
    assert leases_of(server) - before == {each.handle for each in held}


def leases_of(server: EtcdServer) -> set[int]:
    return {int(line, 16) for line in ctl(server, "lease", "list").splitlines()[1:]}


def ctl(server: EtcdServer, *argv: str, user: str = "") -> str:
    flags = ["--user", user] if user else []
    return subprocess.run(["etcdctl", "--endpoints", server.endpoint, *flags, *argv], check=True, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "ETCDCTL_API": "3"}).stdout


# --- what others wrote -------------------------------------------------------------------------------------------


async def test_reservations_are_kept_used_and_never_given_to_others(etcd: EtcdClient) -> None:
    """However the hand that wrote them spelled the key, and whatever nonsense it wrote as the value."""
    ours = f"{PREFIX}/subnets/10.5.7.0-24&fd00:0005:0:7::-64"
    await etcd.put(ours, b'{"PublicIP":"192.168.0.1","PublicIPv6":"2001:db8::1"}')
    await etcd.put(f"{PREFIX}/subnets/10.5.1.0-24", b"for the printers")
    await etcd.put(f"{PREFIX}/subnets/10.5.2.0-24", b"")
    held = await EtcdLeaseStore(etcd, PREFIX).acquire(wish(1, DUAL))
    assert (held.handle, held.lease.key) == (0, "10.5.7.0-24&fd00:5:0:7::-64")
    assert (await etcd.get(ours)).lease == 0  # type: ignore[union-attr]
    small = {"Network": "10.5.0.0/22", "SubnetLen": 24}
    third = await EtcdLeaseStore(etcd, PREFIX).acquire(wish(3, small))
    assert third.lease.key == "10.5.3.0-24"
    async with followed(EtcdLeaseStore(etcd, PREFIX)) as seen:
        assert seen[0].leases[held.lease.key] == held.lease, "by the name we know it by, so that nobody thinks it was lost"


GO = b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"3a:9a:ba:bd:3d:7c"}}'


async def test_what_go_flanneld_wrote_is_taken_over_unchanged(etcd: EtcdClient) -> None:
    """Neither key nor value is written; the etcd lease it hangs on is the one we renew."""
    key = f"{PREFIX}/subnets/10.5.75.0-24"
    handle = await etcd.grant(60)
    written = await etcd.put(key, GO, lease=handle)

    def data(family: Family, before: Part | None) -> dict[str, Any]:
        assert before is not None
        return {"VNI": 1, "VtepMAC": before.data["VtepMAC"]}

    go = replace(wish(1), public={Family.IPV4: ip_address("192.168.77.1")}, data=data)
    held = await EtcdLeaseStore(etcd, PREFIX).acquire(go)
    found = await etcd.get(key)
    assert found is not None
    assert (found.value, found.mod_revision, held.handle, held.seconds) == (GO, written, handle, 60.0)
    await etcd.delete(key)
    anew = replace(go, data=lambda family, before: {"VNI": 1, "VtepMAC": "3a:9a:ba:bd:3d:7c"},
                   previous=(ip_network("10.5.75.0/24"),))
    ours = await EtcdLeaseStore(etcd, PREFIX).acquire(anew)
    again = await etcd.get(key)
    assert again is not None
    assert (again.value, ours.lease) == (GO, held.lease), "byte for byte"
    assert (await etcd.time_to_live(again.lease)).granted == 86400


# --- trouble -----------------------------------------------------------------------------------------------------


async def test_compacted_while_away(server: EtcdServer, etcd: EtcdClient) -> None:
    """What came and what went meanwhile is known afterwards; the network in between is nobody's business."""
    await EtcdLeaseStore(etcd, PREFIX).acquire(wish(1))
    gone = await EtcdLeaseStore(etcd, PREFIX).acquire(wish(2))
    async with (
        forwarder(server.client_port) as way, EtcdClient(EtcdConfig((f"http://127.0.0.1:{way.port}",))) as far,
        followed(EtcdLeaseStore(far, PREFIX)) as seen,
    ):
        assert len(seen[-1].leases) == 2
        way.cut()
        await etcd.delete(f"{PREFIX}/subnets/{gone.lease.key}")
        new = await EtcdLeaseStore(etcd, PREFIX).acquire(wish(3))
        await etcd.compact(await etcd.put("/else", b""))
        way.mend()
        await until(lambda: new.lease.key in seen[-1].leases, "the new one")
        assert gone.lease.key not in seen[-1].leases


@pytest.mark.slow
async def test_cut_off_for_longer_than_the_lease_lasts(server: EtcdServer, etcd: EtcdClient) -> None:
    """It ends, and once the way is free it is taken back: the same subnet, with no word to the network."""
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async with forwarder(server.client_port) as way, EtcdClient(EtcdConfig((f"http://127.0.0.1:{way.port}",)), timeout=1) as far:
        store = EtcdLeaseStore(far, PREFIX, ttl=2)
        tenure = Tenure(store, wish(1), 1.0, changed)
        await tenure.begin()
        lease, key = tenure.lease, f"{PREFIX}/subnets/{tenure.lease.key}"
        task = asyncio.create_task(tenure.run())
        async with followed(store, tenure.see):
            way.cut()
            deadline = time.monotonic() + 60
            while await etcd.get(key):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert tenure.lease == lease
            way.mend()
            await until(lambda: changes, "taken back")
            found = await etcd.get(key)
            assert found is not None
            assert (tenure.lease, found.lease != 0) == (lease, True)
        task.cancel()


@pytest.mark.slow
async def test_a_renewal_that_fails_is_made_up_for_in_time(
    server: EtcdServer, etcd: EtcdClient, caplog: pytest.LogCaptureFixture,
) -> None:
    """Cut off around the moment of renewal, free again before the end: the lease does not end."""
    async with forwarder(server.client_port) as way, EtcdClient(EtcdConfig((f"http://127.0.0.1:{way.port}",)), timeout=1) as far:
        tenure = Tenure(EtcdLeaseStore(far, PREFIX, ttl=10), wish(1), 9.0, lambda: None)
        await tenure.begin()
        created, end = (await subnets(etcd))[tenure.lease.key].create_revision, tenure.ends
        task = asyncio.create_task(tenure.run())
        way.cut()
        await until(lambda: "cannot renew our lease" in caplog.text, "the renewal, due after one second of ten, fails")
        way.mend()
        await until(lambda: tenure.ends != end, "it is made up for")
        assert (await subnets(etcd))[tenure.lease.key].create_revision == created
        task.cancel()


@pytest.mark.slow
async def test_a_full_disk_is_told_once_and_harms_nobody_who_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """etcd's NOSPACE alarm: leases are kept and renewed, newcomers wait without a hot loop and get theirs afterwards."""
    async def attempt(pace: float) -> None:
        caplog.clear()
        with EtcdServer.start(extra=("--quota-backend-bytes", str(8 * 1024 * 1024))) as server:
            async with EtcdClient(EtcdConfig(server.endpoints)) as client:
                store = EtcdLeaseStore(client, PREFIX, ttl=int(4 * pace))
                old = Tenure(store, wish(1), 2.0 * pace, lambda: None)
                await old.begin()
                task = asyncio.create_task(old.run())
                with pytest.raises(Busy, match="database space exceeded"):
                    await fill(client)
                new = Tenure(store, wish(2), 2.0 * pace, lambda: None)
                waiting = asyncio.create_task(new.begin())
                await asyncio.sleep(6 * pace)
                assert not waiting.done()
                assert (await subnets(client)).keys() == {old.lease.key}, "renewed meanwhile"
                assert caplog.text.count("database space exceeded") == 1
                await client.delete_prefix("/filler/")
                await client.compact(await client.revision())
                ctl(server, "defrag")
                ctl(server, "alarm", "disarm")
                await asyncio.wait_for(waiting, 90)
                assert (await subnets(client)).keys() == {old.lease.key, new.lease.key}
                task.cancel()

    await at_some_pace(attempt)


async def fill(client: EtcdClient) -> None:
    for number in range(64):
        await client.put(f"/filler/{number}", os.urandom(512 * 1024))


@pytest.mark.slow
async def test_a_user_whose_token_expires_and_who_sees_his_keys_only() -> None:
    async def attempt(pace: float) -> None:
        with EtcdServer.start(extra=("--auth-token-ttl", "1")) as server:
            for argv in (["user", "add", "root:secret"], ["user", "grant-role", "root", "root"], ["user", "add", "flannel:pass"],
                         ["role", "add", "flannel"], ["user", "grant-role", "flannel", "flannel"],
                         ["role", "grant-permission", "flannel", "--prefix=true", "readwrite", PREFIX], ["auth", "enable"]):
                ctl(server, *argv)
            ctl(server, "put", f"{PREFIX}/config", json.dumps(CONF), user="root:secret")
            config = EtcdConfig(server.endpoints, username="flannel", password="pass")
            async with EtcdClient(config) as client, EtcdClient(replace(config, username="root", password="secret")) as root:
                store = EtcdLeaseStore(client, PREFIX, ttl=int(3 * pace))
                assert json.loads(await store.config() or "") == CONF
                tenure = Tenure(store, wish(1), 1.5 * pace, lambda: None)
                await tenure.begin()
                created = (await subnets(root))[tenure.lease.key].create_revision
                task = asyncio.create_task(tenure.run())
                async with followed(store, tenure.see) as seen:
                    await asyncio.sleep(4 * pace)  # several lives of a token, and more than one of the lease
                    other = await EtcdLeaseStore(root, PREFIX).acquire(wish(2))
                    await until(lambda: other.lease.key in seen[-1].leases, "a newcomer")
                    assert (await subnets(root))[tenure.lease.key].create_revision == created
                    server.kill9()
                    await asyncio.to_thread(server.restart)  # it has forgotten every token
                    third = await EtcdLeaseStore(root, PREFIX).acquire(wish(3))
                    await until(lambda: third.lease.key in seen[-1].leases, "another")
                    assert (await store.acquire(wish(1))).lease == tenure.lease
                task.cancel()
                with pytest.raises(Denied):
                    await EtcdLeaseStore(client, "/other").config()

    await at_some_pace(attempt)


@pytest.mark.slow
async def test_members_die_one_after_the_other() -> None:
    """The first endpoint is nobody, as in the default of the flag; leases are taken, renewed and watched all the same."""
    async def attempt(pace: float) -> None:
        with EtcdCluster.start(3) as cluster:
            config = EtcdConfig(("http://127.0.0.1:9", *cluster.endpoints))
            async with EtcdClient(config) as client, EtcdClient(EtcdConfig(cluster.endpoints)) as other:
                store = EtcdLeaseStore(client, PREFIX, ttl=int(5 * pace))
                tenure = Tenure(store, wish(1), 3.0 * pace, lambda: None)
                assert min([await first_answer(config) for _ in range(3)]) < 2
                await tenure.begin()
                created = (await subnets(client))[tenure.lease.key].create_revision
                task = asyncio.create_task(tenure.run())
                async with followed(store, tenure.see) as seen:
                    for number, member in enumerate(cluster.members, 2):
                        member.kill9()
                        new = await insist(other, number)
                        await until(lambda: new.lease.key in seen[-1].leases, "the newcomer")  # noqa: B023
                        await asyncio.to_thread(member.restart)
                    await asyncio.sleep(3 * pace)
                assert (await subnets(client))[tenure.lease.key].create_revision == created
                task.cancel()

    await at_some_pace(attempt)


async def first_answer(config: EtcdConfig) -> float:
    """How many seconds a new client waits for it."""
    async with EtcdClient(config) as client:
        start = time.monotonic()
        await EtcdLeaseStore(client, PREFIX).config()
        return time.monotonic() - start


async def insist(client: EtcdClient, number: int) -> Held:
    while True:
        try:
            return await EtcdLeaseStore(client, PREFIX).acquire(wish(number))
        except Fault:
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_an_authority_alone_is_enough_for_tls(tmp_path: Path) -> None:
    """Go flanneld ignores the CA file where no client certificate is given; here it is what etcd is checked by."""
    pki = make_pki(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with EtcdServer.start(tls=pki, client_auth=False) as server:
        async with EtcdClient(EtcdConfig(server.endpoints, pki.ca)) as client:
            assert (await EtcdLeaseStore(client, PREFIX).acquire(wish(1))).handle
        for wrong in (EtcdConfig(server.endpoints, make_pki(other).ca), EtcdConfig(server.endpoints)):
            async def told(pace: float, wrong: EtcdConfig = wrong) -> None:
                async with EtcdClient(wrong, timeout=pace) as wary:
                    with pytest.raises(Unreachable, match=r"(?i)certificate"):
                        await EtcdLeaseStore(wary, PREFIX).config()

            await at_some_pace(told)
