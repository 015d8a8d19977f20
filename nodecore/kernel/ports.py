"""What agents need of a kernel, as Protocols small enough to hold in the head; `fake.py` and the adapters fit them.

Pure. Read next: `nodecore/kernel/netlink.py` (the real one) and `nodecore/kernel/fake.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from nodecore.kernel.diff import NetOp
from nodecore.kernel.model import Link, NetState, Scope
from nodecore.net import Family, IPAddress, IPNetwork

EVERYTHING = "*"  # what a monitor says when it has lost news


class Network(Protocol):
    """The links, addresses, neighbours, forwarding entries and routes of one network namespace."""

    async def read(self, scope: Scope) -> NetState:
        """What is there of what is ours."""
        ...

    async def apply(self, ops: Sequence[NetOp]) -> None:
        """Do them all in order, going on past failures, which are raised together at the end."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when others may have changed something: look again. Never ends."""
        ...


@dataclass(frozen=True, slots=True)
class Interface:
    """A device as the choice of an underlay sees it."""

    name: str
    mtu: int
    up: bool
    addresses: tuple[IPAddress, ...]
    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """Which way a packet to some address would leave: through which link, from which address, by which gateway."""

    link: str
    source: IPAddress | None
    gateway: IPAddress | None


class Host(Protocol):
    """What an agent asks about the machine, and hears of its way out."""

    def interfaces(self) -> tuple[Interface, ...]:
        """Every device, with its addresses."""
        ...

    def path_to(self, address: IPAddress) -> Path:
        """The kernel's routing decision; `Unreachable` when there is none."""
        ...

    def link(self, name: str) -> Link | None:
        """One device with all its parameters, if it is there."""
        ...

    def driver(self, link: str) -> str:
        """The name of its driver, empty where it has none."""
        ...

    def changes(self, link: str) -> AsyncIterator[None]:
        """Yields when that device came, went or changed, or its addresses did. Never ends."""
        ...


class Firewall(Protocol):
    """nftables, by table."""

    async def load(self, script: str) -> None:
        """Do one script as one transaction."""
        ...

    async def list_tables(self) -> frozenset[str]:
        """`family name` of every table there is."""
        ...

    async def list_table(self, family: str, name: str) -> str | None:
        """A table's text without counters, None when it is not there."""
        ...

    def changes(self, *, chains: bool = False) -> AsyncIterator[str]:
        """Yields `family table` of what others changed, or EVERYTHING; with `chains`, `family table chain` for what is in one."""
        ...


class Variant(Enum):
    """The two iptables: what one writes, the other does not see."""

    NFT = "nft"
    LEGACY = "legacy"


class Chains(Protocol):
    """iptables, by chain."""

    async def variants(self) -> tuple[Variant, ...]:
        """Those that are installed."""
        ...

    async def chosen(self) -> Variant:
        """The one this host's rules are written with."""
        ...

    def registered(self, family: Family) -> Mapping[str, bytes]:
        """The legacy tables there are, each with a stamp that is another one when rules came or went; asking makes none."""
        ...

    async def list_chain(self, variant: Variant, family: Family, table: str, chain: str) -> tuple[str, ...] | None:
        """The rules of one chain as `iptables -S` writes them, None when it is not there."""
        ...

    async def restore(self, variant: Variant, family: Family, script: str) -> None:
        """Do one script: each table it names at once, chains it does not name not at all."""
        ...
