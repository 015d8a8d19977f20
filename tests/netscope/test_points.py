"""A trace listens where its packets may come, and leaves other pods' doors alone: a bridge with three pods."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from netscope.points import points
from nodecore.kernel import vicinity
from nodecore.kernel.netns import Netns
from nodecore.net import Family

pytestmark = pytest.mark.kernel
FLOW = ("10.1.0.11", "10.1.0.12", "10.9.0.1")


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Netns, list[Netns]]]:
    with ExitStack() as stack:
        node, *pods = (stack.enter_context(Netns.create()) for _ in range(4))
        node.run(["ip", "-batch", "-"], input="link add cni0 type bridge\naddr add 10.1.0.1/24 dev cni0\nlink set cni0 up\n"
                                              "link add eth0 type veth peer name far\nlink set eth0 up\nlink set lo up\n")
        for number, pod in enumerate(pods, 1):
            node.run(["ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid)])
            node.run(["ip", "-batch", "-"], input=f"link set v{number} master cni0 up\n")
            pod.run(["ip", "-batch", "-"], input=f"addr add 10.1.0.1{number}/24 dev eth0\nlink set eth0 up\n")
        yield node, pods


def greet(node: Netns, *numbers: int) -> None:
    """Both ends know one another afterwards."""
    for number in numbers:
        with node.enter(), socket.socket() as sock:
            sock.settimeout(30)
            assert sock.connect_ex((f"10.1.0.1{number}", 9)) == errno.ECONNREFUSED


def tapped(node: Netns, *addresses: str) -> tuple[str, ...]:
    wanted = [ip_address(address) for address in addresses]
    with node.enter():
        return points(vicinity.read_devices(Family.IPV4), {each.packed for each in wanted}, vicinity.ways_out(wanted))


def test_another_pods_door_is_left_alone(site: tuple[Netns, list[Netns]]) -> None:
    node, _ = site
    assert tapped(node, *FLOW) == (), "nobody is known yet"
    greet(node, 1, 2)
    assert tapped(node, *FLOW) == (), "nobody else is known yet"
    greet(node, 3)
    everything = {name for _, name in in_node(node)}
    assert set(found := tapped(node, *FLOW)) == everything - {"v3"}
    assert found.index("cni0") > found.index("v2"), "a packet has the same time at both"


def test_where_the_kernel_would_send_it_is_looked_at(site: tuple[Netns, list[Netns]]) -> None:
    node, pods = site
    greet(node, 1, 2, 3)
    mac = json.loads(pods[2].run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["address"]
    for wrong in (mac, "0a:00:00:00:00:99"):
        node.run(["ip", "neigh", "replace", "10.1.0.12", "lladdr", wrong, "dev", "cni0"])
        assert tapped(node, *FLOW) == (), "to the third by its MAC, or to nobody, while the second may have it"
    node.run(["ip", "neigh", "del", "10.1.0.12", "dev", "cni0"])
    node.run(["ip", "route", "add", "10.9.0.1", "via", "10.1.0.13"])
    try:
        greet(node, 2)
        assert tapped(node, *FLOW) == (), "somebody of the flow is not known: anybody may have it"
    finally:
        node.run(["ip", "route", "del", "10.9.0.1"])


def in_node(node: Netns) -> list[tuple[int, str]]:
    with node.enter():
        return socket.if_nameindex()
