"""What is broken by hand is named, and where a command is given that mends it, it does: one network, broken again and again."""

from __future__ import annotations

import dataclasses
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from subprocess import CalledProcessError
from typing import NamedTuple

import net_by_hand
import pytest
from net_by_hand import ROOT, VIA, Net

from netscope.blame import Verdict
from netscope.directory import Directory, Place
from netscope.drawing import draw
from netscope.flow import TCP
from netscope.nodes import Nodes
from netscope.story import Trace
from netscope.trace import MARKS, ask, plan_of
from nodecore.net import Family
from tests.promised import at_any_pace

pytestmark = pytest.mark.kernel
VTEP, OTHER = net_by_hand.VTEPS["b"], "0a:00:00:00:00:77"
ON, TABLE = "dev flannel.1", "nft delete table ip wall"
SILENCE = 0.3  # seconds for an answer that need not come
ROUTE = f"ip route replace 10.2.0.0/24 via 10.2.0.0 {ON} onlink"
BACK = f"ip route replace 10.1.0.0/24 via 10.1.0.0 {ON} onlink"
FORWARD = f"bridge fdb replace {VTEP} {ON} dst 192.168.50.2"
NEIGHBOUR = f"ip neigh replace 10.2.0.0 lladdr {VTEP} {ON} nud permanent"


class Fault(NamedTuple):
    """On which node, what; how the probe ends, and words of the reason; what undoes it; whether a mending command is given."""

    on: str
    what: str
    ends: str
    why: str
    undo: str
    mended: bool = False


def wall(hook: str, rule: str, policy: str = "accept", priority: int = 0) -> str:
    return f"nft 'table ip wall {{ chain c {{ type filter hook {hook} priority {priority}; policy {policy}; {rule}; }}; }}'"


