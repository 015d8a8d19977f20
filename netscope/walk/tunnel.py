"""Into a VXLAN and out of it: which neighbour and forwarding entry are used, and whether the other end takes the packet.

Pure. Read next: `journey.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from netscope.walk import routes
from netscope.walk.host import Ended, Node
from netscope.walk.packet import Packet
from netscope.walk.routes import Hop
from netscope.walk.values import PROTOCOLS

SOURCE_PORT = 50000  # VXLAN takes one from a hash of what is inside


@dataclass(frozen=True, slots=True)
class Outer:
    """The packet around the packet, and to which MAC of which VXLAN it goes."""

    packet: Packet
    vni: int
    mac: str
    mend: str = ""


def outside_of(node: Node, packet: Packet, hop: Hop) -> Outer | Ended:
    """Around a packet that leaves by a VXLAN."""
    link = node.facts.link(hop.link)
    assert link
    if "UP" not in link.flags:
        return Ended("lost", node.name, f"{hop.link} is down", f"ip link set {hop.link} up")
    to = hop.gateway or str(packet.target)
    mac = routes.neighbour(node.facts, hop.link, to)
    if not mac:
        return Ended("lost", node.name, f"no neighbour entry for {to} on {hop.link}",
                     f"ip neigh replace {to} lladdr MAC dev {hop.link} nud permanent")
    hosts = routes.hosts_behind(node.facts, hop.link, mac)
    if not hosts:
        return Ended("lost", node.name, f"{hop.link} does not know behind which host {mac} is",
                     f"bridge fdb replace {mac} dev {hop.link} dst HOST")
    data = link.linkinfo.info_data
    vni, port = int(data.get("id", 0)), int(data.get("port", 0))
    node.note("tunnel", f"VXLAN {vni} to {hosts[0]} port {port}", f"neighbour {to} is {mac}, forwarding entry: behind {hosts[0]}")
    target = ip_address(hosts[0])
    source = ip_address(link.tunnel_from) if link.tunnel_from else None
    if source is None or source.version != target.version:
        return Ended("lost", node.name, f"{hop.link} has no address to send from to {target}")
    outer = Packet(PROTOCOLS["udp"], source, SOURCE_PORT, target, port)
    return Outer(outer, vni, mac, f"bridge fdb del {mac} dev {hop.link} dst {target}")


def unpack(node: Node, outer: Outer) -> str | Ended:
    """The link that takes it on the other side."""
    port = outer.packet.target_port
    links = [link for link in node.facts.links_of("vxlan")
             if int(link.linkinfo.info_data.get("id", 0)) == outer.vni and int(link.linkinfo.info_data.get("port", 0)) == port]
    target = outer.packet.target
    links = [link for link in links if not link.tunnel_from or ip_address(link.tunnel_from) == target]
    if not links:
        return Ended("lost", node.name, f"no VXLAN {outer.vni} listens on {target} port {port} here")
    link = links[0]
    if "UP" not in link.flags:
        return Ended("lost", node.name, f"{link.ifname} is down", f"ip link set {link.ifname} up")
    if link.address != outer.mac:
        return Ended("lost", node.name, f"it is for MAC {outer.mac}, but {link.ifname} has {link.address}: the sender's "
                                        "neighbour or forwarding entry is wrong")
    return link.ifname
