"""The rules that a flow's packets meet on this node, in words: those of nftables (iptables-nft too) and of iptables-legacy.

Must not know: other nodes. Read next: `nodecore/kernel/rulestrace.py`, `nodecore/kernel/legacytrace.py`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from netscope.flow import NAMES, PORTED, Flow
from netscope.headers import Headers, read
from netscope.records import Hit
from nodecore.errors import Fault
from nodecore.kernel import legacytrace, rulelist
from nodecore.kernel.legacytrace import LegacyStep, LegacyTrace
from nodecore.kernel.rulestrace import RulesTrace, Step
from nodecore.net import Family

LIVE_RATE = 200  # of real traffic, rules are told of as many packets a second
OWN_TABLE = f"netscope-{os.getpid()}"
LEGACY = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
LEGACY_VERDICTS = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return"}


class Rules:
    """Traced while this lives; `remarks` say which cannot be."""

    def __init__(self, flow: Flow) -> None:
        self.remarks: tuple[str, ...] = ()
        self._family, self._legacy = flow.family, None
        self._rules: RulesTrace | None = None
        try:
            self._rules = RulesTrace(OWN_TABLE, matches(flow))
        except Fault as fault:
            self.remarks = (f"{fault}: which rules it met is not told",)
        if tables := legacytrace.tables(flow.family):
            try:
                self._legacy = LegacyTrace(flow.family)
            except Fault as fault:
                self.remarks += (f"{fault}: what tables {', '.join(tables)} do is not told",)

    def read(self) -> list[Hit]:
        """What has come since the last time."""
        return (_hits(self._rules.read()) if self._rules else []) + (
            _legacy_hits(self._family, self._legacy.read()) if self._legacy else [])

    @property
    def lost(self) -> int:
        """How often there was no room for messages."""
        return (self._rules.lost if self._rules else 0) + (self._legacy.lost if self._legacy else 0)

    def close(self) -> None:
        """Nothing of ours is left."""
        if self._rules:
            self._rules.close()
        if self._legacy:
            self._legacy.close()


def matches(flow: Flow) -> list[str]:
    """The flow as nft expressions, each of which asks first what is cheap and seldom so: every packet here is asked."""
    name, family = NAMES[flow.wire], flow.family.nft
    ported = flow.protocol in PORTED
    if not ported and flow.mark:
        return [f"{name} {side} {flow.mark}" for side in ("id", "sequence")]
    sides = (("saddr", "sport"), ("daddr", "dport"))
    if ported:
        ports = sorted({end.port for end in flow.ends})
        members = ", ".join(f"{end.address} . {end.port}" for end in flow.ends)
        of_port = str(ports[0]) if len(ports) == 1 else f"{{ {', '.join(map(str, ports))} }}"
        ends = [f"{name} {port} {of_port} {family} {address} . {name} {port} {{ {members} }}" for address, port in sides]
    else:
        members = ", ".join(end.address for end in flow.ends)
        ends = [f"{family} {address} {{ {members} }} meta l4proto {flow.wire}" for address, _ in sides]
    if flow.mark:
        return [f"{name} {port} {flow.mark}" for _, port in sides] + ends
    return [f"{each} limit rate {LIVE_RATE}/second" for each in ends]


def _hits(steps: list[Step]) -> list[Hit]:
    """The steps in words. A packet's headers come with its first step in each table, its interface with its very first."""
    texts = rulelist.nft_texts({}) if steps else {}  # of all chains at once: nft takes as long for one
    heads: dict[tuple[int, str], Headers | None] = {}
    came: dict[int, str] = {}
    hits = []
    for step in steps:
        came.setdefault(step.packet, _interface(step.interface))
        if step.data:
            heads[step.packet, step.table] = read(step.data)
        if step.table == OWN_TABLE or (step.kind == "rule" and not step.handle):
            continue  # our own, or the end of a chain that said nothing
        name = f"{step.family} {step.table} {step.chain} {step.handle}"
        hits.append(Hit(
            packet=step.packet, family=step.family, table=step.table, chain=step.chain, handle=step.handle,
            rule=texts.get(name, step.kind), verdict=f"{step.verdict} {step.goes_to}".strip(),
            interface=came[step.packet], headers=heads.get((step.packet, step.table)),
        ))
    return hits


def _legacy_hits(family: Family, steps: list[LegacyStep]) -> list[Hit]:
    """Legacy tables number no packets: the stamp of one's headers does."""
    texts: dict[tuple[str, str], list[str]] = {}
    hits = []
    for step in steps:
        headers, place = read(step.data), (step.table, step.chain)
        if place not in texts:
            with suppress(Fault):
                texts[place] = legacytrace.rules_of(family, *place)
        lines = texts.get(place, [])
        number = step.number if step.kind == "rule" else 0
        text = lines[number] if number < len(lines) else step.kind
        target = text.rpartition(" ")[2] if step.kind == "policy" else _target(text) if step.kind == "rule" else "RETURN"
        hits.append(Hit(
            packet=-headers.stamp if headers else 0, family=LEGACY[family], table=step.table, chain=step.chain, handle=number,
            rule=text if step.kind == "rule" else step.kind, verdict=LEGACY_VERDICTS.get(target, target or "continue"),
            interface=_interface(step.interface), headers=headers))
    return hits


def _target(rule: str) -> str:
    words = rule.split()
    return next((words[place + 1] for place, word in enumerate(words[:-1]) if word in ("-j", "-g")), "")


def _interface(number: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(number) if number else ""
    return f"#{number}"
