"""Every name this proxy gives to something in the kernel, with its reason. None of them is an interface.

Nothing taken from an API object ever becomes a name or a word of a rule: only addresses, ports and numbers do.
Pure. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLE = "kube-proxy-py"  # the table is ours alone, in families ip and ip6
GO_TABLE = "kube-proxy"  # Go kube-proxy's: with names of their own, either may be written while the other stands

# flannel's rules leave packets with this mark alone, so masquerading is ours to do; --iptables-masquerade-bit
MASQUERADE_MARK = 0x4000

# Base chains: the hooks we stand in. All are of type nat: only the first packet of a connection meets them.
NAT_PREROUTING = "nat-prerouting"  # packets that arrive: choose an endpoint, refuse what nobody serves
NAT_OUTPUT = "nat-output"  # packets this node sends: the same
NAT_POSTROUTING = "nat-postrouting"  # take the node's own address where the answer has to come back here

# Chains those share.
SERVICES = "services"  # which Service is this packet for?
NODE_PORTS = "nodeports"  # ... and if it is for this node itself, which NodePort?
UNSERVED = "unserved"  # a Service's address, but no endpoint was chosen
GUARD = "guard"  # may this caller use this load balancer?
REFUSE = "refuse"  # tell the caller: TCP reset, or ICMP port unreachable
MASQUERADE = "take-own-address"  # unmark and take the node's address

# Sets and maps that do not belong to one path.
PROTOCOLS = "protocols"  # the ones with ports; a named set, because each anonymous one slows every transaction down
CLUSTER_IPS = "cluster-ips"  # addresses of Services: an undefined port there is refused, not routed away
HAIRPIN = "hairpin"  # local endpoint . itself: a pod that reached itself through its Service
GUARDED = "guarded"  # load balancers only some may use
ALLOWED = "allowed"  # ... and by whom
NO_ENDPOINTS = "no-endpoints"  # Services nobody answers: refuse, or drop where only local endpoints may
NO_ENDPOINT_NODE_PORTS = "no-endpoint-nodeports"  # the same for NodePorts
NODE_PORT_ADDRESSES = "nodeport-addresses"  # --nodeport-addresses, where given
DECLARED = "declared-"  # ... and a hash of all these declarations: an empty set, by which a restart knows that it may go on

TRAFFIC_TABLE = "kube-proxy-py-traffic"  # in iptables mode these sets have a table of their own, in families ip and ip6
# With --traffic-metrics: what passes is counted in the elements of these sets, which are Service . endpoint.
COUNT_POSTROUTING = "count-postrouting"  # every packet that is sent on, before its source is translated
COUNT_INPUT = "count-input"  # ... or has arrived
COUNT_TO, COUNT_FROM = "count-to", "count-from"  # towards endpoints, and back
TRAFFIC_TO, TRAFFIC_FROM = "traffic-to", "traffic-from"
NODE_PORT_TRAFFIC_TO, NODE_PORT_TRAFFIC_FROM = "nodeport-traffic-to", "nodeport-traffic-from"


@dataclass(frozen=True, slots=True)
class Path:
    """One way to an endpoint: its chains per number of endpoints, and the maps they read."""

    name: str
    verdicts: str  # key -> goto the chain that chooses
    by_address: bool  # whether the destination address is part of the key
    maps: str  # what the names of its other maps begin with: paths whose keys cannot meet share them

    @property
    def endpoints(self) -> str:
        """Key and endpoint number -> endpoint."""
        return f"{self.maps}-endpoints"

    @property
    def slots(self) -> str:
        """Key and slot -> endpoint number, for sticky Services; for others the slot is the number."""
        return f"{self.maps}-sticky-slots"

    @property
    def live(self) -> str:
        """Key and endpoint number -> go there; an endpoint that is gone is not in it."""
        return f"{self.maps}-sticky-live"

    @property
    def affinity(self) -> str:
        """Client and key -> endpoint number, written by the packets themselves and timed out by the kernel."""
        return f"{self.maps}-affinity"

    @property
    def go(self) -> str:
        """The chain that sends a packet to the endpoint whose number it carries."""
        return f"{self.name}-go"

    def spread(self, count: int) -> str:
        """The chain that takes one of `count` endpoints by chance."""
        return f"{self.name}-{count}"

    def sticky(self, count: int, timeout: int) -> str:
        """The chain that takes the client's earlier endpoint, or else one of `count`."""
        return f"{self.name}-sticky-{count}-{timeout}"

    def stick(self, timeout: int) -> str:
        """The chain that remembers the endpoint for `timeout` seconds and goes there."""
        return f"{self.name}-stick-{timeout}"


