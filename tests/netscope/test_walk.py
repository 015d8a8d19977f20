"""Rules of Go kube-proxy, walked: iptables and nftables as it writes them, and virtual servers with ipsets."""

from __future__ import annotations

from pathlib import Path

import pytest

from netscope.directory import Directory, Place
from netscope.examine import examine
from netscope.facts import AddressInfo, Facts, Link, LinkAddresses, Route, Rules
from netscope.flow import End
from netscope.walk.ipsets import IpSets
from netscope.walk.iptables import read
from netscope.walk.journey import Journey, Question, World
from netscope.walk.packet import Chance, every_way
from nodecore.kernel.netns import Netns

BUILT_IN = {"nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "filter": ("INPUT", "FORWARD", "OUTPUT"), "mangle": ()}
TCP = 6
CLIENT, OUTSIDE = "10.244.1.9", "192.168.50.200"


def go_rules() -> str:
    """As the kernel lists them: with the built-in chains."""
    text = (Path(__file__).parent.parent / "proxy/go-kube-proxy-1.20.iptables").read_text()
    for table, chains in BUILT_IN.items():
        text = text.replace(f"*{table}\n", f"*{table}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains))
    return text


def world(rules: Rules, *links: LinkAddresses) -> World:
    """One node, all pods on its bridge."""
    facts = Facts(
        links=(Link("eth0"), Link("cni0")),
        addresses=(LinkAddresses("eth0", (AddressInfo("192.168.50.1", 24, "global"),)),
                   LinkAddresses("cni0", (AddressInfo("10.244.0.1", 16, "global"),)), *links),
        routes=(Route("10.244.0.0/16", dev="cni0"), Route("default", gateway="192.168.50.254", dev="eth0"),
                Route("192.168.50.0/24", dev="eth0")),
        sysctls={"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}, rules=rules)
    pods = tuple(Place("pod", f"default/p{a}-{b}", (f"10.244.{a}.{b}",), "n1") for a in (1, 2) for b in range(1, 40))
    return World({"n1": facts}, Directory((Place("node", "n1", ("192.168.50.1",), "n1"), *pods,
                                           Place("service", "default/x", ("10.96.9.9",), ports={(TCP, 80): (End("x", 1),)}))))


def ways(where: World, target: str, port: int, source: str = CLIENT) -> list[Journey]:
    return where.ways(Question(source, target, TCP, port))


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_iptables_of_go_kube_proxy(variant: str) -> None:
    where = world(Rules(iptables={f"{variant} ip": go_rules()}))
    found = ways(where, "10.96.1.3", 80)
    assert {(each.what, each.end.rpartition(".")[0]) for each in found} == {("delivered", "10.244.1"), ("delivered", "10.244.2")}
    way = next(each for each in found if each.end == "10.244.2.20 8080")
    rule = next(step.why for step in way.there if step.what == "accept: to 10.244.2.20:8080")
    assert rule.startswith(f"iptables-{variant} nat KUBE-SEP-74KJEWCRG3BEJYHE: -A KUBE-SEP-74KJEWCRG3BEJYHE -p tcp")
    way = ways(where, "192.168.50.1", 30080, OUTSIDE)[0]
    assert any(step.what.startswith("accept: source 10.244.0.1") for step in way.there)
    (way,) = ways(where, "10.96.1.5", 80)
    assert (way.what, "has no endpoints" in way.why) == ("rejected", True)
    assert way.mend == ""  # the proxy would write it again


IPVS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0050 rr
  -> 0AF40105:1F90      Masq    1      0          0
  -> 0AF40206:1F90      Masq    1      0          0
  -> 0AF40207:1F90      Masq    0      0          0
TCP  0A600002:0050 rr
"""
IPVS_RULES = """*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""
SETS = """create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536
add KUBE-CLUSTER-IP 10.96.0.1,tcp:80
create KUBE-LOOP-BACK hash:ip,port,ip family inet hashsize 1024 maxelem 65536
add KUBE-LOOP-BACK 10.244.1.5,tcp:8080,10.244.1.5
"""


def test_virtual_servers_of_go_kube_proxy() -> None:
    ipvs = LinkAddresses("kube-ipvs0", (AddressInfo("10.96.0.1", 32, "global"), AddressInfo("10.96.0.2", 32, "global")))
    where = world(Rules(iptables={"legacy ip": IPVS_RULES}, ipvs=IPVS, ipsets=SETS), ipvs)
    found = ways(where, "10.96.0.1", 80)
    assert {(way.what, way.end) for way in found} == {("delivered", "10.244.1.5 8080"), ("delivered", "10.244.2.6 8080")}
    assert ("to 10.244.1.5:8080", "TCP 10.96.0.1:80 rr") in {(step.what, step.why) for way in found for step in way.there}
    itself = next(way for way in ways(where, "10.96.0.1", 80, "10.244.1.5") if way.end == "10.244.1.5 8080")
    assert any("--match-set KUBE-LOOP-BACK" in step.why for step in itself.there)
    assert itself.what == "delivered"
    masqueraded = ways(where, "10.96.0.1", 80, "192.168.50.1")
    assert all(any("random-fully" in step.why for step in way.there) for way in masqueraded)
    (nobody,) = ways(where, "10.96.0.2", 80)
    assert (nobody.what, nobody.why) == ("rejected", "the virtual server TCP 10.96.0.2:80 rr has nobody behind it")


def test_what_cannot_be_read_is_told_and_passed_over() -> None:
    text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m bpf --bytecode \"4,48 0 0 9\" -j DROP\nCOMMIT\n"
    way = ways(world(Rules(iptables={"nft ip": text})), "8.8.8.8", 53)[0]
    assert way.what == "outside"
    assert "cannot be read (--bytecode), passed over" in [step.what for step in way.there]


def test_every_choice_is_walked_once() -> None:
    def walk(chance: Chance) -> tuple[int, ...]:
        first = chance.choose(2)
        return (first, chance.choose(3)) if first else (first,)

    assert every_way(walk, 64) == [(0,), (1, 0), (1, 1), (1, 2)]
    assert len(every_way(walk, 2)) == 2


def test_a_table_is_read_as_it_is_written() -> None:
    rule_text = "-A POSTROUTING ! -o lo -m comment --comment \"a b\" -g X"
    (table,) = read(f"*nat\n:POSTROUTING ACCEPT [0:0]\n{rule_text}\nCOMMIT\n", "x", IpSets())
    (rule,) = table.chains["POSTROUTING"]
    assert (rule.options, rule.target, rule.goes) == ((("-o", True, "lo"), ("--comment", False, "a b")), "X", True)


GO_NFTABLES = """table ip kube-proxy {
set cluster-ips { type ipv4_addr; elements = { 10.96.0.10, 10.96.0.11 }; }
map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.10 . tcp . 80 : goto service-a }; }
map no-endpoint-services {
type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.11 . tcp . 80 : goto reject-chain }; }
map service-nodeports { type inet_proto . inet_service : verdict; elements = { tcp . 30080 : goto external-a }; }
chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
chain reject-chain { reject; }
chain endpoint-1 { ip saddr 10.244.1.5 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.5:8080; }
chain endpoint-2 { ip saddr 10.244.2.6 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.2.6:8080; }
chain service-a {
ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
numgen random mod 2 vmap { 0 : goto endpoint-1, 1 : goto endpoint-2 }; }
chain external-a { jump mark-for-masquerade; goto service-a; }
chain services {
ip daddr . meta l4proto . th dport vmap @service-ips
ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @service-nodeports; }
chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
chain masquerading { type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000
masquerade fully-random; }
chain no-endpoints { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
chain cluster-ips-check { ip daddr @cluster-ips reject comment "invalid port"; }
chain filter-forward { type filter hook forward priority -110
ct state new jump no-endpoints; ct state new jump cluster-ips-check; }
}
table inet firewalld { chain forward {
type filter hook forward priority 10; ct state vmap { established : accept, invalid : drop }
meta l4proto { tcp, udp } th dport 8000-8999 accept; iifname "eth*" accept
ip saddr { 10.244.0.0/16, 172.16.0.0/12 } udp dport { 53, 67-69 } accept; reject with icmpx type admin-prohibited; }; }
"""


@pytest.mark.kernel
def test_nftables_of_go_kube_proxy() -> None:
    with Netns.create() as space:
        space.run(["nft", "-f", "-"], input=GO_NFTABLES)
        with space.enter():
            rules = examine().rules
    where = world(rules)
    assert {(way.what, way.end) for way in ways(where, "10.96.0.10", 80)} == {
        ("delivered", "10.244.1.5 8080"), ("delivered", "10.244.2.6 8080")}
    for source, target, port in ((OUTSIDE, "192.168.50.1", 30080), ("10.244.1.5", "10.96.0.10", 80)):
        way = next(each for each in ways(where, target, port, source) if each.end == "10.244.1.5 8080")
        assert way.what == "delivered"
        assert any(step.why == "ip kube-proxy masquerading: masquerade fully-random" for step in way.there)
    (nobody,) = ways(where, "10.96.0.11", 80)
    assert (nobody.what, nobody.why) == ("rejected", "ip kube-proxy reject-chain: reject")
    (port,) = ways(where, "10.96.0.10", 81)
    assert (port.what, port.why.partition(":")[0]) == ("rejected", "ip kube-proxy cluster-ips-check")
    (wall,) = ways(where, "8.8.8.8", 443)
    assert (wall.what, wall.why) == ("rejected", "inet firewalld forward: reject with icmpx admin-prohibited")
    assert wall.mend.startswith("nft delete rule inet firewalld forward handle")
    assert ways(where, "8.8.8.8", 8443)[0].what == "outside"
    assert where.ways(Question(CLIENT, "8.8.8.8", 17, 68))[0].what == "outside"