FAULTS = {
    "a rule drops it": Fault(
        "b", wall("forward", "tcp dport 8080 drop"), "dropped", "ip wall c: tcp dport 8080 drop", TABLE, True),
    "a rule drops it before it is tracked": Fault(
        "b", wall("prerouting", "tcp dport 8080 drop", priority=-300), "dropped", "ip wall c: tcp dport 8080 drop", TABLE, True),
    "a rule drops it inside a called chain": Fault(
        "a", "nft 'table ip wall { chain d { tcp dport 8080 drop; }; "
             "chain c { type filter hook forward priority 0; tcp dport 8080 jump d; }; }'",
        "dropped", "ip wall d: tcp dport 8080 drop", TABLE, True),
    "a policy drops it": Fault("b", wall("forward", "tcp dport 1", "drop"), "dropped", "ip wall c: policy", TABLE, True),
    "a rule refuses it": Fault(
        "b", wall("forward", "tcp dport 8080 reject with tcp reset"), "refused", "reject with tcp reset", TABLE, True),
    "a rule says that it is prohibited": Fault(
        "b", wall("forward", "tcp dport 8080 reject with icmp type admin-prohibited"), "dropped",
        "admin-prohibited", TABLE, True),
    "a rule drops the answer": Fault(
        "b", wall("forward", "tcp sport 8080 drop"), "dropped", "ip wall c: tcp sport 8080 drop", TABLE, True),
    "a legacy rule drops it": Fault(
        "b", "iptables-legacy -w -A FORWARD -p tcp --dport 8080 -j DROP", "dropped",
        "iptables-legacy filter FORWARD: -A FORWARD -p tcp -m tcp --dport 8080 -j DROP", "iptables-legacy -w -F FORWARD", True),
    "a legacy policy drops it": Fault(
        "a", "iptables-legacy -w -P FORWARD DROP", "dropped", "iptables-legacy filter FORWARD: policy",
        "iptables-legacy -w -P FORWARD ACCEPT", True),
    "a rule of iptables-nft drops it": Fault(
        "b", "iptables-nft -w -A FORWARD -p tcp --dport 8080 -j DROP", "dropped", "ip filter FORWARD:",
        "iptables-nft -w -F FORWARD", True),
    "no neighbour": Fault("a", f"ip neigh del 10.2.0.0 {ON}", "lost", "nobody answers for 10.2.0.0 on flannel.1",
                          NEIGHBOUR, True),
    "no forwarding entry": Fault("a", f"bridge fdb del {VTEP} {ON} dst 192.168.50.2", "lost",
                                 f"flannel.1 does not know behind which host {VTEP} is", FORWARD, True),
    "a forwarding entry to nowhere": Fault(
        "a", f"bridge fdb replace {VTEP} {ON} dst 192.168.50.9", "lost", "the forwarding entry is wrong", FORWARD, True),
    "a wrong VTEP MAC": Fault("a", f"ip neigh replace 10.2.0.0 lladdr {OTHER} {ON} nud permanent; "
                                   f"bridge fdb add {OTHER} {ON} dst 192.168.50.2", "lost", OTHER,
                              f"{NEIGHBOUR}; bridge fdb del {OTHER} {ON} dst 192.168.50.2", True),
    "a wrong MAC in the underlay": Fault("a", f"ip neigh replace 192.168.50.2 lladdr {OTHER} dev eth0 nud permanent", "lost",
                                         "for another MAC", "ip neigh del 192.168.50.2 dev eth0", True),
    "a dead host in the underlay": Fault(
        "a", "nft 'table arp wall { chain c { type filter hook output priority 0; policy drop; }; }'; ip neigh flush dev eth0",
        "lost", "nobody answers for 192.168.50.2", "nft delete table arp wall"),
    "no route": Fault("a", "ip route del 10.2.0.0/24", "lost", "no route to 10.2.0.2", ROUTE, True),
    "a route out of the cluster": Fault("a", "ip route replace 10.2.0.0/24 via 192.168.50.9 dev eth0 onlink", "lost",
                                        "but its tunnel's end is 10.2.0.0", ROUTE, True),
    "a route that keeps it": Fault("a", "ip route add blackhole 10.2.0.2", "lost", "the route blackhole 10.2.0.2",
                                   "ip route del blackhole 10.2.0.2", True),
    "no route for the answer": Fault("b", "ip route del 10.1.0.0/24", "lost", "no route to 10.1.0.2", BACK, True),
    "another way back, and strictness": Fault(
        "b", "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=1; ip route replace 10.1.0.0/24 via 192.168.50.1", "lost",
        "its source is not believed", f"sysctl -qw net/ipv4/conf/flannel.1/rp_filter=0; {BACK}", True),
    "forwarding is off": Fault("b", "sysctl -qw net.ipv4.ip_forward=0", "lost", "forwarding is off",
                               "sysctl -qw net.ipv4.ip_forward=1", True),
    "the tunnel's port is blocked": Fault(
        "b", wall("input", "udp dport 8472 drop"), "dropped",
        "the tunnel's packet: ip wall c: udp dport 8472 drop", TABLE, True),
    "the tunnel's far end is down": Fault(
        "b", "ip link set flannel.1 down", "lost", "was not unpacked",
        f"ip link set flannel.1 up; {BACK}; ip neigh replace 10.1.0.0 lladdr {net_by_hand.VTEPS['a']} {ON} nud permanent", True),
    "nobody translates the Service": Fault("a", "nft flush chain ip services pre", "lost", "no rule translated 10.96.0.10:80",
                                           "nft add rule ip services pre ip daddr 10.96.0.10 tcp dport 80 dnat to 10.2.0.2:8080",
                                           True),
    "the pod keeps it": Fault("pod b", wall("input", "tcp dport 8080 drop"), "dropped",
                              "inside pod/default/b: ip wall c: tcp dport 8080 drop", TABLE, True),
    "the pod keeps its answer": Fault("pod b", wall("output", "tcp sport 8080 drop"), "dropped",
                                      "the answer inside pod/default/b: ip wall c: tcp sport 8080 drop", TABLE, True),
    "the pod has no way out": Fault("pod a", "ip route del default", "unsent", "unreachable",
                                    "ip route add default via 10.1.0.1"),
}


