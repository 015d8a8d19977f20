"""A network that works gives no finding; each thing broken by hand gives one, and the command it names mends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import net_by_hand
import pytest
from net_by_hand import VIA, Net

from netscope.doctor import draw, findings_of
from netscope.facts import Finding

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
VTEP, OTHER = net_by_hand.VTEPS["b"], "0a:00:00:00:00:77"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """One for all: each test leaves it as it was, and finds that it does."""
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def findings(net: Net) -> list[Finding]:
    return findings_of(net.directory.nodes, VIA)


ON = "dev flannel.1"
BROKEN = {  # on which node, what is found, and how it is broken
    "device down": ("a", "flannel.1 is down", "ip link set flannel.1 down"),
    "forwarding off": ("a", "it forwards no packets", "sysctl -qw net.ipv4.ip_forward=0"),
    "sources not believed": ("b", "believes only sources it would answer by flannel.1",
                             "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=1"),
    "no route": ("a", "no route to the pods of", "ip route del 10.2.0.0/24"),
    "a route elsewhere": ("a", "leads elsewhere", "ip route replace 10.2.0.0/24 via 10.2.0.9 dev flannel.1 onlink"),
    "a stale route": ("b", "a route to 10.9.0.0/24, which no node has", f"ip route add 10.9.0.0/24 via 10.9.0.0 {ON} onlink"),
    "no neighbour": ("a", "no neighbour entry", "ip neigh del 10.2.0.0 dev flannel.1"),
    "a wrong neighbour": ("a", "a wrong neighbour entry",
                          f"ip neigh replace 10.2.0.0 lladdr {OTHER} {ON} nud permanent"),
    "no forwarding entry": ("b", "no forwarding entry", f"bridge fdb del {net_by_hand.VTEPS['a']} {ON} dst 192.168.50.1"),
    "a wrong forwarding entry": ("a", "a wrong forwarding entry", f"bridge fdb replace {VTEP} dev flannel.1 dst 192.168.50.9"),
    "too large for the underlay": ("a", "takes larger packets than the underlay", "ip link set eth0 mtu 1400"),
    "a policy that drops": ("b", "unless a rule takes them",
                            "nft 'table ip w { chain c { type filter hook forward priority 0; policy drop; }; }'"),
    "bridged packets unseen": ("b", "meet no rules",
                               "ip link add cni0 type bridge; sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
}


def test_a_network_that_works_gives_no_finding(net: Net) -> None:
    assert findings(net) == []
    assert draw([], 2).endswith("2 nodes: 0 findings")


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found_and_mended(net: Net, broken: str) -> None:
    letter, what, command = BROKEN[broken]
    net.on(letter, command)
    found = findings(net)
    assert any(what in each.what and each.node == net.name(letter) for each in found), found
    while found:  # what a device that is down takes along is found when it is up again
        net.on(letter, *(each.fix for each in found))
        before, found = found, findings(net)
        assert found != before
