"""What the reconcile loop asks of the proxy: fold the Services that changed into the ledgers, and write what changed.

The kernel is not read back: the rules of a family are either known to be as written, or written anew as a whole. Which
rules, and how, is the mode's (`modes.py`). What other modes have left is removed once everything stands.
Read next: `proxy/agent.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from nodecore.errors import Busy, Fault
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.model import Sysctl
from nodecore.kernel.sysctl import read_sysctl, write_sysctl
from nodecore.net import Family

from .checks import Check, Checks
from .ledger import Delta, Ledger
from .modes import Layout, Writer
from .probe import OWNER, Probe
from .services import Skipped
from .snapshot import Route, Snapshot
from .stale import Target, Targets, changed, is_stale, targets_of
from .sysctls import AFTER_RULES, WANTED

log = logging.getLogger(__name__)
FIRST_SWEEP_SECONDS, LAST_SWEEP_SECONDS = 15.0, 600.0  # until what could not be removed is tried again: longer and longer


@dataclass(frozen=True, slots=True)
class Replace:
    """Write all rules of a family."""

    layout: Layout
    everything: Delta

    def describe(self) -> str:
        """For logs and --dry-run."""
        return f"replace {self.layout.where} ({len(self.everything)} chains and elements)"


@dataclass(frozen=True, slots=True)
class Update:
    """Write what changed of them."""

    layout: Layout
    delta: Delta

    def describe(self) -> str:
        """For logs and --dry-run."""
        delta = self.delta
        return (f"update {self.layout.where}: {len(delta.added)} elements added, {len(delta.removed)} removed, "
                f"{len(delta.added_chains)} chains added, {len(delta.removed_chains)} removed")


@dataclass(frozen=True, slots=True)
class ForgetFlows:
    """Make the kernel forget flows that lead nowhere."""

    family: Family
    targets: Mapping[Target, frozenset[tuple[str, int]]]

    def describe(self) -> str:
        """For logs and --dry-run."""
        return f"forget stale flows of {len(self.targets)} ports"


@dataclass(frozen=True, slots=True)
class AnswerChecks:
    """Answer load balancers on these ports."""

    wanted: Mapping[int, Check]

    def describe(self) -> str:
        """For logs and --dry-run."""
        return f"answer health checks on {len(self.wanted)} ports"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Remove what other modes, and Go kube-proxy, have left."""

    def describe(self) -> str:
        """For logs and --dry-run."""
        return "remove the rules of other modes and of Go kube-proxy"


RuleOp = Sysctl | Replace | Update | ForgetFlows | AnswerChecks | Sweep


@dataclass(frozen=True, slots=True)
class Actual:
    """What is known of the kernel: tables that are as written, switches that are wrong."""

    known: frozenset[Family]
    wrong: tuple[Sysctl, ...]


@dataclass
class _Half:
    """What is kept for one family."""

    layout: Layout
    ledger: Ledger = field(default_factory=Ledger)
    targets: dict[str, Targets] = field(default_factory=dict)
    stale: Targets = field(default_factory=dict)


class Input(Protocol):
    """Something that is read from the API."""

    @property
    def synced(self) -> bool:
        """Whether it has been read once."""
        ...

    @property
    def unreadable(self) -> Mapping[str, str]:
        """What is wrong with objects whose fields are of strange types, by key."""
        ...


class Watcher(Protocol):
    """Somebody who is told what Services come to."""

    def took(self, keys: Iterable[str]) -> None:
        """These are being worked out."""
        ...

    def routed(self, key: str, family: Family, routes: Sequence[Route]) -> None:
        """What it came to in a family."""
        ...

    def failed(self, op: RuleOp) -> None:
        """It could not be done."""
        ...


