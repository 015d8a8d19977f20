"""The kernel's switches the rules rely on, each with its reason. A switch that does not exist here is not needed here.

Pure. Read next: `proxy/target.py`.
"""

from __future__ import annotations

from nodecore.kernel.model import Sysctl
from nodecore.net import Family

from .config import ConntrackLimits

# Of a family they are set where it is sure to be used: a machine that forwards IPv6 listens to its routers no more.
BRIDGED = {Family.IPV4: "net/bridge/bridge-nf-call-iptables", Family.IPV6: "net/bridge/bridge-nf-call-ip6tables"}
WANTED = {
    Family.IPV4: (
        Sysctl("net/ipv4/ip_forward", "1"),  # NodePorts answer from other nodes' pods
        Sysctl(BRIDGED[Family.IPV4], "1"),  # pods on one bridge reach each other through a Service
    ),
    Family.IPV6: (
        Sysctl("net/ipv6/conf/all/forwarding", "1"),
        Sysctl(BRIDGED[Family.IPV6], "1"),
    ),
}
# without it a late segment counts as INVALID, leaves untranslated, and the caller resets the connection
TCP_BE_LIBERAL = Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
IPVS = (
    Sysctl("net/ipv4/vs/conntrack", "1"),  # or else what IPVS translates cannot be masqueraded
    Sysctl("net/ipv4/vs/expire_nodest_conn", "1"),  # UDP that went to an endpoint that is gone finds another one
    Sysctl("net/ipv4/vs/expire_quiescent_template", "1"),  # and so do clients with affinity
)
STRICT_ARP = (Sysctl("net/ipv4/conf/all/arp_ignore", "1"), Sysctl("net/ipv4/conf/all/arp_announce", "2"))
# NodePorts on loopback: a pod's answer may come to 127.0.0.1. Our rules drop what others send there, so these come first.
ROUTE_LOCALNET = Sysctl("net/ipv4/conf/all/route_localnet", "1")
AFTER_RULES = frozenset({ROUTE_LOCALNET})
TIMEOUTS = {
    "tcp_established": "net/netfilter/nf_conntrack_tcp_timeout_established",
    "tcp_close_wait": "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "udp": "net/netfilter/nf_conntrack_udp_timeout",
    "udp_stream": "net/netfilter/nf_conntrack_udp_timeout_stream",
}


def conntrack_switches(limits: ConntrackLimits, cores: int) -> tuple[Sysctl, ...]:
    """What the flags say of connection tracking; of the number of connections, what the cores come to but not too few."""
    most = max(limits.per_core * cores, limits.least) if limits.per_core else 0
    switches = [Sysctl("net/netfilter/nf_conntrack_max", str(most))] if most else []
    switches += [Sysctl(name, str(int(getattr(limits, key)))) for key, name in TIMEOUTS.items() if getattr(limits, key)]
    return (*switches, TCP_BE_LIBERAL) if limits.tcp_be_liberal else tuple(switches)
