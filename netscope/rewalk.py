"""Where tracing could not look, a node's or pod's own rules, walked for the packet that was last seen there: do they keep it?

That is a pod's own network behind its link, and the packet around the packet at the end of its tunnel.
Pure. Must not know: how it came there. Read next: `netscope/walk/host.py`.
"""

from __future__ import annotations

from ipaddress import ip_address

from netscope.blame import Verdict
from netscope.facts import Facts
from netscope.flow import UDP
from netscope.headers import IP_IN_IP, Headers
from netscope.records import Seen
from netscope.walk.host import Ended, Node
from netscope.walk.packet import Chance, Packet

SOURCE_PORT = 50000  # a VXLAN takes one from a hash of what is inside


def judge_pod(verdict: Verdict, facts: Facts, headers: Headers, name: str) -> Verdict:
    """The verdict, with what the pod's own rules or routes say where they keep the packet or its answer."""
    node = Node(name, facts)
    source, target = ip_address(headers.source), ip_address(headers.target)
    packet = Packet(headers.protocol, source, headers.source_port, target, headers.target_port, came_by=node.link_of(target))
    ended = node.arrive(packet, Chance())
    whose = "inside"
    if not isinstance(ended, Ended):
        answer = Packet(headers.protocol, target, headers.target_port, source, headers.source_port, answer=True)
        ended, whose = node.send(answer, Chance()), "the answer inside"
    if not isinstance(ended, Ended):
        return verdict
    mend = f"nsenter --net={facts.entered} {ended.mend}" if ended.mend else ""
    return _kept(verdict, ended, f"{whose} {name}", mend)


def judge_tunnel(verdict: Verdict, facts: Facts, seen: Seen) -> Verdict:
    """The same for what is around a packet that came in and was not unpacked."""
    tunnel = seen.headers.tunnel
    assert tunnel
    protocol, port = (IP_IN_IP, 0) if tunnel.vni is None else (UDP, tunnel.port)
    outer = Packet(protocol, ip_address(tunnel.source), SOURCE_PORT if port else 0, ip_address(tunnel.target), port,
                   came_by=seen.interface)
    ended = Node(verdict.where, facts).arrive(outer, Chance())
    return _kept(verdict, ended, "the tunnel's packet", ended.mend) if isinstance(ended, Ended) else verdict


def _kept(verdict: Verdict, ended: Ended, whose: str, mend: str) -> Verdict:
    return Verdict({"rejected": "dropped"}.get(ended.what, ended.what), verdict.where, f"{whose}: {ended.why}", mend)