class Rules:
    """The `Target` of the proxy; one half per family."""

    def __init__(
        self, snapshot: Snapshot, layouts: Sequence[Layout], writer: Writer[Any], conntrack: Conntrack,
        switches: Sequence[Sysctl] = (), checks: Checks | None = None,
    ) -> None:
        self._snapshot, self._writer, self._conntrack = snapshot, writer, conntrack
        self._switches, self._checks = switches, checks
        self._wanted_checks: dict[str, dict[int, Check]] = {}
        self._halves = {layout.family: _Half(layout) for layout in layouts}
        self._skipped: dict[str, list[Skipped]] = {}
        self._denied: set[Sysctl] = set()
        self._swept, self._sweep_at, self._sweep_since = False, 0.0, 0.0
        self.inputs: Sequence[Input] = ()
        self.forget_tcp = False
        self.counts: Watcher | None = None
        self.probe: Probe | None = None
        self._told: set[Skipped] = set()

    def synced(self) -> bool:
        """Whether Services and EndpointSlices have both been read: half a picture would cut off the other half."""
        return all(source.synced for source in self.inputs)

    @property
    def skipped(self) -> list[Skipped]:
        """Everything the API asks for that is not done, with the reason."""
        strange = [Skipped("object", key, reason) for source in self.inputs for key, reason in source.unreadable.items()]
        return [item for items in self._skipped.copy().values() for item in items] + self._contested() + strange

    def _contested(self) -> list[Skipped]:
        return [
            Skipped("Service", owner, f"{claim} belongs to Service {min(holders)}")
            for half in self._halves.values() for claim, holders in half.ledger.contested.items()
            for owner in holders if owner != min(holders)
        ]

    def ledgers(self) -> Mapping[Family, Ledger]:
        """What is wanted, as of the last sync."""
        return {family: half.ledger for family, half in self._halves.items()}

    @property
    def settled(self) -> bool:
        """Whether everything of the ledgers is written."""
        return not any(half.ledger.open for half in self._halves.values())

    def desired(self) -> Mapping[Family, Ledger]:
        """Fold the Services that changed into the ledgers."""
        dirty, self._snapshot.dirty = self._snapshot.dirty, set()
        if self.counts:
            self.counts.took(dirty)
        for key in dirty:
            skipped: list[Skipped] = []
            ready: dict[int, int] = {}
            for half in self._halves.values():
                routes, problems = self._snapshot.routes(key, half.layout.family)
                skipped += problems
                half.ledger.put(key, [fragment for route in routes for fragment in half.layout.fragments(route)])
                if self.counts:
                    self.counts.routed(key, half.layout.family, routes)
                _note_targets(half, key, targets_of(routes, tcp=self.forget_tcp))
                ready.update({route.port.health_check: max(_ready_here(routes), ready.get(route.port.health_check, 0))
                              for route in routes if route.port.health_check})
            skipped += [
                Skipped("Service", key, f"IPv{family.value} is not served: --cluster-cidr names no network of it")
                for family in Family if family not in self._halves and self._snapshot.routes(key, family)[0]]
            self._note_skipped(key, skipped)
            self._note_checks(key, ready)
        contested = set(self._contested())
        _say(contested - self._told)
        self._told = contested
        for family, half in self._halves.items():
            if self.probe and half.ledger.open:
                half.ledger.put(OWNER, half.layout.fragments(self.probe.route(family)))
        return self.ledgers()

    def _note_checks(self, key: str, ready: Mapping[int, int]) -> None:
        if ready:
            self._wanted_checks[key] = {port: Check(key, count) for port, count in ready.items()}
        else:
            self._wanted_checks.pop(key, None)

    def _note_skipped(self, key: str, skipped: list[Skipped]) -> None:
        _say(item for item in skipped if item not in self._skipped.get(key, []))
        if skipped:
            self._skipped[key] = skipped
        else:
            self._skipped.pop(key, None)

    async def observe(self, wanted: Mapping[Family, Ledger]) -> Actual:
        """Which families' rules are as they were last written; the switches are read each time."""
        known = frozenset([family for family in wanted if await self._writer.intact(self._halves[family].layout)])
        switches = (*self._switches, *(switch for family, ledger in wanted.items() if ledger for switch in WANTED[family]))
        wrong = [switch for switch in switches if _is_wrong(switch)]
        return Actual(known, tuple(switch for switch in wrong if switch not in self._denied))

    def plan(self, actual: Actual, wanted: Mapping[Family, Ledger]) -> list[RuleOp]:
        """The switches, one transaction per family that needs one, then the flows to forget."""
        ops: list[RuleOp] = [switch for switch in actual.wrong if switch not in AFTER_RULES]
        for family, ledger in wanted.items():
            half = self._halves[family]
            if family not in actual.known:
                ops.append(Replace(half.layout, ledger.everything()))
            elif delta := ledger.pending():
                ops.append(Update(half.layout, delta))
        ops += [ForgetFlows(family, half.stale) for family, half in self._halves.items() if half.stale]
        ops += [switch for switch in actual.wrong if switch in AFTER_RULES]
        checks = {port: check for found in self._wanted_checks.values() for port, check in found.items()}
        if self._checks and self._checks.now != checks:
            ops.append(AnswerChecks(checks))
        if not self._swept and time.monotonic() >= self._sweep_at:
            ops.append(Sweep())
        return ops

    async def apply(self, ops: Sequence[RuleOp]) -> None:
        """Write; a failure in one family leaves the other its chance."""
        failed: list[Exception] = []
        for together, group in groupby(ops, lambda op: self._writer.at_once and isinstance(op, Replace | Update)):
            if together:
                failed += filter(None, await asyncio.gather(*map(self._attempt, group)))
                continue
            for op in group:
                if not (failed and _waits(op)):
                    failed += filter(None, [await self._attempt(op)])
        if failed:
            raise ExceptionGroup("not everything was written", failed)

    async def _attempt(self, op: RuleOp) -> Fault | None:
        try:
            await self._write(op)
        except Fault as error:
            self._note_failure(op)
            return error
        return None

    def _note_failure(self, op: RuleOp) -> None:
        if self.counts:
            self.counts.failed(op)

    async def _write(self, op: RuleOp) -> None:
        if isinstance(op, Sysctl):
            self._set(op)
            return
        if isinstance(op, ForgetFlows):
            await self._forget_flows(op)
            return
        if isinstance(op, AnswerChecks):
            assert self._checks
            await self._checks.keep(op.wanted)
            return
        if isinstance(op, Sweep):
            await self._sweep(op)
            return
        if isinstance(op, Replace):
            await self._writer.replace(op.layout, op.everything)
        else:
            await self._writer.update(op.layout, op.delta)
        ledger = self._halves[op.layout.family].ledger
        if self.probe and OWNER in ledger:
            await self.probe.check(op.layout.family)
        ledger.settle()

    async def _sweep(self, op: Sweep) -> None:
        try:
            await self._writer.sweep()
            self._swept = True
        except Fault as error:  # ours stand: no reason to write them again
            log.warning("rules of others stay: %s", error)
            if not isinstance(error, Busy):  # with connections that have to end before
                self._note_failure(op)
            now = time.monotonic()
            self._sweep_since = self._sweep_since or now
            self._sweep_at = now + min(max(FIRST_SWEEP_SECONDS, (now - self._sweep_since) / 4), LAST_SWEEP_SECONDS)

    async def _forget_flows(self, op: ForgetFlows) -> None:
        self._halves[op.family].stale = {}
        for protocol in sorted({protocol for protocol, _, _ in op.targets}):
            try:
                count = await self._conntrack.delete_flows(op.family, protocol, is_stale(op.targets, protocol))
            except Fault as error:  # the rules are right all the same, and writing them again would not help
                log.warning("stale %s flows stay until they time out: %s", protocol.upper(), error)
            else:
                if count:
                    log.info("forgot %d stale %s flows", count, protocol.upper())

    def _set(self, switch: Sysctl) -> None:
        try:
            write_sysctl(switch)
        except Fault as error:  # /proc/sys is read-only in some containers: the host may have set it up otherwise
            log.warning("%s; it should be %s", error, switch.value)
            self._denied.add(switch)

    def forget(self) -> None:
        """After a failure nothing is known of the kernel."""
        self._writer.forget()

    def dry_run(self) -> str:
        """The scripts that would be run now."""
        return "".join(
            self._halves[family].layout.full_script(ledger.everything()) for family, ledger in self.desired().items()
        )


def _waits(op: RuleOp) -> bool:
    """For all rules to stand: the old ones stay until then, and so does what only the new ones make harmless."""
    return isinstance(op, Sweep) or (isinstance(op, Sysctl) and op in AFTER_RULES)


def _say(skipped: Iterable[Skipped]) -> None:
    for item in skipped:
        log.warning("%s", item)


def _ready_here(routes: Iterable[Route]) -> int:
    """How many endpoints on this node are ready, of all ports of a Service."""
    return len({item.address for route in routes if route.local for item in route.local.endpoints if item.ready})


def set_switches(switches: Iterable[Sysctl]) -> None:
    """Set those that are wrong; what cannot be set is said."""
    for switch in switches:
        if _is_wrong(switch):
            try:
                write_sysctl(switch)
            except Fault as error:
                log.warning("%s; it should be %s", error, switch.value)


def _is_wrong(switch: Sysctl) -> bool:
    """Whether it exists here and is set otherwise."""
    return read_sysctl(switch.name) not in (None, switch.value)


def _note_targets(half: _Half, key: str, new: Targets) -> None:
    half.stale |= changed(half.targets.get(key, {}), new)
    if new:
        half.targets[key] = new
    else:
        half.targets.pop(key, None)
