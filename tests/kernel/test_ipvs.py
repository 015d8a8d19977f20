"""IPVS: the fake and the kernel held to the same contract; pyroute2 as a second reader and writer of the messages.

The kernel's part needs ip_vs: where that is not there it is skipped, and run in the virtual machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nodecore.errors import Fault, NotFound
from nodecore.kernel.batch import attribute
from nodecore.kernel.fakeipvs import FakeIpvs
from nodecore.kernel.ipvs import (
    CMD_SERVICE,
    Ipvs,
    pack_destination,
    pack_server,
    read_destination,
    read_server,
)
from nodecore.kernel.netns import Netns
from nodecore.kernel.virtualserver import Destination, Server, ServerKey, Timeouts
from tests.kernelmodules import need_ipvs

WEB, DNS = ServerKey("10.96.0.1", "tcp", 80), ServerKey("10.96.0.2", "udp", 53)
SIX, SIGNAL = ServerKey("fd96::1", "tcp", 80), ServerKey("10.96.0.3", "sctp", 132)
SERVERS = [Server(WEB), Server(DNS, "lc"), Server(SIX, persistence=10800), Server(SIGNAL, "sh", 60)]
BEHIND = [
    Destination(WEB, "10.244.1.2", 8080), Destination(WEB, "10.244.1.3", 8080, 0), Destination(DNS, "10.244.1.2", 53),
    Destination(SIX, "fd44::2", 8080), Destination(SIGNAL, "10.244.1.4", 132),
]
Kernel = Ipvs | FakeIpvs


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    if request.param == "fake":
        yield FakeIpvs()
        return
    need_ipvs()
    with Netns.create() as space, contextlib.closing(Ipvs(space.path)) as real:
        yield real


def state(kernel: Kernel) -> tuple[list[Server], list[tuple[Destination, int]]]:
    servers = sorted(kernel.servers())
    found = kernel.destinations(server.key for server in servers)
    return servers, sorted((item, item.connections) for item in found)


def filled(kernel: Kernel) -> Kernel:
    assert kernel.put_servers(SERVERS) == [None] * 4
    assert kernel.put_destinations(BEHIND) == [None] * 5
    return kernel


def kinds(answers: list[Fault | None]) -> list[type]:
    return [type(answer) for answer in answers]


def test_what_is_put_is_there(kernel: Kernel) -> None:
    assert state(kernel) == ([], [])
    filled(kernel)
    assert state(kernel) == (sorted(SERVERS), sorted((item, 0) for item in BEHIND))


def test_putting_again_changes(kernel: Kernel) -> None:
    filled(kernel)
    changed = [Server(WEB, "wlc", 5), Server(SIX)]
    assert kernel.put_servers(changed) == [None, None]
    assert kernel.put_destinations([replace(item, weight=1 - item.weight) for item in BEHIND]) == [None] * 5
    servers, behind = state(kernel)
    assert servers == sorted([*changed, SERVERS[1], SERVERS[3]])
    assert [item for item, _ in behind] == sorted(replace(item, weight=1 - item.weight) for item in BEHIND)


def test_removing(kernel: Kernel) -> None:
    filled(kernel)
    assert kernel.remove_destinations([BEHIND[0], BEHIND[0]]) == [None, None], "what is gone is gone"
    assert kernel.remove_servers([DNS, SIX, DNS]) == [None, None, None]
    servers, behind = state(kernel)
    assert servers == sorted([SERVERS[0], SERVERS[3]])
    assert [item for item, _ in behind] == sorted([BEHIND[1], BEHIND[4]])
    assert kernel.destinations([DNS]) == []


def test_one_that_fails_keeps_nobody_back(kernel: Kernel) -> None:
    assert kinds(kernel.put_servers([Server(WEB, "nonesuch"), Server(DNS)])) == [NotFound, type(None)]
    assert kinds(kernel.put_destinations([BEHIND[0], BEHIND[2]])) == [NotFound, type(None)], "no server, no destination"
    assert state(kernel) == ([Server(DNS)], [(BEHIND[2], 0)])


def test_many(kernel: Kernel) -> None:
    servers = [Server(ServerKey(f"10.97.{number >> 8}.{number & 255}", "tcp", 80)) for number in range(1000)]
    behind = [Destination(server.key, address, 8080) for server in servers for address in ("10.244.1.2", "10.244.2.2")]
    assert set(kernel.put_servers(servers)) == set(kernel.put_destinations(behind)) == {None}
    assert [item for item, _ in state(kernel)[1]] == sorted(behind)
    assert set(kernel.remove_servers([server.key for server in servers])) == {None}
    assert state(kernel) == ([], [])


def test_timeouts(kernel: Kernel) -> None:
    kernel.set_timeouts(Timeouts())
    kernel.set_timeouts(Timeouts(tcp=1000, udp=30))


# A second opinion of the messages


def told(body: bytes) -> dict[str, object]:
    """A body as pyroute2 reads it, flattened."""
    from pyroute2.netlink.generic.ipvs import ipvsmsg

    message = ipvsmsg(b"\0\0\0\0" * 4 + b"\1\1\0\0" + body)
    message["header"]["length"] = len(message.data)
    message.data = len(message.data).to_bytes(4, "little") + message.data[4:]
    message.decode()
    found: dict[str, object] = {}
    for kind in ("IPVS_CMD_ATTR_SERVICE", "IPVS_CMD_ATTR_DEST"):
        part = message.get_attr(kind)
        found |= {name.removeprefix("IPVS_"): value for name, value in part["attrs"]} if part else {}
    return found


def test_pyroute2_reads_what_is_said() -> None:
    server = told(pack_server(SERVERS[3]))
    assert (server["SVC_ATTR_AF"], server["SVC_ATTR_PROTOCOL"], server["SVC_ATTR_PORT"]) == (2, 132, 132)
    assert (server["SVC_ATTR_SCHED_NAME"], server["SVC_ATTR_TIMEOUT"]) == ("sh", 60)
    assert server["SVC_ATTR_NETMASK"] == "255.255.255.255"
    assert server["SVC_ATTR_FLAGS"] == {"flags": 1, "mask": 0xFFFFFFFF}
    behind = told(pack_destination(BEHIND[1]))
    assert (behind["DEST_ATTR_PORT"], behind["DEST_ATTR_FWD_METHOD"], behind["DEST_ATTR_WEIGHT"]) == (8080, 0, 0)


@pytest.mark.parametrize("server", SERVERS)
def test_reading_is_the_other_way_round(server: Server) -> None:
    assert read_server(pack_server(server)) == server


def test_what_is_not_ours_to_read() -> None:
    assert read_server(attribute(CMD_SERVICE, attribute(1, b"\2\0") + attribute(5, b"\1\0\0\0"))) is None, "by packet mark"
    assert read_server(b"") is None


@pytest.mark.parametrize("item", BEHIND)
def test_destinations_too(item: Destination) -> None:
    read = read_destination(item.server, pack_destination(item))
    assert (read, read.connections) == (item, 0)


@pytest.mark.kernel
def test_pyroute2_sees_the_same() -> None:
    need_ipvs()
    from pyroute2 import IPVS

    with Netns.create() as space, contextlib.closing(Ipvs(space.path)) as kernel:
        filled(kernel)
        with space.enter():
            other = IPVS()
        with contextlib.closing(other):
            ports = {item.get_attr("IPVS_CMD_ATTR_SERVICE").get_attr("IPVS_SVC_ATTR_PORT") for item in other.service("dump")}
    assert ports == {80, 53, 132}