FAULTS6 = {  # what has words of its own there
    "a legacy rule drops it": Fault(
        "b", "ip6tables-legacy -w -A FORWARD -p tcp --dport 8080 -j DROP", "dropped",
        "ip6tables-legacy filter FORWARD: -A FORWARD", "ip6tables-legacy -w -F FORWARD", True),
    "no neighbour": Fault("a", f"ip neigh del fd00:2:: {ON}", "lost", "nobody answers for fd00:2:: on flannel.1",
                          f"ip neigh replace fd00:2:: lladdr {VTEP} {ON} nud permanent", True),
    "a route that keeps it": Fault("a", "ip -6 route add blackhole fd00:2::2", "lost", "the route blackhole fd00:2::2",
                                   "ip -6 route del blackhole fd00:2::2", True),
    "forwarding is off": Fault("b", "sysctl -qw net.ipv6.conf.all.forwarding=0", "lost", "forwarding is off",
                               "sysctl -qw net.ipv6.conf.all.forwarding=1", True),
}


@dataclass(frozen=True)
class Site:
    """A network, and agents that are started once and asked again and again."""

    net: Net
    agents: Nodes


@pytest.fixture(scope="module")
def sites() -> Iterator[Callable[[Family], Site]]:
    """One a family for all: each test leaves it as it was, and finds that it does."""
    made: dict[Family, Site] = {}
    with ExitStack() as stack:
        def site(family: Family) -> Site:
            if family not in made:
                net = net_by_hand.make(stack, family)
                made[family] = Site(net, stack.enter_context(Nodes(net.directory.nodes, VIA)))
            return made[family]

        yield site


def trace(site: Site, seconds: float) -> Trace:
    request, directory = site.net.request(seconds=seconds), site.net.directory
    return ask(request, plan_of(request, directory, secrets.choice(MARKS)), site.agents, directory)


def verdict_of(site: Site, good: Callable[[Verdict], bool]) -> Verdict:
    def attempt(pace: float) -> Verdict:
        found = trace(site, SILENCE * pace).verdict
        assert good(found), found
        return found

    return at_any_pace(attempt)


def on(net: Net, where: str, command: str) -> None:
    spaces = net.pod if where.startswith("pod") else net.node
    spaces[where[-1]].run(["sh", "-ec", command], env=net_by_hand.ALONE)


def answers(net: Net) -> bool:
    with net.pod["a"].enter(), socket.socket(net.plan.family.af) as sock:
        sock.settimeout(30)
        return sock.connect_ex((net.plan.service, 80)) == 0


QUICK = ("a rule drops it", "a rule refuses it", "no forwarding entry", "no route for the answer", "forwarding is off",
         "nobody translates the Service", "the pod keeps it")
CASES = [pytest.param(family, name, marks=() if name in QUICK and family is Family.IPV4 else pytest.mark.slow)
         for family, faults in ((Family.IPV4, FAULTS), (Family.IPV6, FAULTS6)) for name in faults]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_what_is_broken_is_named(sites: Callable[[Family], Site], family: Family, name: str) -> None:
    fault, site = (FAULTS if family is Family.IPV4 else FAULTS6)[name], sites(family)
    net = site.net
    on(net, fault.on, fault.what)
    mended: list[str] = []
    try:
        verdict = verdict_of(site, lambda found: (found.what, fault.why in found.why) == (fault.ends, True))
        assert verdict.where in (net.name("a"), net.name("b"), "")
        assert bool(verdict.mend) == fault.mended, verdict
        if verdict.mend and not verdict.mend.startswith("systemctl"):  # whose services are none here
            while (verdict := verdict_of(site, lambda found: found.what == "answered" or found.mend not in mended)
                   ).what != "answered":  # one thing after another, as a person would
                mended.append(verdict.mend)
                on(net, "a" if (verdict.on or verdict.where) == net.name("a") else "b", verdict.mend)
            assert answers(net)
    finally:
        with suppress(CalledProcessError):  # the mending may have left nothing to undo
            on(net, fault.on, fault.undo)
    assert answers(net)


