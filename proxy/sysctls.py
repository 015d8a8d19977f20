"""The kernel's switches the rules rely on, each with its reason. A switch that does not exist here is not needed here.

Pure. Read next: `proxy/target.py`.
"""

from __future__ import annotations

from nodecore.kernel.model import Sysctl
from nodecore.net import Family

# without it a late segment counts as INVALID, leaves untranslated, and the caller resets the connection
TCP_BE_LIBERAL = Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
WANTED = {
    Family.IPV4: (
        Sysctl("net/ipv4/ip_forward", "1"),  # NodePorts answer from other nodes' pods
        Sysctl("net/bridge/bridge-nf-call-iptables", "1"),  # pods on one bridge reach each other through a Service
        TCP_BE_LIBERAL,
    ),
    Family.IPV6: (
        Sysctl("net/ipv6/conf/all/forwarding", "1"),
        Sysctl("net/bridge/bridge-nf-call-ip6tables", "1"),
        TCP_BE_LIBERAL,
    ),
}
