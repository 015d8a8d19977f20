"""A packet's way worked out from facts is the one that a real packet goes, and what stops a real one is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import net_by_hand
import pytest
from net_by_hand import Net
from scene_by_hand import scene_of

from netscope.doctor import findings_in
from netscope.explain import Explanation, draw, explain
from netscope.facts import Facts, FdbEntry, Filter, Link, LinkInfo, Neighbour, Rules
from netscope.policies import NetworkPolicy
from netscope.walk.beyond import unread
from nodecore.net import Family

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def test_ipv6_as_well() -> None:
    with ExitStack() as stack:
        net = net_by_hand.make(stack, Family.IPV6)
        scene = scene_of(net)
        assert [each.what for each in findings_in(scene)] == ["no rule translates service/default/web:80"]  # on b
        (told,) = explain(scene, ["pod/a"], "svc/web:80", "tcp")
        assert told.arrives
        assert told.ways[0].end == "fd00:2::2 8080"


def explained(net: Net, source: str = "pod/a", target: str = "svc/web:80") -> Explanation:
    return explain(scene_of(net), [source], target, "tcp")[0]


def test_a_policy_that_nobody_enforces_is_told_as_that(net: Net) -> None:
    scene = scene_of(net)
    policy = msgspec.convert({"metadata": {"name": "alone", "namespace": "default"}, "spec": {
        "podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]}}, NetworkPolicy)
    scene = msgspec.structs.replace(scene, objects=msgspec.structs.replace(scene.objects, policies=(policy,)))
    (told,) = explain(scene, ["pod/a"], "svc/web:80", "tcp")
    assert told.arrives
    words = "ingress of pod/default/b is limited to others; no rule of these nodes enforces it"
    assert f"policy: NetworkPolicy default/alone: {words}" in " ".join(draw(told).split())
    assert findings_in(scene) == findings_in(scene_of(net))


def test_what_cannot_be_walked_is_named(net: Net) -> None:
    net.on("b", "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress bpf bytecode '1,6 0 0 4294967295,' flowid 1:1",
           "nft 'table netdev w { chain c { type filter hook ingress device eth0 priority 0; udp dport 1 drop; }; }'",
           "tc qdisc add dev flannel.1 root tbf rate 1gbit burst 100k latency 10ms")
    told = explained(net)
    b = net.name("b")
    assert told.notes == tuple(f"not looked at on {b}: {each}" for each in (
        "tc filter on eth0 (ingress): bpf", "queue tbf of flannel.1", "nft netdev w c (hook ingress)"))
    net.on("b", "tc qdisc del dev eth0 clsact; tc qdisc del dev flannel.1 root; nft delete table netdev w")


def test_flow_tables_and_the_programs_of_a_pods_port_are_named() -> None:
    facts = Facts(
        links=(Link("cni0", linkinfo=LinkInfo("bridge")), Link("veth1", master="cni0", xdp={"mode": 2}),
               Link("veth2", master="cni0")),
        neighbours=(Neighbour("10.1.0.2", "cni0", "0a:00:00:00:00:01"),), fdb=(FdbEntry("0a:00:00:00:00:01", "veth1"),),
        filters=(Filter("veth2", "ingress", "bpf"),),
        rules=Rules(nft=({"flowtable": {"family": "inet", "table": "f", "name": "ft", "dev": ["cni0", "eth0"]}},
                         {"chain": {"family": "bridge", "table": "b", "name": "c", "hook": "forward"}})))
    found = list(unread(facts, ["cni0"], ["10.1.0.2"]))
    assert found == ["XDP program on veth1", "flow table inet f ft: packets of connections in it pass by all rules",
                     "nft bridge b c (hook forward)"]


def test_the_whole_way_is_told(net: Net) -> None:
    told = explained(net)
    text = draw(told)
    assert told.arrives
    assert "delivered to 10.2.0.2 (pod/default/b):8080, and answered" in text
    assert "ip services pre: ip daddr 10.96.0.10 tcp dport 80 dnat to 10.2.0.2:8080" in text
    assert "10.2.0.0/24 via 10.2.0.0 dev flannel.1" in text
    assert "VXLAN 1 to 192.168.50.2 port 8472" in text
