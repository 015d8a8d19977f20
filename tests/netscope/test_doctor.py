"""A network that works gives no finding; each thing broken gives one that names it, and the command it names mends it.

Where a fault cannot be made in a namespace (the clock, the size of connection tracking) or lies in the API's objects, the scene
is changed instead.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import net_by_hand
import pytest
from net_by_hand import VIA, VTEPS, Net
from scene_by_hand import scene_of

from netscope.doctor import draw, findings_in
from netscope.explain import explain
from netscope.facts import Finding, Rules
from netscope.gather import with_echoes
from netscope.nodes import Nodes
from netscope.scene import Objects, Scene
from nodecore.kube.objects import EndpointConditions, Service
from nodecore.kube.workload import Condition, stamp
from tests.promised import at_any_pace

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
VTEP, OTHER, ON = VTEPS["b"], "0a:00:00:00:00:77", "dev flannel.1"
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """One for all: each test leaves it as it was, and finds that it does."""
    with ExitStack() as stack:
        made = net_by_hand.make(stack)
        made.on("b", SERVICES)
        yield made


@pytest.fixture(scope="module")
def nodes(net: Net) -> Iterator[Nodes]:
    with Nodes(net.directory.nodes, VIA) as made:
        yield made


@pytest.fixture(scope="module")
def healthy(net: Net, nodes: Nodes) -> Scene:
    return scene_of(net, nodes)


def findings(net: Net, nodes: Nodes) -> list[Finding]:
    return findings_in(scene_of(net, nodes))


def wall(hook: str, rule: str, policy: str = "accept") -> str:
    return f"nft 'table ip w {{ chain c {{ type filter hook {hook} priority 0; policy {policy}; {rule}; }}; }}'"


def nat(target: str) -> str:
    rules = "; ".join(f"ip daddr 10.96.0.10 {protocol} dport 80 dnat to {target}" for protocol in ("tcp", "udp"))
    itself = "ip saddr 10.2.0.2 ip daddr 10.2.0.2 masquerade"
    post = f"chain post {{ type nat hook postrouting priority srcnat; {itself}; }}"
    return f"nft 'table ip services {{ chain pre {{ type nat hook prerouting priority dstnat; {rules}; }}; {post}; }}'"


SERVICES = nat("10.2.0.2:8080")


@dataclass(frozen=True)
class Fault:
    """On which node, words of the finding, how it is broken; `undo` where the finding names no command that mends it all."""

    node: str
    what: str
    broken: str
    undo: str = ""


BROKEN = {
    "device down": Fault("a", "flannel.1 is down", "ip link set flannel.1 down"),
    "carrier down": Fault("b", "eth0, which carries flannel.1, is down", "ip link set eth0 down",
                          f"ip route replace 10.1.0.0/24 via 10.1.0.0 {ON} onlink"),
    "forwarding off": Fault("a", "it forwards no packets", "sysctl -qw net.ipv4.ip_forward=0"),
    "sources not believed": Fault("b", "believes only sources it would answer by flannel.1",
                                  "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=1"),
    "no route": Fault("a", "no route to the pods of", "ip route del 10.2.0.0/24"),
    "a route elsewhere": Fault("a", "leads elsewhere", f"ip route replace 10.2.0.0/24 via 10.2.0.9 {ON} onlink"),
    "a stale route": Fault("b", "a route to 10.9.0.0/24, which no node has",
                           f"ip route add 10.9.0.0/24 via 10.9.0.0 {ON} onlink"),
    "a stale forwarding entry": Fault("a", "which no node has", f"bridge fdb add {OTHER} {ON} dst 192.168.50.7"),
    "a stale neighbour": Fault("a", "which no node has", f"ip neigh add 10.9.0.0 lladdr {OTHER} {ON} nud permanent"),
    "an asymmetric route": Fault("b", "leave another way than its packets come",
                                 "ip route replace 10.1.0.0/24 via 192.168.50.1 dev eth0"),
    "a route that refuses": Fault("a", "are lost", "ip rule add from 10.1.0.0/24 to 10.2.0.0/24 prohibit",
                                  "ip rule del from 10.1.0.0/24 to 10.2.0.0/24 prohibit"),
    "no neighbour": Fault("a", "no neighbour entry", "ip neigh del 10.2.0.0 dev flannel.1"),
    "a wrong VTEP MAC": Fault("a", "a wrong neighbour entry", f"ip neigh replace 10.2.0.0 lladdr {OTHER} {ON} nud permanent"),
    "no forwarding entry": Fault("b", "no forwarding entry", f"bridge fdb del {VTEPS['a']} {ON} dst 192.168.50.1"),
    "a wrong forwarding entry": Fault("a", "a wrong forwarding entry", f"bridge fdb replace {VTEP} {ON} dst 192.168.50.9"),
    "a dead neighbour": Fault("a", "does not answer on eth0",
                              "ip neigh replace 192.168.50.2 dev eth0 nud permanent lladdr 0a:00:00:00:00:99;"
                              "ip neigh change 192.168.50.2 dev eth0 nud failed"),
    "a duplicate address on the wire": Fault("a", "somebody else has the address of",
                                             f"ip neigh replace 192.168.50.2 lladdr {OTHER} dev eth0 nud permanent"),
    "the tunnel's MAC changed": Fault("b", "has another MAC than its lease tells", f"ip link set flannel.1 address {OTHER}"),
    "one MAC for two": Fault("b", "has another MAC than its lease tells", f"ip link set flannel.1 address {VTEPS['a']}", "SAME"),
    "too large for the underlay": Fault("a", "takes larger packets than the underlay", "ip link set eth0 mtu 1400",
                                        "ip link set eth0 mtu 1500"),
    "pods' packets too large": Fault("b", "takes larger packets than flannel.1",
                                     "ip link add cni0 mtu 9000 type bridge", "ip link del cni0"),
    "bridged packets unseen": Fault("b", "meet no rules",
                                    "ip link add cni0 mtu 1400 type bridge; sysctl -qw net.bridge.bridge-nf-call-iptables=0",
                                    "sysctl -qw net.bridge.bridge-nf-call-iptables=1; ip link del cni0"),
    "the tunnel's port is blocked": Fault("b", "packets from pods of", wall("input", "udp dport 8472 drop")),
    "the tunnel is kept inside": Fault("a", "packets from pods of", wall("output", "udp dport 8472 drop")),
    "a policy that drops": Fault("b", "are dropped", wall("forward", "tcp dport 1 accept", "drop")),
    "iptables FORWARD DROP": Fault("b", "are dropped", "iptables-nft -P FORWARD DROP"),
    "iptables-legacy drops": Fault("b", "are dropped", "iptables-legacy -w -I FORWARD -d 10.2.0.0/24 -j DROP"),
    "firewalld": Fault("b", "are refused",
                       wall("forward", "ct state established accept; reject with icmp type admin-prohibited")),
    "stray answers dropped": Fault("b", "are dropped", wall("postrouting", "ct state new oifname \"pod\" drop")),
    "no translation": Fault("a", "no rule translates service/default/web:80", "nft delete table ip services",
                            SERVICES),
    "a pod cannot reach itself": Fault("b", "but 10.96.0.10:80 was asked", "nft flush chain ip services post",
                                       f"nft delete table ip services; {SERVICES}"),
    "an endpoint that is gone": Fault("b", "somebody who is no endpoint", f"nft delete table ip services; {nat('10.1.0.2:8080')}",
                                      f"nft delete table ip services; {SERVICES}"),
    "both iptables": Fault("a", "both in use", "iptables-nft -A FORWARD -j ACCEPT; iptables-legacy -w -A FORWARD -j ACCEPT",
                           "iptables-legacy -w -F FORWARD; nft delete table ip filter"),
    "another port": Fault("b", "speak VXLAN on different ports", "OTHER dstport 4789", "SAME"),
    "another VXLAN": Fault("b", "it is in another VXLAN", "OTHER id 2", "SAME"),
    "one address for two": Fault("b", "sends from an address that this node has not", "OTHER local 192.168.50.1", "SAME"),
}


def device(words: str = "") -> str:
    """Makes b's tunnel anew, with some settings changed."""
    name, _, value = words.partition(" ")
    settings = {"id": "1", "local": "192.168.50.2", "dstport": "8472"} | ({name: value} if name else {})
    return "; ".join((
        f"ip link del flannel.1; ip link add flannel.1 address {VTEP} type vxlan dev eth0 nolearning "
        + " ".join(map(" ".join, settings.items())),
        "ip addr add 10.2.0.0/32 dev flannel.1", "ip link set flannel.1 up",
        f"ip neigh add 10.1.0.0 lladdr {VTEPS['a']} {ON} nud permanent", f"bridge fdb add {VTEPS['a']} {ON} dst 192.168.50.1",
        f"ip route add 10.1.0.0/24 via 10.1.0.0 {ON} onlink"))


