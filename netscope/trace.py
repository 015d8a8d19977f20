"""`netscope trace`: listen on every node, send one probe, put together what was seen.

Read next: `netscope/story.py`; `netscope/nodes.py`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from netscope.directory import Directory, Place, ends_of
from netscope.flow import Flow
from netscope.nodes import Nodes
from netscope.records import Finish, Outcome, Probe, Report, Start
from netscope.story import Trace, tell
from nodecore.errors import Bug, UserError
from nodecore.net import Family, parse_address

SECONDS_TO_ANSWER = 10.0
SETTLE = 0.05  # for what is still on its way when the probe has its answer
MARKS = range(20000, 32000)  # below the ports the kernel gives out by itself


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `seconds` is how long an answer is waited for."""

    source: str
    target: str
    port: int
    protocol: int
    family: Family
    seconds: float


def run(request: Request, directory: Directory, via: str) -> Trace:
    """Once."""
    source, target = directory.find(request.source), directory.find(request.target)
    node = source.node or directory.node_of(source.address(request.family))
    if not node:
        raise UserError(f"{request.source!r}: it is on no node of this cluster, so nothing can be sent from there")
    address = target.address(request.family)
    ends = ends_of(directory.places, address, request.protocol, request.port)
    flow = Flow(request.family, request.protocol, secrets.choice(MARKS), ends)
    probe = Probe(source.address(request.family), address, request.port, request.protocol, flow.mark, request.seconds)
    with Nodes(directory.nodes, via) as nodes:
        nodes.ask_all(Start(flow), SECONDS_TO_ANSWER)
        outcome = nodes.ask(node, probe, request.seconds + SECONDS_TO_ANSWER)
        time.sleep(SETTLE)
        addresses = tuple(dict.fromkeys((probe.source, *(end.address for end in ends))))
        reports = nodes.ask_all(Finish(addresses), SECONDS_TO_ANSWER)
    if not isinstance(outcome, Outcome):
        raise Bug(f"a probe was answered by {type(outcome).__name__}")
    return tell(flow, _reports(reports), outcome, directory)


def _reports(answers: Mapping[str, object]) -> dict[str, Report]:
    return {name: answer for name, answer in answers.items() if isinstance(answer, Report)}


def port_of(text: str, place: Place) -> int:
    """The port asked for, or the only one of a Service."""
    if text:
        return int(text)
    numbers = {port for _, port in place.ports}
    if len(numbers) == 1:
        return numbers.pop()
    raise UserError(f"{place}: which port? {', '.join(map(str, sorted(numbers))) or 'none is known'}")


def parse_family(text: str) -> Family:
    """Of an address; names are asked for their IPv4 address."""
    try:
        return Family.of(parse_address(text))
    except UserError:
        return Family.IPV4