@pytest.mark.parametrize(("protocol", "port", "words"), [
    ("tcp", 80, "has no endpoints"), ("tcp", 81, "has no port 81/tcp (it has 80/tcp)"),
    ("udp", 80, "has no port 80/udp (it has 80/tcp)")])
def test_what_the_proxy_refuses_is_explained_by_the_service(
        sites: Callable[[Family], Site], protocol: str, port: int, words: str) -> None:
    site = sites(Family.IPV4)
    *others, web = site.net.directory.places
    directory = Directory((*others, dataclasses.replace(web, ports={(TCP, 80): ()})))
    site.net.on("a", "nft 'table ip kube-proxy { chain refuse { reject; }; "
                     "chain c { type filter hook prerouting priority -150; ip daddr 10.96.0.10 goto refuse; }; }'")
    request = dataclasses.replace(site.net.request(protocol, 30), port=port)
    try:
        verdict = ask(request, plan_of(request, directory, secrets.choice(MARKS)), site.agents, directory).verdict
    finally:
        site.net.on("a", "nft delete table ip kube-proxy")
    assert (verdict.what, verdict.mend) == ("refused", "")
    assert verdict.why == f"service/default/web {words}, ip kube-proxy refuse: reject"


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_rules_of_go_kube_proxy_are_told(sites: Callable[[Family], Site], variant: str) -> None:
    """Its own, of a real one; only the addresses are those of this network."""
    site = sites(Family.IPV4)
    rules = (ROOT / "tests/proxy/go-kube-proxy-1.20.iptables").read_text()
    for theirs, ours in (("10.96.1.3", "10.96.0.20"), ("10.96.1.5", "10.96.0.30"), ("10.244.1.10", "10.2.0.2"),
                         ("10.244.2.20", "10.2.0.2")):
        rules = rules.replace(theirs, ours)
    *others, web = site.net.directory.places
    node = Place("service", "default/nodeport", ("10.96.0.20",), ports=web.ports)
    empty = Place("service", "default/empty", ("10.96.0.30",), ports={(TCP, 80): ()})
    directory, verdicts = Directory((*others, web, node, empty)), []
    site.net.node["a"].run([f"iptables-{variant}-restore"], input=rules)
    site.net.on("a", "ip route add default via 192.168.50.2")  # what goes nowhere meets no rule
    try:
        for target in ("svc/nodeport", "svc/empty"):
            request = dataclasses.replace(site.net.request(seconds=30), target=target)
            story = ask(request, plan_of(request, directory, secrets.choice(MARKS)), site.agents, directory)
            verdicts.append(story.verdict)
            told = draw(story, directory)
            assert ("KUBE-SEP-" in told) == (target == "svc/nodeport"), told
    finally:
        site.net.on("a", "ip route del default")
        for table in ("nat", "filter", "mangle"):
            site.net.on("a", f"iptables-{variant} -w -t {table} -F; iptables-{variant} -w -t {table} -X")
    assert [verdict.what for verdict in verdicts] == ["answered", "refused"]
    assert verdicts[1].why.startswith("service/default/empty has no endpoints, ip")
    assert "KUBE-SERVICES: " in verdicts[1].why
    assert verdicts[1].mend == ""


def test_nobody_listens(sites: Callable[[Family], Site]) -> None:
    site = sites(Family.IPV4)
    site.net.servers.pop(0).close()
    verdict = trace(site, 30).verdict
    assert (verdict.what, verdict.where, verdict.why) == ("refused", site.net.name("b"), "nobody listens there")