def command(text: str) -> str:
    if text == "SAME":
        return device()
    return device(text.removeprefix("OTHER ")) if text.startswith("OTHER ") else text


def test_a_network_that_works_gives_no_finding(healthy: Scene) -> None:
    assert findings_in(healthy) == []
    assert draw([], 2).endswith("2 nodes: 0 findings")


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found_and_mended(net: Net, nodes: Nodes, broken: str) -> None:
    fault = BROKEN[broken]
    net.on(fault.node, command(fault.broken))
    found = findings(net, nodes)
    assert any(fault.what in f"{each.what}: {each.evidence}" for each in found), found
    if fault.undo:
        net.on(fault.node, command(fault.undo))
    names = {net.name(letter): letter for letter in "ab"}
    before: list[Finding] = []
    while found := findings(net, nodes):  # what a device that is down takes along is found when it is up again
        assert found != before
        for each in found:
            if not each.fix.startswith("systemctl"):
                net.on(names[each.node], each.fix)
        before = found
    net.on(fault.node, "nft delete table ip w 2>/dev/null || true")


CLOUD = "nft 'table netdev w {{ chain c {{ type filter hook ingress device eth0 priority 0; {rule} drop; }}; }}'"
SILENT = {
    "a cloud's firewall": ("lets nothing through", "udp dport 8472"),
    "a narrow underlay": ("large ones do not", "udp dport 8472 ip length > 1400"),
    "a host that is gone": ("does not answer", "ip protocol { icmp, udp }"),
}


