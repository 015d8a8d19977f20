"""Two nodes joined by a VXLAN, a pod on each, and a Service, all made by hand: what a fault test then breaks.

    pod-a 10.1.0.2 - node-a 192.168.50.1 = underlay = node-b 192.168.50.2 - pod-b 10.2.0.2:8080, behind 10.96.0.10:80
"""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from netscope.directory import Directory, Place
from netscope.flow import PROTOCOLS, End
from netscope.story import Trace
from netscope.trace import Request, run
from nodecore.kernel.netns import Netns
from nodecore.net import Family

ROOT = Path(__file__).parent.parent.parent
VIA = f"nsenter --net=/proc/{{node}}/ns/net env PYTHONPATH={ROOT} {sys.executable} -m netscope agent"
VTEPS = {"a": "0a:00:00:00:00:01", "b": "0a:00:00:00:00:02"}
SERVICE = """
table ip services {
    chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 dnat to 10.2.0.2:8080; }
    chain post { type nat hook postrouting priority srcnat; }
}
"""


@dataclass
class Net:
    """`node` and `pod` are namespaces by letter; a node is called by the pid of its holder, by which its agent enters it."""

    node: dict[str, Netns]
    pod: dict[str, Netns]
    servers: list[socket.socket] = field(default_factory=list)

    def on(self, letter: str, *commands: str) -> None:
        """Run commands on a node."""
        for command in commands:
            self.node[letter].run(["sh", "-c", command])

    def name(self, letter: str) -> str:
        return str(self.node[letter].pid)

    @property
    def directory(self) -> Directory:
        a, b = self.name("a"), self.name("b")
        ends = (End("10.2.0.2", 8080, "pod/default/b"),)
        return Directory((
            Place("node", a, ("192.168.50.1",), a), Place("node", b, ("192.168.50.2",), b),
            Place("pod", "default/a", ("10.1.0.2",), a), Place("pod", "default/b", ("10.2.0.2",), b),
            Place("service", "default/web", ("10.96.0.10",), ports={(PROTOCOLS["tcp"], 80): ends}),
        ))

    def trace(self, source: str = "pod/a", target: str = "svc/web", port: int = 80, *, seconds: float = 0.3) -> Trace:
        """The probe's story."""
        return run(Request(source, target, port, PROTOCOLS["tcp"], Family.IPV4, seconds), self.directory, VIA)


def make(stack: ExitStack) -> Net:
    """All of it, until the stack ends."""
    net = Net({x: stack.enter_context(Netns.create()) for x in "ab"}, {x: stack.enter_context(Netns.create()) for x in "ab"})
    net.on("a", f"ip link add eth0 type veth peer name eth0 netns {net.node['b'].pid}")
    for number, here, there in ((1, "a", "b"), (2, "b", "a")):
        _node(net, here, number, VTEPS[here], VTEPS[there])
    net.node["a"].run(["nft", "-f", "-"], input=SERVICE)
    with net.pod["b"].enter():
        net.servers.append(stack.enter_context(socket.create_server(("10.2.0.2", 8080))))
    return net


def _node(net: Net, letter: str, number: int, mac: str, peer: str) -> None:
    other = 3 - number
    net.on(
        letter, f"ip addr add 192.168.50.{number}/24 dev eth0", "ip link set eth0 up", "sysctl -qw net.ipv4.ip_forward=1",
        f"ip link add flannel.1 address {mac} type vxlan id 1 local 192.168.50.{number} dev eth0 dstport 8472 nolearning",
        f"ip addr add 10.{number}.0.0/32 dev flannel.1", "ip link set flannel.1 up",
        f"ip link add pod type veth peer name eth0 netns {net.pod[letter].pid}",
        f"ip addr add 10.{number}.0.1/24 dev pod", "ip link set pod up",
        f"ip neigh add 10.{other}.0.0 lladdr {peer} dev flannel.1 nud permanent",
        f"bridge fdb add {peer} dev flannel.1 dst 192.168.50.{other}",
        f"ip route add 10.{other}.0.0/24 via 10.{other}.0.0 dev flannel.1 onlink")
    net.pod[letter].run(["ip", "-batch", "-"], input=f"addr add 10.{number}.0.2/24 dev eth0\nlink set eth0 up\n"
                                                     f"route add default via 10.{number}.0.1\n")
