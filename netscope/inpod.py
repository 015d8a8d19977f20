"""What a pod's own network does to a packet that was handed to it: its rules, walked, and the answer's way out.

Pure. Must not know: how it came there. Read next: `netscope/walk/host.py`.
"""

from __future__ import annotations

from ipaddress import ip_address

from netscope.blame import Verdict
from netscope.facts import Facts
from netscope.headers import Headers
from netscope.walk.host import Ended, Node
from netscope.walk.packet import Chance, Packet


def judge_inside(verdict: Verdict, facts: Facts, headers: Headers, name: str) -> Verdict:
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
    what = {"rejected": "dropped"}.get(ended.what, ended.what)
    mend = f"nsenter --net={facts.entered} {ended.mend}" if ended.mend else ""
    return Verdict(what, verdict.where, f"{whose} {name}: {ended.why}", mend)