@pytest.mark.parametrize("fault", SILENT)
def test_silence_that_no_rule_explains_is_found(net: Net, nodes: Nodes, fault: str) -> None:
    what, rule = SILENT[fault]
    assert findings_in(with_echoes(scene_of(net, nodes), nodes, 30)) == []
    net.on("b", CLOUD.format(rule=rule))

    def told(pace: float) -> None:
        found = findings_in(with_echoes(scene_of(net, nodes), nodes, 0.3 * pace))
        (one,) = (each for each in found if each.node == net.name("a"))
        assert what in one.what
        if fault == "a narrow underlay":  # 50 bytes are the tunnel's
            assert 1340 <= int(one.fix.removeprefix("ip link set flannel.1 mtu ")) <= 1350

    try:
        at_any_pace(told)
    finally:
        net.on("b", "nft delete table netdev w")


def test_a_silence_that_is_explained_is_not_told_again(net: Net, nodes: Nodes) -> None:
    net.on("a", "ip route replace 10.2.0.0/24 via 192.168.50.9 dev eth0 onlink")
    try:
        found = findings_in(with_echoes(scene_of(net, nodes), nodes, 0.3))
        (told,) = explain(scene_of(net, nodes), ["pod/a"], "pod/b:8080", "tcp")
    finally:
        net.on("a", f"ip route replace 10.2.0.0/24 via 10.2.0.0 {ON} onlink")
    assert [each.what.partition("'")[0] for each in found] == [f"the route to the pods of {net.name('b')} leads elsewhere"]
    assert told.ways[0].mend == found[0].fix


def test_wrong_checksums_are_found(net: Net, nodes: Nodes) -> None:
    with net.node["a"].enter():
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    with sender, net.node["b"].enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("192.168.50.2", 0))
        for _ in range(12):
            sender.sendto(struct.pack("!HHHH", 9, receiver.getsockname()[1], 9, 1) + b"x", ("192.168.50.2", 0))
    assert [each.what for each in findings(net, nodes)] == ["Udp packets come in with wrong checksums"]


Change = Callable[[Net, Scene], Scene]


def facts(letter: str, **fields: Any) -> Change:
    """A node's facts, changed."""
    def change(net: Net, scene: Scene) -> Scene:
        name = net.name(letter)
        return replace(scene, facts={**scene.facts, name: replace(scene.facts[name], **fields)})
    return change


def settings(**fields: Any) -> Change:
    def change(net: Net, scene: Scene) -> Scene:
        name = net.name("a")
        return facts("a", settings=replace(scene.facts[name].settings, **fields))(net, scene)
    return change


def sysctls(**values: str) -> Change:
    def change(net: Net, scene: Scene) -> Scene:
        have = scene.facts[net.name("a")].sysctls
        return facts("a", sysctls={**have, **{name.replace("__", "/"): value for name, value in values.items()}})(net, scene)
    return change


def objects(change: Callable[[Objects], Objects]) -> Change:
    return lambda net, scene: replace(scene, objects=change(scene.objects))


def second(items: tuple[Any, ...], part: str, **fields: Any) -> tuple[Any, ...]:
    """The second's spec, status or metadata, changed."""
    one, other, *rest = items
    return one, replace(other, **{part: replace(getattr(other, part), **fields)}), *rest


def service(name: str, address: str, port: int, node_port: int = 0) -> Service:
    return msgspec.convert({
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"clusterIP": address, "ports": [{"port": port, "nodePort": node_port, "protocol": "UDP"}]}}, Service)


