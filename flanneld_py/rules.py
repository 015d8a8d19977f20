"""Where the traffic rules are written, and their own reconciler's target: looking, planning, writing.

    nftables   table ip flannel-ipv4                   where the network config has EnableNFTables
    iptables   FLANNEL-FWD in filter, FLANNEL-POSTRTG in nat; in the variant the host uses

Each is a `Place`. The places of the kind that is wanted are filled first, each at once as a whole; only then is what is
ours in all the others removed. So a switch from one kind to another, by us or from Go flanneld, has no moment without
rules. What a place lists is compared with what it listed when we had written it: no iptables or nft need write its
rules as we do.

Several flannelds on a host share chains and tables, each with its network. At start we take all there is for ours, as Go
flanneld does; once our rules have been in place, rules of other networks that come are theirs and left alone.

Listing costs processes, so a pass lists only what has moved: nftables and iptables-nft where the nft monitor was heard
(`hear`), iptables-legacy where the kernel says that the table has another shape. Every few passes all is listed.

Must not know: leases, tunnels, which adapter is behind a port. Read next: `flanneld_py/masq.py`, `flanneld_py/render/`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flanneld_py.masq import RuleSet, Wanted
from flanneld_py.render import iptables, nftables
from nodecore.errors import Conflict, Fault, NotFound
from nodecore.kernel.ports import EVERYTHING, Chains, Firewall, Variant
from nodecore.net import Family

UNKNOWN = "?"
THOROUGH = 6  # each so many passes everything is looked at
Holding = nftables.Listed | iptables.Held
Stamp = int | bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where rules of a family can be: the nftables table of ours, or a table of one of the two iptables."""

    family: Family
    table: str
    variant: Variant | None = None

    def __str__(self) -> str:
        if self.variant is None:
            return f"nft table {self.family.nft} {self.table}"
        return f"{self.family.nft}tables-{self.variant.value} rules in {self.table}"


