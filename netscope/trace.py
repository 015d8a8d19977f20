"""`netscope trace`: listen on the nodes that may see it, send one probe, put together what was seen.

Read next: `netscope/story.py`; `netscope/nodes.py`; `netscope/live.py`, where nothing is sent.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from netscope.blame import charged, is_handed_over
from netscope.directory import Directory, Place, ends_of
from netscope.facts import Facts
from netscope.flow import ICMP, Flow
from netscope.nodes import Nodes
from netscope.records import Examine, Finish, Look, Outcome, Probe, Report, Start
from netscope.story import Trace, tell
from nodecore.errors import Bug, UserError
from nodecore.net import Family, parse_address

SECONDS_TO_START = 30.0  # an interpreter on a loaded machine, behind an ssh
SECONDS_TO_ANSWER = 10.0
SETTLE = 0.05  # for what is still on its way when the probe has its answer
MOST_WAYS = 12  # that are asked for on suspicion
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


@dataclass(frozen=True, slots=True)
class Plan:
    """The same in addresses: who sends from which node, the flow, and the nodes that may see it."""

    node: str
    source: str
    target: str
    flow: Flow
    nodes: tuple[str, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Everybody a node may have to send to."""
        return tuple(dict.fromkeys((self.source, *(end.address for end in self.flow.ends))))


def plan_of(request: Request, directory: Directory, mark: int) -> Plan:
    """Names become addresses, a Service its endpoints."""
    source, target = directory.find(request.source), directory.find(request.target)
    node = source.node or directory.node_of(source.address(request.family))
    if not node:
        raise UserError(f"{request.source!r}: it is on no node of this cluster, so nothing can be sent from there")
    address = target.address(request.family)
    flow = Flow(request.family, request.protocol, mark, ends_of(directory.places, address, request.protocol, request.port))
    return Plan(node, source.address(request.family), address, flow, _nodes(node, target, flow, directory))


def _nodes(node: str, target: Place, flow: Flow, directory: Directory) -> tuple[str, ...]:
    """Those of the source and of all ends; everybody where somebody is not known to be on any, or a node may lead on."""
    behind = [directory.node_of(end.address) for end in (flow.ends[1:] if target.kind == "service" else flow.ends)]
    if not all(behind) or not behind or target.kind == "node":
        return directory.nodes
    return tuple(name for name in directory.nodes if name in (node, *behind))


def run(request: Request, directory: Directory, via: str) -> Iterator[Trace]:
    """Once, with agents of its own, which end when the story is taken."""
    plan = plan_of(request, directory, secrets.choice(MARKS))
    with Nodes(plan.nodes, via) as nodes:
        yield ask(request, plan, nodes, directory)


def ask(request: Request, plan: Plan, nodes: Nodes, directory: Directory) -> Trace:
    """Once, of agents that are there; they can be asked again."""
    probe = Probe(plan.source, plan.target, request.port, request.protocol, plan.flow.mark, request.seconds)
    nodes.ask_all(Start(plan.flow, plan.source), SECONDS_TO_START)
    clocks = nodes.clocks(SECONDS_TO_ANSWER)
    outcome = nodes.ask(plan.node, probe, request.seconds + SECONDS_TO_ANSWER)
    time.sleep(SETTLE)
    if not isinstance(outcome, Outcome):
        raise Bug(f"a probe was answered by {type(outcome).__name__}")
    if outcome.what == "answered":
        return tell(plan.flow, reports_of(nodes.ask_all(Finish(met=True), SECONDS_TO_ANSWER), clocks), outcome, directory)
    looked = reports_of(nodes.ask_all(Look(), SECONDS_TO_ANSWER), clocks)
    rest = reports_of(nodes.ask_all(Finish(asked_for(plan, directory, looked)), SECONDS_TO_ANSWER), clocks)
    reports = {node: _joined(looked[node], report) for node, report in rest.items()}
    return with_reasons(plan, tell(plan.flow, reports, outcome, directory), nodes, directory)


