"""What the reconcile loop asks of the proxy: fold the Services that changed into the ledgers, and write what changed.

The kernel is not read back: a table is either known to be as written, or it is written anew as a whole, in one
transaction that replaces the old one. Whoever else touches it makes it unknown (`doubt`).
Read next: `proxy/agent.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nodecore.errors import Fault, Invalid
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.model import Sysctl
from nodecore.kernel.nft import Nft
from nodecore.kernel.sysctl import read_sysctl, write_sysctl
from nodecore.net import Family

from . import names
from .checks import Check, Checks
from .ledger import Delta, Ledger
from .render.nftables import Layout
from .services import Skipped
from .snapshot import Route, Snapshot
from .stale import Target, Targets, changed, is_stale, targets_of
from .sysctls import WANTED

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replace:
    """Write a whole table."""

    layout: Layout
    everything: Delta

    def describe(self) -> str:
        """For logs and --dry-run."""
        return f"replace table {self.layout.table} ({len(self.everything)} chains and elements)"


@dataclass(frozen=True, slots=True)
class Update:
    """Write what changed of a table."""

    layout: Layout
    delta: Delta

    def describe(self) -> str:
        """For logs and --dry-run."""
        delta = self.delta
        return (f"update table {self.layout.table}: {len(delta.added)} elements added, {len(delta.removed)} removed, "
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


RuleOp = Sysctl | Replace | Update | ForgetFlows | AnswerChecks


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
    known: bool = False


class Input(Protocol):
    """Something that is read from the API."""

    @property
    def synced(self) -> bool:
        """Whether it has been read once."""
        ...


class Rules:
    """The `Target` of the proxy; one half per family."""

    def __init__(
        self, snapshot: Snapshot, layouts: Sequence[Layout], nft: Nft, conntrack: Conntrack, switches: Sequence[Sysctl] = (),
        checks: Checks | None = None,
    ) -> None:
        self._snapshot, self._nft, self._conntrack = snapshot, nft, conntrack
        self._switches, self._checks = switches, checks
        self._wanted_checks: dict[str, dict[int, Check]] = {}
        self._halves = {layout.family: _Half(layout) for layout in layouts}
        self._skipped: dict[str, list[Skipped]] = {}
        self._denied: set[Sysctl] = set()
        self.inputs: Sequence[Input] = ()
        self.forget_tcp = False

    def synced(self) -> bool:
        """Whether Services and EndpointSlices have both been read: half a picture would cut off the other half."""
        return all(source.synced for source in self.inputs)

    @property
    def skipped(self) -> list[Skipped]:
        """Everything the API asks for that is not done, with the reason."""
        contested = [
            Skipped("Service", owner, f"{claim} belongs to Service {min(holders)}")
            for half in self._halves.values() for claim, holders in half.ledger.contested.items()
            for owner in holders if owner != min(holders)
        ]
        return [item for items in self._skipped.values() for item in items] + contested

    def desired(self) -> Mapping[Family, Ledger]:
        """Fold the Services that changed into the ledgers."""
        dirty, self._snapshot.dirty = self._snapshot.dirty, set()
        for key in dirty:
            skipped: list[Skipped] = []
            ready: dict[int, int] = {}
            for half in self._halves.values():
                routes, problems = self._snapshot.routes(key, half.layout.family)
                skipped += problems
                half.ledger.put(key, [fragment for route in routes for fragment in half.layout.fragments(route)])
                _note_targets(half, key, targets_of(routes, tcp=self.forget_tcp))
                ready.update({route.port.health_check: max(_ready_here(routes), ready.get(route.port.health_check, 0))
                              for route in routes if route.port.health_check})
            self._note_skipped(key, skipped)
            self._note_checks(key, ready)
        return {family: half.ledger for family, half in self._halves.items()}

    def _note_checks(self, key: str, ready: Mapping[int, int]) -> None:
        if ready:
            self._wanted_checks[key] = {port: Check(key, count) for port, count in ready.items()}
        else:
            self._wanted_checks.pop(key, None)

    def _note_skipped(self, key: str, skipped: list[Skipped]) -> None:
        for item in skipped:
            if item not in self._skipped.get(key, []):
                log.warning("%s %s skipped: %s", item.kind, item.key, item.reason)
        if skipped:
            self._skipped[key] = skipped
        else:
            self._skipped.pop(key, None)

    async def observe(self, wanted: Mapping[Family, Ledger]) -> Actual:
        """Which tables are as they were last written; the switches are read each time."""
        known = frozenset(family for family in wanted if self._halves[family].known)
        switches = (*self._switches, *(switch for family in wanted for switch in WANTED[family]))
        wrong = [switch for switch in switches if _is_wrong(switch)]
        return Actual(known, tuple(switch for switch in wrong if switch not in self._denied))

    def plan(self, actual: Actual, wanted: Mapping[Family, Ledger]) -> list[RuleOp]:
        """The switches, one transaction per family that needs one, then the flows to forget."""
        ops: list[RuleOp] = list(actual.wrong)
        for family, ledger in wanted.items():
            half = self._halves[family]
            if family not in actual.known:
                ops.append(Replace(half.layout, ledger.everything()))
            elif delta := ledger.pending():
                ops.append(Update(half.layout, delta))
            if half.stale:
                ops.append(ForgetFlows(family, half.stale))
        checks = {port: check for found in self._wanted_checks.values() for port, check in found.items()}
        if self._checks and self._checks.now != checks:
            ops.append(AnswerChecks(checks))
        return ops

    async def apply(self, ops: Sequence[RuleOp]) -> None:
        """Write; a failure in one family leaves the other its chance."""
        failed: list[Exception] = []
        for op in ops:
            try:
                await self._write(op)
            except Fault as error:
                failed.append(error)
        if failed:
            raise ExceptionGroup("not everything was written", failed)

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
        half = self._halves[op.layout.family]
        if isinstance(op, Replace):
            half.known = True  # before, so that somebody's change during the write puts it in doubt again
            await self._replace(op)
        else:
            await self._nft.load(op.layout.delta_script(op.delta))
        half.ledger.settle()

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

    async def _replace(self, op: Replace) -> None:
        kept = await self._affinity(op)
        try:
            await self._nft.load(op.layout.full_script(op.everything, kept))
        except Invalid:
            if not kept:
                raise
            await self._nft.load(op.layout.full_script(op.everything))

    async def _affinity(self, op: Replace) -> list[str]:
        """Commands that bring back which client is at which endpoint, so that a restart moves nobody."""
        sticking = {path.maps for path in names.PATHS for chain in op.everything.added_chains
                    if chain.name.startswith(f"{path.name}-stick-")}
        kept: list[str] = []
        for path in names.OWN_MAPS:
            if path.maps in sticking:
                listed = await self._nft.list_map(op.layout.family.nft, names.TABLE, path.affinity)
                _, found, rest = (listed or "").partition("elements = {")
                if found:
                    elements = " ".join(rest.partition("}")[0].split())
                    kept.append(f"add element {op.layout.table} {path.affinity} {{ {elements} }}")
        return kept

    def forget(self) -> None:
        """After a failure nothing is known of the kernel."""
        for half in self._halves.values():
            half.known = False

    def doubt(self, table: str) -> bool:
        """Somebody else changed a table; says whether it is one of ours that was thought good until now."""
        for half in self._halves.values():
            if half.layout.table == table and half.known:
                half.known = False
                return True
        return False

    def dry_run(self) -> str:
        """The scripts that would be run now."""
        return "".join(
            self._halves[family].layout.full_script(ledger.everything()) for family, ledger in self.desired().items()
        )


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
