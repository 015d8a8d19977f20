"""A node's side of a trace: reads questions from stdin, answers on stdout, ends with its stdin.

Everything it opens ends with it, the tracing rules included, however it ends. The kernel keeps what is seen until it is asked
for. What one question alone needs is imported when it is asked: an agent is waited for. Must not know: other nodes.
Read next: `netscope/records.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from netscope import bpf
from netscope.flow import Flow
from netscope.headers import Headers, read
from netscope.points import points
from netscope.records import (
    Answer,
    Clock,
    Examine,
    Failed,
    Finish,
    Look,
    Mend,
    Probe,
    Question,
    Reach,
    Reached,
    Ready,
    Report,
    Seen,
    Start,
    Time,
    Watch,
    Ways,
    WaysTo,
)
from netscope.rules import Rules
from nodecore.errors import Busy, Fault
from nodecore.kernel import vicinity
from nodecore.kernel.tap import Tap
from nodecore.net import Family, parse_address

if TYPE_CHECKING:
    from netscope.watching import Watching

SWITCHES = {Family.IPV4: ("net/ipv4/ip_forward", "net/ipv4/conf/*/rp_filter"), Family.IPV6: ("net/ipv6/conf/all/forwarding",)}
TOO_MANY = "the target has too many endpoints to look for each: packets whose port was translated as well are not seen"


class Agent:
    """One trace on one node, or a look at it; the node's CNI directory and flannel's subnet file are at these paths."""

    def __init__(self, cni: str, subnet: str) -> None:
        self._files = cni, subnet
        self._watching: Watching | None = None
        self._tap: Tap | None = None
        self._rules: Rules | None = None
        self._flow: Flow | None = None
        self._remarks: tuple[str, ...] = ()
        self._met: dict[Headers, None] = {}  # since somebody asked for the ways of packets

    def answer(self, question: Question) -> Answer:
        """Do what is asked."""
        try:
            match question:
                case Start():
                    return self._start(question.flow, question.source)
                case Clock():
                    return Time(time.time_ns())
                case Probe():
                    from netscope import probe

                    return probe.send(question)
                case Look():
                    return self._report((), met=False)
                case WaysTo():
                    return self._ways(question.addresses)
                case Finish():
                    return self._report(question.addresses, met=question.met)
                case Examine():
                    return self._examine(question)
                case Watch():
                    from netscope.watching import Watching

                    self._watching = self._watching or Watching()
                    return self._watching.look()
                case Reach():
                    from nodecore.kernel.ping import ping

                    return Reached(ping(question.addresses, question.seconds, question.size))
                case Mend():
                    from netscope.watching import mend

                    return mend(question.command)
        except Fault as fault:
            return Failed(str(fault))

    def _start(self, flow: Flow, source: str) -> Ready:
        self._flow = flow
        program = bpf.of_flow(flow)
        if too_large := len(program) > bpf.LARGEST:  # of hundreds of endpoints: the mark alone has to do
            program = bpf.of_flow(msgspec.structs.replace(flow, ends=flow.ends[:1]))
        self._remarks = (TOO_MANY,) if too_large else ()
        self._tap = Tap(program, _points(flow, source) if source else ())
        self._rules = Rules(flow)
        return Ready()

    def _examine(self, question: Examine) -> Answer:
        from netscope.examine import examine

        if not question.inside:
            return examine(cni=self._files[0], subnet=self._files[1], rules=question.rules)
        from netscope.probe import namespace_of
        from nodecore.kernel.netns import inside

        path = namespace_of(question.inside)
        if not path:
            return Failed(f"no namespace of this node has the address {question.inside}")
        with inside(path):
            return msgspec.structs.replace(examine(cni="", subnet=""), entered=path)

    def _ways(self, addresses: tuple[str, ...]) -> Ways:
        from netscope.entries import entries_of
        from netscope.ways import way_to

        assert self._flow
        met, self._met = self._met, {}
        return Ways(tuple(map(way_to, addresses)), _switches(self._flow.family), entries_of(met))

    def _report(self, addresses: tuple[str, ...], *, met: bool) -> Report:
        assert self._tap
        assert self._rules
        seen = tuple(Seen(frame.interface, frame.leaving, frame.foreign, frame.time, headers)
                     for frame in self._tap.read() if (headers := read(frame.data)))
        hits = tuple(self._rules.read())
        self._met |= dict.fromkeys(each.headers for each in seen if not each.headers.tunnel)
        if met:
            left = (each.headers.target for each in seen if each.leaving and not each.headers.tunnel)
            addresses = tuple(dict.fromkeys((*addresses, *left)))
        known = self._ways(addresses) if addresses else Ways((), {})
        return Report(seen, hits, known.ways, self._tap.lost() + self._rules.lost,
                      (*self._remarks, *self._rules.remarks), known.switches, known.tracked)

    def close(self) -> None:
        """Listen no more."""
        if self._tap:
            self._tap.close()
        if self._rules:
            self._rules.close()
        self._tap = self._rules = None


def _points(flow: Flow, source: str) -> tuple[str, ...]:
    wanted = [parse_address(address) for address in {source, *(end.address for end in flow.ends)}]
    try:
        devices = vicinity.read_devices(flow.family)
    except Busy:  # somebody comes or goes just now
        return ()
    return points(devices, {address.packed for address in wanted}, vicinity.ways_out(wanted))


def _switches(family: Family) -> dict[str, str]:
    base = Path("/proc/sys")
    found = {}
    for pattern in SWITCHES[family]:
        for path in base.glob(pattern):
            found[str(path.relative_to(base))] = path.read_text().strip()
    return found


def serve(cni: str, subnet: str) -> None:
    """Until nobody asks any more."""
    agent = Agent(cni, subnet)
    decode, encode = msgspec.json.Decoder(Question).decode, msgspec.json.encode
    try:
        with os.fdopen(0, "rb") as questions, os.fdopen(1, "wb", buffering=0) as answers:
            for line in questions:
                question = decode(line)
                answers.write(encode(agent.answer(question)) + b"\n")
                if isinstance(question, Finish):
                    agent.close()  # which takes the kernel a moment that nobody has to wait for
    finally:
        agent.close()
