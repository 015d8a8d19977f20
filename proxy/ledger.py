"""What the packet filter should hold, as the sum of every Service's part; and what changed since it was last written.

A Service brings `Fragment`s. Each claims something only one Service can have (an address and port); where two want
it, the first by name has it, whatever the order they came in. Chains and set elements that several need are counted.
The cost of a change is that of the Services that changed, not of all.

Pure. Must not know: what chains and maps mean. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec


class Chain(msgspec.Struct, frozen=True, order=True, gc=False):
    """A chain and its rules."""

    name: str
    rules: tuple[str, ...]


class Element(msgspec.Struct, frozen=True, order=True, gc=False):
    """An element of a map, or of a set where `value` is empty."""

    container: str
    key: str
    value: str = ""


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """One Service's part: elements of its own, and chains and set elements it shares with others."""

    claim: str
    elements: tuple[Element, ...]
    shared: tuple[Element | Chain, ...]


@dataclass(frozen=True)
class Delta:
    """A change of the whole: sorted, nothing both added and removed unless its value changed."""

    removed: tuple[Element, ...] = ()
    added: tuple[Element, ...] = ()
    removed_chains: tuple[Chain, ...] = ()
    added_chains: tuple[Chain, ...] = ()

    def __len__(self) -> int:
        return len(self.removed) + len(self.added) + len(self.removed_chains) + len(self.added_chains)


@dataclass
class Ledger:
    """The sum; `put` changes it, `pending` says what `settle` has not yet acknowledged as written."""

    contested: dict[str, dict[str, Fragment]] = field(default_factory=dict)
    _holders: dict[str, str] = field(default_factory=dict)
    _fragments: dict[str, Fragment] = field(default_factory=dict)
    _claims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _uses: Counter[Element | Chain] = field(default_factory=Counter)
    _before: dict[str, Fragment | None] = field(default_factory=dict)
    _used_before: dict[Element | Chain, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._fragments)

    def __contains__(self, owner: str) -> bool:
        return owner in self._claims

    def put(self, owner: str, fragments: Sequence[Fragment]) -> None:
        """Replace an owner's part."""
        new = {fragment.claim: fragment for fragment in fragments}
        for claim in self._claims.pop(owner, ()):
            if claim not in new:
                self._withdraw(owner, claim)
        for claim, fragment in new.items():
            self._offer(owner, claim, fragment)
        if new:
            self._claims[owner] = tuple(new)

    def _offer(self, owner: str, claim: str, fragment: Fragment) -> None:
        holder = self._holders.get(claim, owner)
        if holder != owner and claim not in self.contested:
            self.contested[claim] = {holder: self._fragments[claim]}
        if claim in self.contested:
            self.contested[claim][owner] = fragment
            self._award(claim)
        else:
            self._set(claim, owner, fragment)

    def _withdraw(self, owner: str, claim: str) -> None:
        if claim not in self.contested:
            self._set(claim, "", None)
            return
        del self.contested[claim][owner]
        self._award(claim)
        if len(self.contested[claim]) == 1:
            del self.contested[claim]

    def _award(self, claim: str) -> None:
        winner = min(self.contested[claim])
        self._set(claim, winner, self.contested[claim][winner])

    def _set(self, claim: str, owner: str, fragment: Fragment | None) -> None:
        old = self._fragments.get(claim)
        if fragment is None:
            del self._fragments[claim], self._holders[claim]
        else:
            self._holders[claim] = owner
            self._fragments[claim] = fragment
        if old == fragment:
            return
        self._before.setdefault(claim, old)
        self._count(fragment, 1)
        self._count(old, -1)

    def _count(self, fragment: Fragment | None, step: int) -> None:
        for item in fragment.shared if fragment else ():
            self._used_before.setdefault(item, self._uses[item] > 0)
            self._uses[item] += step
            if not self._uses[item]:
                del self._uses[item]

    def held(self) -> list[tuple[str, Fragment]]:
        """Every part with whose it is; may be asked from another thread."""
        fragments = self._fragments.copy()
        return [(owner, fragments[claim]) for claim, owner in self._holders.copy().items() if claim in fragments]

    @property
    def open(self) -> bool:
        """Whether anything has changed since `settle`."""
        return bool(self._before or self._used_before)

    def pending(self) -> Delta:
        """What has changed since `settle`."""
        old = _elements(self._before.values())
        new = _elements(self._fragments.get(claim) for claim in self._before)
        gone = [item for item, used in self._used_before.items() if used and not self._uses[item]]
        come = [item for item, used in self._used_before.items() if not used and self._uses[item]]
        return Delta(
            removed=_sorted(old - new, gone), added=_sorted(new - old, come),
            removed_chains=_chains(gone), added_chains=_chains(come),
        )

    def everything(self) -> Delta:
        """The whole, as what would have to be added to nothing."""
        return Delta(added=_sorted(_elements(self._fragments.values()), self._uses), added_chains=_chains(self._uses))

    def settle(self) -> None:
        """Acknowledge that everything is written."""
        self._before.clear()
        self._used_before.clear()


def _elements(fragments: Iterable[Fragment | None]) -> set[Element]:
    return {element for fragment in fragments if fragment for element in fragment.elements}


def _sorted(own: set[Element], shared: Iterable[Element | Chain]) -> tuple[Element, ...]:
    found = [*(own | {item for item in shared if isinstance(item, Element)})]
    found.sort(key=attrgetter("key"))  # plain strings are compared several times as fast as Structs
    found.sort(key=attrgetter("container"))
    return tuple(found)


def _chains(items: Iterable[Element | Chain]) -> tuple[Chain, ...]:
    return tuple(sorted(item for item in items if isinstance(item, Chain)))