def with_reasons(plan: Plan, story: Trace, nodes: Nodes, directory: Directory) -> Trace:
    """Where it got lost: with what the nodes of both ends say when they are held against one another, or the pod's own rules."""
    last, verdict = story.last, story.verdict
    if verdict.what != "lost" or last is None or last.seen is None:
        return story
    from netscope.rewalk import judge_pod, judge_tunnel  # which a trace that is answered does not wait for
    from netscope.suspects import suspect
    from netscope.walk.beyond import unread

    headers = last.seen.headers
    addresses = (headers.source, *([headers.target] if directory.node_of(headers.target) else plan.addresses))
    in_pod, in_tunnel = is_handed_over(last, directory), bool(headers.tunnel) and not last.seen.leaving
    if in_pod or in_tunnel:
        question = Examine(inside=headers.target if in_pod else "")
        facts = nodes.ask_each({last.node: question}, SECONDS_TO_ANSWER)[last.node]
        if isinstance(facts, Facts):
            verdict = (judge_pod(verdict, facts, headers, directory.name_of(headers.target)) if in_pod
                       else judge_tunnel(verdict, facts, last.seen))
    if verdict == story.verdict and not in_pod:
        answers = nodes.ask_each(Examine(rules=False), SECONDS_TO_ANSWER)
        cluster = {name: answer for name, answer in answers.items() if isinstance(answer, Facts)}
        if last.node in cluster:
            beyond = unread(cluster[last.node], [last.seen.interface], [headers.target])
            told = (f"{last.node}: not looked at: {each}" for each in beyond)
            story = dataclasses.replace(story, remarks=(*story.remarks, *told))
        if finding := suspect(cluster, last.node, {directory.node_of(address) for address in addresses}):
            verdict = charged(verdict, finding)
    return dataclasses.replace(story, verdict=verdict)


def asked_for(plan: Plan, directory: Directory, reports: Mapping[str, Report]) -> tuple[str, ...]:
    """The addresses that nodes are asked the ways to where there was no answer: each costs them some commands.

    Those met by packets, some that might have been met, and the hosts that a tunnel to them leads to.
    """
    seen = [each.headers for report in reports.values() for each in report.seen]
    met = {address for headers in seen for address in (headers.source, headers.target)}
    found = [address for address in plan.addresses if address in met]
    wanted = list(dict.fromkeys((plan.source, *found, *plan.addresses)))[:MOST_WAYS]
    nodes = {directory.node_of(address) for address in wanted}
    return (*wanted, *(address for address in hosts_of(plan, directory) if directory.node_of(address) in nodes))


def _joined(first: Report, second: Report) -> Report:
    return msgspec.structs.replace(
        second, seen=first.seen + second.seen, hits=first.hits + second.hits, lost=first.lost + second.lost)


def hosts_of(plan: Plan, directory: Directory) -> list[str]:
    """The nodes' own addresses: whoever sends into a tunnel sends to one of them."""
    return [address for place in directory.places if place.kind == "node" and place.name in plan.nodes
            for address in place.addresses if Family.of(parse_address(address)) is plan.flow.family]


def reports_of(answers: Mapping[str, object], clocks: Mapping[str, int]) -> dict[str, Report]:
    """Those of the answers that are reports, by our clock; `clocks` says how far each node's is ahead (ns)."""
    return {name: _earlier(answer, clocks[name]) for name, answer in answers.items() if isinstance(answer, Report)}


def _earlier(report: Report, by: int) -> Report:
    replace = msgspec.structs.replace
    return replace(report, seen=tuple(replace(each, time=each.time - by) for each in report.seen)) if by else report


def port_of(text: str, place: Place, protocol: int) -> int:
    """The port asked for, or the only one of a Service."""
    if protocol == ICMP:
        return 0
    if text:
        return int(text)
    numbers = {port for _, port in place.ports}
    if len(numbers) == 1:
        return numbers.pop()
    raise UserError(f"{place}: which port? {', '.join(map(str, sorted(numbers))) or 'none is known'}")


def parse_family(wanted: str, *texts: str) -> Family:
    """As wanted, or that of the first address; names alone are asked for their IPv4 addresses."""
    if wanted:
        return Family[wanted.upper()]
    for text in texts:
        with suppress(UserError):
            return Family.of(parse_address(text))
    return Family.IPV4
