"""What is asked of every backend in every family: two nodes, a pod on each, real packets. The table is `backend_rows.py`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest
from backend_rows import ROWS, UNDERLAY6, Row, RowNode, facts, laid, link, reach
from rule_hosts import seen_as
from site_of_nodes import ETCD_IP, PATIENCE, Site, echo_passes, ping_once, pinging, until

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow]
SUBNETS = "/coreos.com/network/subnets/"


def await_state(row: Row, node: RowNode, wanted: str) -> float:
    """Wait until the node holds that again; says how long it took."""
    with suppress(AssertionError):
        return until(lambda: row.state(node) == wanted, "", PATIENCE)
    assert row.state(node).splitlines() == wanted.splitlines()
    return PATIENCE


class Pair(NamedTuple):
    """The two nodes of a row."""

    row: Row
    one: RowNode
    two: RowNode
    site: Site


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: f"{row.name}-{row.families}".replace(" ", "-"))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with laid(request.param, tmp_path_factory.mktemp("row")) as (one, two, site):
        yield Pair(request.param, one, two, site)


def test_lease_state_and_mtu_are_exact(pair: Pair) -> None:
    row, one, two, site = pair
    told = [row.lease(node) for node in (one, two)]
    assert site.etcd.subnets() == dict(told)
    assert one.env()["FLANNEL_MTU"] == str(row.mtu)
    words = facts(one, two)
    for device, wanted in row.links.items():
        found = link(one, device)
        filled = {key: value.format(**words) if isinstance(value, str) else value for key, value in wanted.items()}
        assert {key: found.get(key) for key in filled} == filled
        assert (found["mtu"], found["up"]) == (row.mtu, True)
    for command, lines in row.lines.items():
        found = [" ".join(line.split()) for line in one.sh(command).splitlines()]
        assert found == [line.format(**words) for line in lines], command


def test_pods_and_nodes_reach_each_other_both_ways(pair: Pair) -> None:
    reach(pair.one, pair.two)
    if pair.row.type == "ipsec":
        return  # what a node itself sends is in no tunnel
    for here, there in ((pair.one, pair.two), (pair.two, pair.one)):
        for target in there.pod_ips():
            assert ping_once(here.ns, target), f"node {here.number} reaches {target}"


def test_the_mtu_passes_and_one_byte_more_does_not(pair: Pair) -> None:
    """As pods are made: by the MTU in subnet.env."""
    for target in pair.two.pod_ips():
        assert echo_passes(pair.one.pod, target, pair.row.mtu)
        assert not echo_passes(pair.one.pod, target, pair.row.mtu + 1, 0.3)


def test_addresses_as_others_see_them(pair: Pair) -> None:
    row, one, two, site = pair
    for mine, theirs in zip(one.pod_ips(), two.pod_ips(), strict=True):
        six = ":" in mine
        outside, node = (f"{UNDERLAY6}fe", one.ip6) if six else (ETCD_IP, one.ip)
        assert seen_as(site.switch, outside, one.pod) == node, "a pod on its way out is masqueraded"
        assert seen_as(two.pod, theirs, one.pod) == mine, "pod to pod is not"
        net = facts(one, two)["net6" if six else "net"]
        site.switch.run(["ip", "route", "replace", net, "via", node])
        assert seen_as(one.pod, mine, site.switch) == outside, "nor is what comes from outside to a pod here"
        site.switch.run(["ip", "route", "del", net])
        if row.tunnels:
            assert seen_as(two.pod, theirs, one.ns, source=node) == net.split("/")[0], "a node by its own address is"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_restarted_daemon_loses_no_packet_and_changes_nothing(pair: Pair, end: int) -> None:
    row, one, two, site = pair
    before, leases = row.state(one), site.etcd.subnets()
    with ExitStack() as stack:
        ways = [(here.pod, target) for here, there in ((one, two), (two, one)) for target in there.pod_ips()]
        pings = [stack.enter_context(pinging(pod, target, 0.03)) for pod, target in ways]
        one.stop(end)
        one.start()
    assert [(ping.sent > 5, ping.lost) for ping in pings] == [(True, 0)] * len(ways)
    assert (row.state(one), site.etcd.subnets()) == (before, leases)


def knows(node: RowNode, row: Row, key: str) -> bool:
    """Whether all of a stranger's subnets are in what the kernel and its helpers hold."""
    subnets = [part.replace("-", "/") for part in key.split("&") if part != "0.0.0.0-0"]
    return all(subnet in row.state(node) for subnet in subnets)


def test_a_peer_comes_goes_expires_and_leaves_while_we_are_down(pair: Pair) -> None:
    row, one, two, site = pair
    key, value = row.stranger()
    before = row.state(one)
    site.etcd.put(SUBNETS + key, json.dumps(value))
    until(lambda: knows(one, row, key), "a new peer is known", PATIENCE)
    site.etcd.ctl("del", SUBNETS + key)
    await_state(row, one, before)  # one that left is forgotten
    lease = site.etcd.ctl("lease", "grant", "600").split()[1]
    site.etcd.put(SUBNETS + key, json.dumps(value), f"--lease={lease}")
    until(lambda: knows(one, row, key), "known again", PATIENCE)
    site.etcd.ctl("lease", "revoke", lease)  # as etcd itself does when the time is over
    await_state(row, one, before)  # one whose lease ended, too
    site.etcd.put(SUBNETS + key, json.dumps(value))
    until(lambda: knows(one, row, key), "known for the third time", PATIENCE)
    one.stop(signal.SIGKILL)
    site.etcd.ctl("del", SUBNETS + key)
    one.start()
    await_state(row, one, before)
    assert ping_once(one.pod, two.pod_ips()[0])


def test_our_lease_is_taken_back_when_somebody_deletes_it(pair: Pair) -> None:
    row, one, two, site = pair
    before, leases = row.state(one), site.etcd.subnets()
    site.etcd.ctl("del", SUBNETS + row.lease(one)[0])
    until(lambda: site.etcd.subnets() == leases, "the lease is back", PATIENCE)
    reach(one, two)
    assert row.state(one) == before


def test_a_flapping_underlay_heals(pair: Pair) -> None:
    row, one, two, _ = pair
    before = row.state(one)
    for command in ("ip link set eth0 down", "ip link set eth0 up", f"ip route add default via {ETCD_IP}"):
        one.ns.run(command.split())
    print(f"traffic after {reach(one, two):.2f} s")
    await_state(row, one, before)


def test_damage_by_hand_is_healed(pair: Pair, subtests: pytest.Subtests) -> None:
    row, one, two, _ = pair
    before, words = row.state(one), facts(one, two)
    for command in row.damage:
        with subtests.test(command):
            one.ns.run(command.format(**words).split())
            took = await_state(row, one, before)
            print(f"{row.name} {row.families}: {command}: {took:.2f} s, traffic after {reach(one, two):.2f} s more")


def test_where_the_way_itself_ends(pair: Pair) -> None:
    """With pods that have room for more: nothing is fragmented, and nothing that fits is refused."""
    row, one, two, _ = pair
    for node in (one, two):
        node.ns.run(["ip", "link", "set", "pod0", "mtu", "1500"])
        node.pod.run(["ip", "link", "set", "eth0", "mtu", "1500"])
    limit = row.limit or row.mtu
    assert limit >= row.mtu, "what subnet.env says must fit"
    for target in two.pod_ips():
        assert echo_passes(one.pod, target, limit)
        assert not echo_passes(one.pod, target, limit + 1, 0.5)
