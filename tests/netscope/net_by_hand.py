"""Two nodes joined by a VXLAN, a pod on each, and a Service, all made by hand: what a fault test then breaks.

    pod-a 10.1.0.2 - node-a 192.168.50.1 = underlay = node-b 192.168.50.2 - pod-b 10.2.0.2:8080, behind 10.96.0.10:80

or the same in IPv6 (`Plan`).
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from netscope.directory import Directory, Place
from netscope.flow import NAMES, PORTED, PROTOCOLS, End
from netscope.story import Trace
from netscope.trace import Request, run
from nodecore.kernel.netns import Netns
from nodecore.net import Family

ROOT = Path(__file__).parent.parent.parent
VIA = f"nsenter --net=/proc/{{node}}/ns/net env PYTHONPATH={ROOT} {sys.executable} -m netscope agent"
ALONE = os.environ | {"XTABLES_LOCKFILE": f"/tmp/xtables-{os.getpid()}.lock"}  # else other processes' tests hold the only one
VTEPS = {"a": "0a:00:00:00:00:01", "b": "0a:00:00:00:00:02"}


@dataclass(frozen=True)
class Plan:
    """Who has which address, in one family; nodes and their subnets are numbered."""

    family: Family

    def _of(self, four: str, six: str) -> str:
        return four if self.family is Family.IPV4 else six

    def node(self, number: int) -> str:
        return self._of(f"192.168.50.{number}", f"fd00:50::{number}")

    def vtep(self, number: int) -> str:
        return self._of(f"10.{number}.0.0", f"fd00:{number}::")

    def gateway(self, number: int) -> str:
        return self._of(f"10.{number}.0.1", f"fd00:{number}::1")

    def pod(self, number: int) -> str:
        return self._of(f"10.{number}.0.2", f"fd00:{number}::2")

    def subnet(self, number: int) -> str:
        return f"{self.vtep(number)}/{self.prefix}"

    @property
    def prefix(self) -> int:
        return 24 if self.family is Family.IPV4 else 64

    @property
    def at_once(self) -> str:
        """For `ip addr add`: an IPv6 address is else tentative until a work queue of the kernel has had its turn."""
        return self._of("", "nodad")

    @property
    def service(self) -> str:
        return self._of("10.96.0.10", "fd00:96::10")

    @property
    def forwarding(self) -> str:
        return self._of("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def end(self, address: str, port: int) -> str:
        return self._of(f"{address}:{port}", f"[{address}]:{port}")


@dataclass
class Net:
    """`node` and `pod` are namespaces by letter; a node is called by the pid of its holder, by which its agent enters it."""

    plan: Plan
    node: dict[str, Netns]
    pod: dict[str, Netns]
    servers: list[socket.socket] = field(default_factory=list)

    def on(self, letter: str, *commands: str) -> None:
        """Run commands on a node."""
        for command in commands:
            self.node[letter].run(["sh", "-c", command], env=ALONE)

    def name(self, letter: str) -> str:
        return str(self.node[letter].pid)

    @property
    def directory(self) -> Directory:
        a, b, plan = self.name("a"), self.name("b"), self.plan
        ends = (End(plan.pod(2), 8080, "pod/default/b"),)
        return Directory((
            Place("node", a, (plan.node(1),), a), Place("node", b, (plan.node(2),), b),
            Place("pod", "default/a", (plan.pod(1),), a), Place("pod", "default/b", (plan.pod(2),), b),
            Place("service", "default/web", (plan.service,), ports={(number, 80): ends for number in PORTED}),
        ))

    def trace(self, protocol: str = "tcp", *, seconds: float = 0.3) -> Trace:
        """The story of a probe from pod a to the Service, or to pod b where the Service has no port for it."""
        (story,) = run(self.request(protocol, seconds), self.directory, VIA)
        return story

    def request(self, protocol: str = "tcp", seconds: float = 0.3) -> Request:
        """What that trace asks for."""
        target, port = ("pod/b", 0) if protocol == "icmp" else ("svc/web", 80)
        return Request("pod/a", target, port, PROTOCOLS[protocol], self.plan.family, seconds)


def make(stack: ExitStack, family: Family = Family.IPV4) -> Net:
    """All of it, until the stack ends."""
    plan = Plan(family)
    nodes, pods = ({x: stack.enter_context(Netns.create()) for x in "ab"} for _ in range(2))
    for space in (*nodes.values(), *pods.values()):
        space.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"])  # addresses are good at once
    net = Net(plan, nodes, pods)
    net.on("a", f"ip link add eth0 type veth peer name eth0 netns {nodes['b'].pid}")
    for number, here, there in ((1, "a", "b"), (2, "b", "a")):
        _node(net, here, number, VTEPS[here], VTEPS[there])
    rules = "; ".join(f"{family.nft} daddr {plan.service} {protocol} dport 80 dnat to {plan.end(plan.pod(2), 8080)}"
                      for protocol in map(NAMES.__getitem__, PORTED))
    table = f"table {family.nft} services {{ chain pre {{ type nat hook prerouting priority dstnat; {rules}; }}"
    nodes["a"].run(["nft", f"{table}; chain post {{ type nat hook postrouting priority srcnat; }}; }}"])
    with pods["b"].enter():
        net.servers.append(stack.enter_context(socket.create_server((plan.pod(2), 8080), family=family.af)))
        net.servers.append(stack.enter_context(socket.socket(family.af, socket.SOCK_DGRAM)))
        net.servers[1].bind((plan.pod(2), 8080))
    return net


def _node(net: Net, letter: str, number: int, mac: str, peer: str) -> None:
    plan, other = net.plan, 3 - number
    net.on(
        letter, f"ip addr add {plan.node(number)}/{plan.prefix} dev eth0 {plan.at_once}", "ip link set eth0 up",
        f"sysctl -qw {plan.forwarding}",
        f"ip link add flannel.1 address {mac} type vxlan id 1 local {plan.node(number)} dev eth0 dstport 8472 nolearning",
        f"ip addr add {plan.vtep(number)}/{plan.family.bits} dev flannel.1 {plan.at_once}", "ip link set flannel.1 up",
        f"ip link add pod type veth peer name eth0 netns {net.pod[letter].pid}",
        f"ip addr add {plan.gateway(number)}/{plan.prefix} dev pod {plan.at_once}", "ip link set pod up",
        f"ip neigh add {plan.vtep(other)} lladdr {peer} dev flannel.1 nud permanent",
        f"bridge fdb add {peer} dev flannel.1 dst {plan.node(other)}",
        f"ip route add {plan.subnet(other)} via {plan.vtep(other)} dev flannel.1 onlink")
    net.pod[letter].run(["ip", "-batch", "-"], input=(
        f"addr add {plan.pod(number)}/{plan.prefix} dev eth0 {plan.at_once}\n"
        f"link set eth0 up\nroute add default via {plan.gateway(number)}\n"))
