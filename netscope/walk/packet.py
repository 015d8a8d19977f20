"""The packet that is walked through rules and routes, and the steps it leaves behind.

Pure. Must not know: where rules come from. Read next: `nftrules.py`, `iptables.py`; `host.py`, which calls both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from nodecore.net import IPAddress

Found = TypeVar("Found")
Tuple = tuple[IPAddress, int, IPAddress, int]
FINAL = ("drop", "reject")
PROXIES = ("kube-proxy", "kube-proxy-py")  # the nftables tables of Go's and of ours
CHAINS = "KUBE-"  # and how both call their chains of iptables


class Unread(Exception):
    """Something that cannot be told from what is known: the message says what."""


class Step(msgspec.Struct, frozen=True):
    """One thing that happens on a node: `stage` (a hook, `route`, `tunnel`...), what, and why: the rule or entry that decides."""

    node: str
    stage: str
    what: str
    why: str = ""


@dataclass(slots=True)
class Packet:
    """What rules look at, and change. `state` and `status` are connection tracking's, `original` the addresses it knows."""

    protocol: int
    source: IPAddress
    source_port: int
    target: IPAddress
    target_port: int
    mark: int = 0
    priority: int = 0
    came_by: str = ""
    leaves_by: str = ""
    answer: bool = False
    stray: bool = False  # an answer on a node that never saw the question
    becomes: tuple[IPAddress, int] | None = None  # the source an answer gets back when it leaves
    status: set[str] = field(default_factory=set)
    original: Tuple | None = None
    tracked: bool = True

    def take_back(self) -> None:
        """An answer that leaves the node that translated has the source again that was asked."""
        if self.becomes:
            self.source, self.source_port = self.becomes
            self.becomes = None

    @property
    def state(self) -> str:
        """To connection tracking."""
        if not self.tracked:
            return "untracked"
        return "invalid" if self.stray else "established" if self.answer else "new"

    @property
    def ends(self) -> Tuple:
        """Addresses and ports as they are now."""
        return self.source, self.source_port, self.target, self.target_port

    @property
    def first(self) -> Tuple:
        """Addresses and ports as they were when this node first saw the connection."""
        return self.original or self.ends


class Chance:
    """The places where a packet's way is a matter of chance: the given choices first, then always the first one."""

    def __init__(self, given: Sequence[int] = ()) -> None:
        self._given = given
        self.taken: list[tuple[int, int]] = []

    def choose(self, count: int) -> int:
        """One of so many."""
        place = len(self.taken)
        number = self._given[place] if place < len(self._given) else 0
        self.taken.append((number, count))
        return number


def every_way(walk: Callable[[Chance], Found], limit: int) -> list[Found]:
    """The walk's results for all choices, at most `limit` of them."""
    found: list[Found] = []
    given: list[int] | None = []
    while given is not None and len(found) < limit:
        chance = Chance(given)
        found.append(walk(chance))
        given = _next(chance.taken)
    return found


def _next(taken: Sequence[tuple[int, int]]) -> list[int] | None:
    """The choices after these: the last that can be another one, is."""
    for place in range(len(taken) - 1, -1, -1):
        number, count = taken[place]
        if number + 1 < count:
            return [*(each for each, _ in taken[:place]), number + 1]
    return None


def is_proxys(table: str, chain: str) -> bool:
    """Whether a rule is a Service proxy's, who writes it again when it is deleted: what it says is right or wrong in the API."""
    return table in PROXIES or chain.startswith(CHAINS)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a set of rules said: `accept`, `drop` or `reject`, and the rule that said it (empty: nobody objected)."""

    verdict: str
    rule: str = ""
    mend: str = ""
