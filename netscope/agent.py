"""A node's side of a trace: reads questions from stdin, answers on stdout, ends with its stdin.

Everything it opens ends with it, the tracing rules included, however it ends. The kernel keeps what is seen until it is asked
for. Must not know: other nodes. Read next: `netscope/records.py`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import msgspec

from netscope import bpf, probe, ways
from netscope.examine import examine
from netscope.flow import NAMES, Flow
from netscope.headers import Headers, read
from netscope.records import (
    Answer,
    Examine,
    Failed,
    Finish,
    Hit,
    Mend,
    Probe,
    Question,
    Reach,
    Reached,
    Ready,
    Report,
    Seen,
    Start,
    Watch,
)
from netscope.watching import Watching, mend
from nodecore.errors import Fault
from nodecore.kernel.nftlist import rules_of
from nodecore.kernel.ping import ping
from nodecore.kernel.rulestrace import RulesTrace, Step
from nodecore.kernel.tap import Tap

OWN_TABLE = f"netscope-{os.getpid()}"


class Agent:
    """One trace on one node, or a look at it; the node's CNI directory and flannel's subnet file are at these paths."""

    def __init__(self, cni: str, subnet: str) -> None:
        self._files = cni, subnet
        self._watching: Watching | None = None
        self._tap: Tap | None = None
        self._rules: RulesTrace | None = None

    def answer(self, question: Question) -> Answer:
        """Do what is asked."""
        try:
            match question:
                case Start():
                    return self._start(question.flow)
                case Probe():
                    return probe.send(question)
                case Finish():
                    return self._finish(question)
                case Examine():
                    return examine(cni=self._files[0], subnet=self._files[1])
                case Watch():
                    self._watching = self._watching or Watching()
                    return self._watching.look()
                case Reach():
                    return Reached(ping(question.addresses, question.seconds))
                case Mend():
                    return mend(question.command)
        except Fault as fault:
            return Failed(str(fault))

    def _start(self, flow: Flow) -> Ready:
        self._tap = Tap(bpf.of_flow(flow))
        self._rules = RulesTrace(OWN_TABLE, matches(flow))
        return Ready()

    def _finish(self, question: Finish) -> Report:
        assert self._tap
        assert self._rules
        seen = [Seen(frame.interface, frame.leaving, frame.foreign, frame.time, headers)
                for frame in self._tap.read() if (headers := read(frame.data))]
        hits, lost = _hits(self._rules.read()), self._tap.lost()
        self.close()
        return Report(tuple(seen), tuple(hits), tuple(map(ways.way_to, question.addresses)), lost)

    def close(self) -> None:
        """Listen no more."""
        if self._tap:
            self._tap.close()
        if self._rules:
            self._rules.close()
        self._tap = self._rules = None


def matches(flow: Flow) -> list[str]:
    """The flow as nft expressions."""
    name, family = NAMES[flow.protocol], flow.family.nft
    own = [f"{name} {side} {flow.mark}" for side in ("sport", "dport")]
    return own + [f"{family} {address} {end.address} {name} {port} {end.port}"
                  for end in flow.ends for address, port in (("saddr", "sport"), ("daddr", "dport"))]


def _hits(steps: list[Step]) -> list[Hit]:
    """The steps in words. A packet's headers come with its first step in each table, its interface with its very first."""
    texts: dict[tuple[str, str, str], dict[int, str]] = {}
    heads: dict[tuple[int, str], Headers | None] = {}
    came: dict[int, str] = {}
    hits = []
    for step in steps:
        place = step.family, step.table, step.chain
        came.setdefault(step.packet, _interface(step.interface))
        if step.data:
            heads[step.packet, step.table] = read(step.data)
        if step.table == OWN_TABLE or (step.kind == "rule" and not step.handle):
            continue  # our own, or the end of a chain that said nothing
        if place not in texts:
            texts[place] = rules_of(*place)
        hits.append(Hit(
            packet=step.packet, family=step.family, table=step.table, chain=step.chain, handle=step.handle,
            rule=texts[place].get(step.handle, step.kind), verdict=f"{step.verdict} {step.goes_to}".strip(),
            interface=came[step.packet], headers=heads.get((step.packet, step.table)),
        ))
    return hits


def _interface(number: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(number) if number else ""
    return f"#{number}"


def serve(cni: str, subnet: str) -> None:
    """Until nobody asks any more."""
    agent = Agent(cni, subnet)
    decode, encode = msgspec.json.Decoder(Question).decode, msgspec.json.encode
    try:
        with os.fdopen(0, "rb") as questions, os.fdopen(1, "wb", buffering=0) as answers:
            for line in questions:
                answers.write(encode(agent.answer(decode(line))) + b"\n")
    finally:
        agent.close()
