"""What carries the tunnels: the links under them, the neighbours they go to, the clocks and files of the nodes.

Pure. Read next: `netscope/checks/tunnels.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from netscope.checks.cluster import Cluster, Vtep, vteps
from netscope.facts import Facts, Finding
from netscope.scene import Scene

SKEW = 2.0
RANDOM_PORTS_MENDED = (5, 7)  # the kernel since which a translated packet in a VXLAN keeps its checksum right
CSUM_ERRORS, CSUM_RARE = 10, 10_000  # so many, and more than one in so many
CNI_FILES = (".conf", ".conflist", ".json")


def carriers(cluster: Cluster) -> Iterator[Finding]:
    """The link under each tunnel is up and has somebody at its other end."""
    for here in vteps(cluster):
        link = cluster[here.node].link(here.parent)
        if link is None:
            continue
        if "UP" not in link.flags:
            yield Finding(here.node, f"{link.ifname}, which carries {here.link.ifname}, is down", "ip link",
                          f"ip link set {link.ifname} up")
        elif "NO-CARRIER" in link.flags:
            yield Finding(here.node, f"{link.ifname}, which carries {here.link.ifname}, has no carrier", "ip link: NO-CARRIER")
        if here.host and not any(info.local == here.host for each in cluster[here.node].addresses for info in each.addr_info):
            yield Finding(here.node, f"{here.link.ifname} sends from an address that this node has not", here.host,
                          f"ip link del {here.link.ifname}")


def neighbours(cluster: Cluster) -> Iterator[Finding]:
    """The hosts at the tunnels' other ends answer on the link, and are taken for nobody else."""
    ends = vteps(cluster)
    for here in ends:
        facts = cluster[here.node]
        for host, node in {each.host: each.node for each in ends if each.node != here.node and each.host}.items():
            for entry in facts.neighbours:
                if entry.dst != host or not _on_link(facts, entry.dev, host):
                    continue
                macs = {link.address for link in cluster[node].links}
                fix = f"ip neigh del {host} dev {entry.dev}"
                if "FAILED" in entry.state:
                    yield Finding(here.node, f"{node} does not answer on {entry.dev}", f"neighbour {host} FAILED", fix)
                elif entry.lladdr and entry.lladdr not in macs:
                    yield Finding(here.node, f"somebody else has the address of {node} on {entry.dev}",
                                  f"{host} is at {entry.lladdr}, no MAC of {node}: a duplicate address or a wrong entry", fix)


def _on_link(facts: Facts, link: str, host: str) -> bool:
    return any(ip_address(host) in ip_interface(f"{info.local}/{info.prefixlen}").network for info in facts.addresses_of(link)
               if (":" in info.local) == (":" in host))


def networks(cluster: Cluster) -> Iterator[Finding]:
    """All tunnels of one name are one VXLAN."""
    first: dict[tuple[str, bool], Vtep] = {}
    for here in vteps(cluster):
        other = first.setdefault((here.link.ifname.partition(".")[0], ":" in here.address), here)
        if other.vni != here.vni and not any(each.vni == here.vni and each.node != here.node for each in vteps(cluster)):
            yield Finding(here.node, f"it is in another VXLAN than {other.node}", f"VNI {here.vni}, there {other.vni}")


def both_ways(cluster: Cluster) -> Iterator[Finding]:
    """What goes to a node's pods by the tunnel comes back by it."""
    ends = vteps(cluster)
    for here in ends:
        for there in ends:
            if here.node < there.node and here.vni == there.vni and (":" in here.address) == (":" in there.address):
                ways = [_link_to(cluster[one.node], other.address) for one, other in ((here, there), (there, here))]
                tunnelled = [bool(way) and way == end.link.ifname for way, end in zip(ways, (here, there), strict=True)]
                if all(ways) and tunnelled[0] != tunnelled[1]:
                    node, other, way = (there, here, ways[1]) if tunnelled[0] else (here, there, ways[0])
                    yield Finding(node.node, f"answers to pods of {other.node} leave another way than its packets come",
                                  f"they come by {node.link.ifname}, and leave by {way}",
                                  f"ip route replace {_dst(cluster[node.node], other.address)} via {other.address} "
                                  f"dev {node.link.ifname} onlink")


def _link_to(facts: Facts, address: str) -> str:
    from netscope.walk.routes import longest

    found = longest(facts.routes, ip_address(address))
    return found.dev if found and found.dst != "default" else ""


def _dst(facts: Facts, address: str) -> str:
    from netscope.walk.routes import longest

    found = longest(facts.routes, ip_address(address))
    return found.dst if found else address


def checksums(cluster: Cluster) -> Iterator[Finding]:
    """Packets arrive as they were sent; before 5.7 the kernel gets the checksum of translated packets in a tunnel wrong."""
    for node, facts in cluster.items():
        release = facts.settings.kernel
        kernel = tuple(int(word) for word in release.replace("-", ".").split(".")[:2] if word.isdigit())
        for end in vteps({node: facts}):
            if kernel and kernel < RANDOM_PORTS_MENDED and facts.settings.defers.get(end.link.ifname):
                yield Finding(node, f"{end.link.ifname} sends wrong checksums",
                              f"offload is on, and kernel {release} gets them wrong for translated packets",
                              f"ethtool -K {end.link.ifname} tx-checksum-ip-generic off")
        for name, (count, received) in facts.settings.bad_checksums.items():
            if count >= CSUM_ERRORS and count * CSUM_RARE > received:
                yield Finding(node, f"{name} packets come in with wrong checksums",
                              f"InCsumErrors {count} of {received + count} since it started: a sender's or the network card's "
                              "checksum offload")


def clocks(scene: Scene) -> Iterator[Finding]:
    """Clocks agree: certificates, leases and captures are read by them."""
    for node, skew in scene.skew.items():
        if abs(skew) > SKEW:
            yield Finding(node, f"its clock is {abs(skew):.1f} s {'fast' if skew > 0 else 'slow'}", "held against this machine's",
                          "systemctl restart systemd-timesyncd")


def plugins(scene: Scene) -> Iterator[Finding]:
    """Where flannel runs, the container runtime has a CNI configuration to start pods with."""
    for node, facts in scene.facts.items():
        files = [name for name in facts.settings.cni or () if name.endswith(CNI_FILES)]
        if facts.settings.subnet is not None and not files:
            what = "the directory of CNI configurations is " + ("missing" if facts.settings.cni is None else "empty")
            yield Finding(node, "pods cannot be started: no CNI configuration", what,
                          "kubectl -n kube-flannel rollout restart daemonset kube-flannel-ds")


CHECKS = (carriers, neighbours, networks, both_ways, checksums)
SCENE_CHECKS = (clocks, plugins)