CLUSTER = Path("cluster", "services", by_address=True, maps="cluster")  # by ClusterIP
EXTERNAL = Path("external", "services", by_address=True, maps="cluster")  # by an address from outside
NODE_PORT = Path("nodeport", "nodeports", by_address=False, maps="nodeport")  # by NodePort
# With externalTrafficPolicy Local, for callers from outside the cluster:
EXTERNAL_LOCAL = Path("external-local", "local-services", by_address=True, maps="external-local")
NODE_PORT_LOCAL = Path("nodeport-local", "local-nodeports", by_address=False, maps="nodeport-local")
PATHS = (CLUSTER, EXTERNAL, NODE_PORT, EXTERNAL_LOCAL, NODE_PORT_LOCAL)
OWN_MAPS = tuple({path.maps: path for path in PATHS}.values())  # one path for each set of maps

# iptables mode. Every chain begins so, and nobody else's does: neither Go kube-proxy's KUBE- nor flannel's.
PREFIX = "KPY-"
NAT_CHAINS = {
    "SERVICES": "packets that arrive or that this node sends: which Service are they for?",
    "STRANGERS": "callers from outside the cluster: the ways under a Local policy",
    "OUTSIDE": "mark for masquerading, unless the caller is of the cluster",
    "NODEPORTS": "packets for this node itself, where NodePorts answer",
    "LOCAL-NODEPORTS": "the same, for callers from outside the cluster",
    "POSTROUTING": "take the node's own address where the answer has to come back here",
    "MASQUERADE": "unmark and take the node's address",
}
FILTER_CHAINS = {
    "UNSERVED": "new connections no endpoint was chosen for: drop or refuse what was for a Service",
    "NODEPORTS": "packets for this node itself, where NodePorts answer",
    "FORWARD": "let Services' packets pass where the policy of FORWARD is DROP",
    "LOOPBACK": "drop what others send to 127.0.0.0/8, which is open for NodePorts there",
    "REFUSE": "tell the caller: TCP reset, or ICMP port unreachable",
}
# Trees of chains: the root jumps by the low bits of an address (or the high ones of a port) to a chain of a few Services.
NAT_TREES = {
    "C": "ClusterIPs, and what callers of the cluster send to external addresses",
    "E": "external addresses",
    "S": "external addresses under a Local policy, for callers from outside",
    "N": "NodePorts",
    "L": "NodePorts under a Local policy, for callers from outside",
    "H": "endpoints on this node: a pod that reached itself through its Service",
}
FILTER_TREES = {
    "D": "addresses and ports that are dropped or refused",
    "U": "ClusterIPs: an undefined port there is refused",
    "P": "NodePorts that are dropped or refused",
}


def turn(tree: str, count: int, turn: int) -> str:
    """The tree of those that are the `turn`th of a Service's `count` endpoints; of one that is alone, the tree itself."""
    return f"{tree}-{count}-{turn}" if count > 1 else tree


BALANCED = "V-"  # ... and a hash of its rules: a chain of the endpoints of Services with many of them, or with affinity
RECENT = "KPY-"  # ... and a hash of Service, port and endpoint: the clients the kernel remembers (/proc/net/xt_recent)