def unready(have: Objects) -> Objects:
    (one,) = have.slices
    return replace(have, slices=(replace(one, endpoints=[
        replace(each, conditions=EndpointConditions(ready=False)) for each in one.endpoints or ()]),))


SPOILT: dict[str, tuple[str, Change]] = {
    "exhausted connection tracking": ("connection tracking is full", sysctls(
        net__netfilter__nf_conntrack_count="262000", net__netfilter__nf_conntrack_max="262144")),
    "a full neighbour table": ("the neighbour table is full", sysctls(net__ipv4__neigh__default__gc_thresh3="1")),
    "an old kernel's offload": ("sends wrong checksums", settings(kernel="5.4.0-150-generic", defers={"flannel.1": True})),
    "an old nft": ("nft is too old", facts("a", rules=Rules(
        nft=({"metainfo": {"version": "0.9.3"}}, {"table": {"family": "ip", "name": "kube-proxy"}})))),
    "no CNI configuration": ("no CNI configuration", settings(subnet={"FLANNEL_SUBNET": "10.1.0.1/24"}, cni=("README",))),
    "no CNI directory": ("no CNI configuration", settings(subnet={"FLANNEL_SUBNET": "10.1.0.1/24"}, cni=None)),
    "an expired lease": ("not of the subnet it works with", settings(
        subnet={"FLANNEL_SUBNET": "10.7.0.1/24"}, cni=("10-flannel.conflist",))),
    "a clock": ("its clock is 30.0 s slow", lambda net, scene: replace(scene, skew={net.name("a"): -30.0})),
    "two nodes with one subnet": ("the same subnet as those of", objects(
        lambda o: replace(o, nodes=second(o.nodes, "spec", pod_cidrs=["10.1.0.0/24"])))),
    "two nodes with one address": ("the same address as", objects(
        lambda o: replace(o, nodes=second(o.nodes, "status", addresses=o.nodes[0].status.addresses)))),
    "an address it has not": ("an address that it has not", objects(lambda o: replace(o, nodes=second(
        o.nodes, "metadata", annotations={"flannel.alpha.coreos.com/public-ip": "10.0.2.15"})))),
    "a VXLAN it has not": ("speaks of VXLAN 7", objects(lambda o: replace(o, nodes=second(
        o.nodes, "metadata", annotations={"flannel.alpha.coreos.com/backend-data": '{"VNI":7,"VtepMAC":"x"}'})))),
    "no endpoint is ready": ("none of the endpoints of Service default/web is ready", objects(unready)),
    "DNS without endpoints": ("names are not resolved", objects(
        lambda o: replace(o, services=(*o.services, service("kube-dns", "10.96.0.53", 53))))),
    "a NodePort outside the range": ("the NodePort 8080 of Service", objects(
        lambda o: replace(o, services=(*o.services, service("odd", "10.96.0.11", 80, 8080))))),
    "one address for two pods": ("have the same address", objects(
        lambda o: replace(o, pods=second(o.pods, "status", pod_ips=o.pods[0].status.pod_ips)))),
    "a pod outside its subnet": ("is not of its node's subnet", objects(
        lambda o: replace(o, pods=second(o.pods, "status", pod_ips=None, pod_ip="10.5.0.2")))),
    "a Service among pods": ("is in the pods' subnet of", objects(
        lambda o: replace(o, services=(*o.services, service("near", "10.2.0.9", 80))))),
    "overlapping networks": ("overlaps with the pods' subnet of", objects(
        lambda o: replace(o, nodes=second(o.nodes, "spec", pod_cidrs=["192.168.50.0/26"])))),
}


def test_a_service_that_is_scaled_to_zero_or_about_to_start_is_healthy(net: Net, healthy: Scene) -> None:
    assert findings_in(replace(healthy, objects=replace(healthy.objects, slices=()))) == []
    (told,) = explain(replace(healthy, objects=replace(healthy.objects, slices=())), ["pod/a"], "svc/web:80", "tcp")
    assert told.notes == ("service/default/web has no endpoints on port 80: no ready pod fits its selector",)
    just_now = [Condition("Ready", "False", last_transition_time=stamp(healthy.taken - 5))]
    young = unready(healthy.objects)
    assert findings_in(replace(healthy, objects=replace(young, pods=second(young.pods, "status", conditions=just_now)))) == []


@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_is_spoilt_is_found(net: Net, healthy: Scene, spoilt: str) -> None:
    what, change = SPOILT[spoilt]
    found = findings_in(change(net, healthy))
    assert any(what in each.what for each in found), found