@dataclass(frozen=True, slots=True)
class Found:
    """What a place holds of ours, and the text we wrote that it stands for, "?" if it is not known to be ours."""

    holding: Holding
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The places that hold something, and the iptables variant to write with."""

    places: Mapping[Place, Found] = field(default_factory=dict)
    variant: Variant | None = None


@dataclass(frozen=True, slots=True)
class WriteRules:
    """Run a script that makes a place hold what `text` says; no text, nothing."""

    place: Place
    script: str
    text: str
    rules: RuleSet
    replaces: bool = False

    def describe(self) -> str:
        """In words."""
        return f"{'delete' if not self.text else 'replace' if self.replaces else 'add'} {self.place}"


class RulesTarget:
    """The traffic rules of one node; `inputs` gives None until they are known."""

    def __init__(self, firewall: Firewall, chains: Chains, inputs: Callable[[], Wanted | None]) -> None:
        self._firewall, self._chains, self._inputs = firewall, chains, inputs
        self._written: dict[Place, Found] = {}
        self._known: dict[Place, tuple[Stamp, Holding]] = {}
        self._news = self._passes = 0
        self._alone = True  # whether everything of flannel's is ours

    def trust(self, other: RulesTarget) -> None:
        """What another one has written, elsewhere, is how ours would be listed here."""
        self._written |= other._written
        self._alone = False

    def hear(self, change: str) -> bool:
        """Take in what the nft monitor tells; says whether it may be about our rules."""
        if change != EVERYTHING and not concerns(change):
            return False
        self._news += 1
        return True

    def synced(self) -> bool:
        """Whether our subnet is known."""
        return self._inputs() is not None

    def desired(self) -> Wanted:
        """What the rules are to be."""
        wanted = self._inputs()
        assert wanted
        return wanted

    async def observe(self, wanted: Wanted) -> Seen:
        """What there is of ours, of every kind. No table comes to be by looking."""
        if self._passes % THOROUGH == 0:
            self._known.clear()
        self._passes += 1
        tables = await self._firewall.list_tables()
        there = {family: self._iptables_of(family, tables) for family in Family}
        by_iptables = any(wanted.sets) and not wanted.nftables
        asked = by_iptables or any(found for kinds in there.values() for found in kinds.values())
        installed = await self._chains.variants() if asked else ()
        if by_iptables and not installed:
            raise NotFound("iptables is not installed; the network config can ask for nftables: EnableNFTables")
        variant = await self._chains.chosen() if by_iptables else None
        places = [Place(family, nftables.table_name(family)) for family in Family]
        places = [place for place in places if f"{place.family.nft} {place.table}" in tables]
        places += [Place(family, table, kind) for family in Family for kind in installed for table in sorted(there[family][kind])]
        sets = {rules.family: rules for rules in wanted.sets}
        return Seen({place: await self._look(place, sets[place.family], alone=self._alone) for place in places}, variant)

    def _iptables_of(self, family: Family, tables: Collection[str]) -> dict[Variant, set[str]]:
        """The tables of interest there are in each iptables, whether it is installed or not."""
        return {Variant.NFT: {table for table in iptables.TABLES if f"{family.nft} {table}" in tables},
                Variant.LEGACY: iptables.TABLES.keys() & self._chains.registered(family)}

    async def _look(self, place: Place, rules: RuleSet, *, alone: bool) -> Found:
        stamp = self._stamp(place)
        known, holding = self._known.get(place, (None, nftables.Listed()))
        if known is None or known != stamp:
            if place.variant is None:
                listing = await self._firewall.list_table(place.family.nft, place.table) or ""
                holding = nftables.read_listing(listing, rules, alone=alone)
            else:
                holding = await self._held(place, place.variant, rules, alone=alone)
            self._known[place] = stamp, holding
        written = self._written.get(place)
        return Found(holding, written.text if written and written.holding == holding else UNKNOWN)

    def _stamp(self, place: Place) -> Stamp:
        """What is the same as long as the place is; taken before looking, so that it is never too new."""
        if place.variant is Variant.LEGACY:
            return self._chains.registered(place.family).get(place.table, b"")
        return self._news

    async def _held(self, place: Place, variant: Variant, rules: RuleSet, *, alone: bool) -> iptables.Held:
        layout = iptables.TABLES[place.table]
        listed = {name: await self._chains.list_chain(variant, place.family, place.table, name) for name in layout.chains}
        hook = await self._chains.list_chain(variant, place.family, place.table, layout.hook) or ()
        there = {name: lines for name, lines in listed.items() if lines is not None}
        return iptables.read_chains(place.table, there, hook, rules, alone=alone)

    def plan(self, actual: Seen, wanted: Wanted) -> Sequence[WriteRules]:
        """The writes, family by family: what is wanted first, then what is not any more."""
        ops = []
        for rules in wanted.sets:
            texts = _texts(rules, actual.variant)
            ours = {place: found for place, found in actual.places.items() if place.family is rules.family}
            for place, text in texts.items():
                found = ours.get(place)
                if found is None or found.text != text:
                    replaces = found is not None and bool(found.holding)
                    ops.append(WriteRules(place, _script(place, rules, text, found), text, rules, replaces=replaces))
            for place, found in ours.items():
                if place not in texts and found.holding:
                    ops.append(WriteRules(place, _script(place, rules, "", found), "", rules))
        return ops

    async def apply(self, ops: Sequence[WriteRules]) -> None:
        """Write; where a family's writing fails, nothing further of it is written, so that the old is not removed."""
        faults: dict[Family, Fault] = {}
        for op in ops:
            if op.place.family not in faults:
                try:
                    await self._write(op)
                except Fault as fault:
                    faults[op.place.family] = type(fault)(f"{op.describe()}: {fault}")
        if faults:
            raise ExceptionGroup("rule writes", list(faults.values()))
        self._alone = False

    async def _write(self, op: WriteRules) -> None:
        self._written.pop(op.place, None)
        self._known.pop(op.place, None)
        if op.place.variant is None:
            await self._firewall.load(op.script)
        else:
            await self._chains.restore(op.place.variant, op.place.family, op.script)
        if op.text:
            found = await self._look(op.place, op.rules, alone=False)
            if not _is_whole(op.place, op.text, found.holding):
                raise Conflict("somebody else changed it at the same time")
            self._written[op.place] = Found(found.holding, op.text)

    def forget(self) -> None:
        """What is listed is compared with what we wrote: forgetting that writes it again."""
        self._written.clear()
        self._passes = 0


def _texts(rules: RuleSet, variant: Variant | None) -> dict[Place, str]:
    """What each place of the wanted kind is to hold; places that are to be empty are left out."""
    if variant is None:
        texts = {Place(rules.family, nftables.table_name(rules.family)): nftables.table_script(rules, {})}
    else:
        texts = {
            Place(rules.family, table, variant): "\n".join(iptables.chain_rules(rules, table)) for table in iptables.TABLES
        }
    return {place: text for place, text in texts.items() if text}


def _script(place: Place, rules: RuleSet, text: str, found: Found | None) -> str:
    held = found.holding if found else None
    if place.variant is not None:
        return iptables.table_script(place.table, text.splitlines(), held if isinstance(held, iptables.Held) else iptables.Held())
    others = held.others if isinstance(held, nftables.Listed) else {}
    return nftables.table_script(rules if text else RuleSet(place.family), others) or nftables.removal_script(place.family)


def _is_whole(place: Place, text: str, holding: Holding) -> bool:
    if isinstance(holding, nftables.Listed):
        return nftables.is_whole(text, holding.text)
    return iptables.is_whole(place.table, text.splitlines(), holding)


def concerns(change: str) -> bool:
    """Whether a change that the nft monitor tells of (`family table` or `family table chain`) may be to our rules."""
    family, table, chain = [*change.split(" ", 2), "", ""][:3]
    if family not in {one.nft for one in Family}:
        return False
    ours = {nftables.table_name(one) for one in Family}
    return table in ours or (table in iptables.TABLES and chain in iptables.CHAINS | {""})
