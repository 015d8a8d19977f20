"""Whether a node forwards at all: the kernel's switches, and room in its tables.

Pure. Read next: `cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from netscope.checks.cluster import Cluster, vteps
from netscope.facts import Finding

BRIDGED = "net/bridge/bridge-nf-call-iptables"
FULL = 0.9
STRICT, LOOSE = "1", "2"


def forwarding(cluster: Cluster) -> Iterator[Finding]:
    """Nodes that carry pods forward packets."""
    for node, facts in cluster.items():
        families = {":" in end.address for end in vteps({node: facts})}
        for six, switch in ((False, "net/ipv4/ip_forward"), (True, "net/ipv6/conf/all/forwarding")):
            if six in families and not facts.is_on(switch):
                yield _switch(node, "it forwards no packets", switch, "0", "1")


def reverse_path(cluster: Cluster) -> Iterator[Finding]:
    """Nobody's source is disbelieved on the way in: strict checks on the tunnel drop what comes by another route."""
    for node, facts in cluster.items():
        for end in vteps({node: facts}):
            for name in filter(None, (end.link.ifname, end.parent)):
                switch = f"net/ipv4/conf/{name}/rp_filter"
                if max(facts.sysctls.get(each, "0") for each in ("net/ipv4/conf/all/rp_filter", switch)) == STRICT:
                    yield _switch(node, f"it believes only sources it would answer by {name}", switch, STRICT, LOOSE)


def bridged(cluster: Cluster) -> Iterator[Finding]:
    """Packets between pods of one node meet the Service rules: without it a pod cannot reach a Service's endpoint beside it."""
    for node, facts in cluster.items():
        bridges = [bridge.ifname for bridge in facts.links_of("bridge") if bridge.ifname.startswith("cni")]
        if not bridges or facts.is_on(BRIDGED):
            continue
        what, fix = f"packets that stay on {bridges[0]} meet no rules", f"sysctl -w {BRIDGED}=1"
        if BRIDGED in facts.sysctls:
            yield Finding(node, what, f"{BRIDGED} = 0", fix)
        else:
            yield Finding(node, what, "the module br_netfilter is not loaded", f"modprobe br_netfilter; {fix}")


def tables(cluster: Cluster) -> Iterator[Finding]:
    """Connection tracking and neighbour tables have room."""
    for node, facts in cluster.items():
        used, room = (int(facts.sysctls.get(f"net/netfilter/nf_conntrack_{name}", "0")) for name in ("count", "max"))
        if room and used >= FULL * room:
            yield Finding(node, "connection tracking is full, new connections are dropped", f"{used} of {room}",
                          f"sysctl -w net/netfilter/nf_conntrack_max={room * 2}")
        limit = int(facts.sysctls.get("net/ipv4/neigh/default/gc_thresh3", "0"))
        if limit and len(facts.neighbours) >= FULL * limit:
            yield Finding(node, "the neighbour table is full", f"{len(facts.neighbours)} of {limit}",
                          f"sysctl -w net/ipv4/neigh/default/gc_thresh3={limit * 4}")


def _switch(node: str, what: str, name: str, now: str, wanted: str) -> Finding:
    return Finding(node, what, f"{name} = {now}", f"sysctl -w {name}={wanted}")


CHECKS = (forwarding, reverse_path, bridged, tables)
