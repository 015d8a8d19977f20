"""A node between three neighbours, for tests of traffic rules: a local pod, a pod behind a tunnel, and somebody outside.

    pod 10.5.1.10 -- cni0 10.5.1.1 | node | eth0 192.168.77.1 -- outside 192.168.77.254
                  remote pod 10.5.2.10 -- tun0 10.5.1.0 |

The tunnel is a veth: rules do not ask. IPv6 alike. Nobody but the node knows a way to 10.5.1.0/24 from outside unless told.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from flanneld_py.masq import Wanted, desired_rules
from flanneld_py.rules import RulesTarget, WriteRules
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.loop.reconcile import Reconciler
from nodecore.net import Family

KINDS = ("nftables", "nft", "legacy")
GO = """*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s N -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d N -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s N -d N -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s N ! -d MULTICAST -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s N -d P -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s N -d N -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""


@dataclass(frozen=True)
class Plan:
    """The addresses of a family."""

    family: Family
    network: str
    subnet: str
    tunnel: str
    bridge: str
    pod: str
    remote: str
    node: str
    outside: str
    length: int

    @property
    def program(self) -> str:
        return "iptables" if self.family is Family.IPV4 else "ip6tables"


V4 = Plan(Family.IPV4, "10.5.0.0/16", "10.5.1.0/24", "10.5.1.0", "10.5.1.1", "10.5.1.10", "10.5.2.10",
          "192.168.77.1", "192.168.77.254", 24)
V6 = Plan(Family.IPV6, "fd00:5::/48", "fd00:5:0:1::/64", "fd00:5:0:1::", "fd00:5:0:1::1", "fd00:5:0:1::10", "fd00:5:0:2::10",
          "2001:db8::1", "2001:db8::254", 64)
PLANS = (V4, V6)


def needs_iptables() -> None:
    """Skip where a kind of iptables is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in ("iptables-nft", "iptables-legacy"):
        if not Path(f"/usr/sbin/{program}").exists():
            pytest.skip(f"no {program} here")


def wanted(*, nftables: bool, masquerade: bool = True, forward: bool = True, plans: Sequence[Plan] = PLANS) -> Wanted:
    sets = [
        desired_rules(plan.family, ip_network(plan.network), ip_network(plan.subnet), masquerade=masquerade, forward=forward,
                      fully_random=True) if plan in plans
        else desired_rules(plan.family, None, None, masquerade=True, forward=True, fully_random=True)
        for plan in PLANS
    ]
    return Wanted(tuple(sets), nftables)


class RuleHost:
    """A node's namespace, and flanneld's rules in it without the rest of flanneld."""

    def __init__(self) -> None:
        self.ns = Netns.create()
        self.target = self.fresh()
        self.asked = wanted(nftables=True)

    def fresh(self) -> RulesTarget:
        """As after a restart."""
        self.target = RulesTarget(Nft(), Iptables(), lambda: self.asked)
        return self.target

    def apply(self, asked: Wanted) -> list[WriteRules]:
        """One pass; its writes."""
        self.asked = asked
        with self.ns.enter():
            outcome = asyncio.run(Reconciler("rules", self.target).once())
        if outcome.error:
            raise outcome.error
        return list(outcome.ops)  # type: ignore[arg-type]

    def sh(self, command: str, stdin: str | None = None) -> str:
        return self.ns.run(command.split(), input=stdin).stdout

    def save(self, *, ours: bool = True) -> str:
        """All rules of all kinds there are, as their own tools write them, without counters and dates."""
        texts = []
        for program in ("iptables", "ip6tables"):
            names = self.sh(f"cat /proc/net/{'ip6' if program == 'ip6tables' else 'ip'}_tables_names").split()
            texts += [self.sh(f"{program}-legacy-save -t {table}") for table in sorted(names)]
            texts.append(self.sh(f"{program}-nft-save"))
        lines = [re.sub(r"\[\d+:\d+\]", "", line) for text in texts for line in text.splitlines() if not line.startswith("#")]
        return "\n".join(line for line in lines if ours or "FLANNEL-" not in line)

    def go_flanneld(self, kind: str, plan: Plan) -> None:
        """Put in place what Go flanneld 0.20.2 writes (facts: its sample)."""
        text = GO.replace("N ", f"{plan.network} ").replace("P ", f"{plan.subnet} ").replace("MULTICAST", plan.family.multicast)
        self.sh(f"{plan.program}-{kind}-restore -w 5 --noflush", text)

    def use(self, kind: str) -> None:
        """Somebody else's rules, which make this a host of that kind of iptables."""
        for plan in PLANS:
            for rule in ("INPUT -p tcp --dport 9 -j DROP", "FORWARD -p udp --dport 9 -j DROP"):
                self.sh(f"{plan.program}-{kind} -w 5 -A {rule}")
            self.sh(f"{plan.program}-{kind} -w 5 -t nat -N SOMEBODYS")
            self.sh(f"{plan.program}-{kind} -w 5 -t nat -A POSTROUTING -p tcp --dport 9 -j SOMEBODYS")

    def close(self) -> None:
        self.ns.close()


class Crossing(RuleHost):
    """The same with its three neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.pod, self.remote, self.outside = (self.stack.enter_context(Netns.create()) for _ in range(3))
        for space, link in ((self.pod, "cni0"), (self.remote, "tun0"), (self.outside, "eth0")):
            self.sh(f"ip link add {link} type veth peer name eth0 netns {space.pid}")
            self.sh(f"ip link set {link} up")
            space.run(["ip", "link", "set", "eth0", "up"])
        for plan in PLANS:
            self._address(plan)
        self.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def _address(self, plan: Plan) -> None:
        ip, bits = f"ip -{plan.family.value}", plan.family.bits
        extra = " nodad" if plan.family is Family.IPV6 else ""
        for command in (f"addr add {plan.bridge}/{plan.length} dev cni0", f"addr add {plan.tunnel}/{bits} dev tun0",
                        f"addr add {plan.node}/{plan.length} dev eth0"):
            self.sh(f"{ip} {command}{extra}")
        self.sh(f"{ip} route add {plan.remote}/{bits} dev tun0")
        for space, address, gateway in ((self.pod, plan.pod, plan.bridge), (self.outside, plan.outside, plan.node)):
            space.run(f"{ip} addr add {address}/{plan.length} dev eth0{extra}".split())
            space.run(f"{ip} route add {'default' if space is self.pod else plan.network} via {gateway}".split())
        self.remote.run(f"{ip} addr add {plan.remote}/{bits} dev eth0{extra}".split())
        self.remote.run(f"{ip} route add {plan.tunnel}/{bits} dev eth0".split())
        self.remote.run(f"{ip} route add {plan.subnet} via {plan.tunnel}".split())

    def close(self) -> None:
        self.stack.close()
        super().close()


def seen_as(server: Netns, address: str, client: Netns, *, source: str = "", mark: int = 0) -> str:
    """The address a connection comes from, as its server sees it: so there is a way there and a way back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.enter():
        listener = socket.create_server((address, 0), family=family)
    with listener, client.enter():
        listener.settimeout(30)
        sock = socket.socket(family, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(30)
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if source:
                sock.bind((source, 0))
            sock.connect((address, listener.getsockname()[1]))
            peer, found = listener.accept()
            with peer:
                peer.sendall(b"back")
                assert sock.recv(4) == b"back"
    return str(found[0])
