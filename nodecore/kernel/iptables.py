"""iptables in both its variants: which of them the host uses, a look at a chain, and a script as one commit per table.

Two programs share the name: `iptables-nft` writes tables `ip filter`, `ip nat`... into nftables, `iptables-legacy` has
tables of its own in the kernel, and a packet meets both. Rules belong where the host's others are, or one program's
accept is the other's afterthought. Looking at a legacy table makes it exist, and from then on each packet passes it:
so only tables that are registered already are looked at.

Writes are `iptables-restore --noflush`: only the chains named in the script are touched, and a table changes at once
as a whole. The lock that the legacy programs share is waited for, for a limited time.

Must not know: what the chains are for. Read next: `nodecore/kernel/nft.py`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nodecore import errors
from nodecore.kernel.nftnews import Children
from nodecore.kernel.ports import Variant
from nodecore.net import Family

PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
REGISTERED = {Family.IPV4: "/proc/thread-self/net/ip_tables_names", Family.IPV6: "/proc/thread-self/net/ip6_tables_names"}
HINT = ":KUBE-IPTABLES-HINT "  # the kubelet makes this chain to tell which variant it uses
SO_GET_INFO, GETINFO_BYTES = 64, 84  # linux/netfilter_ipv4/ip_tables.h, and the same numbers for IPv6
ENTRIES = slice(76, 80)  # of that
LOCKED = 4  # exit code
LOCK_SECONDS = 5
# iptables-nft 1.8.9 calls a chain that is not there "incompatible"
ABSENT = ("No chain/target/match by that name", "incompatible, use 'nft' tool", "does not exist", "doesn't exist")

_libc = ctypes.CDLL(None, use_errno=True)


class Iptables:
    """The iptables of the network namespace this process lives in."""

    def __init__(self, *, prefix: Sequence[str] = (), wait: int = LOCK_SECONDS, children: Children | None = None) -> None:
        self._prefix, self._wait = tuple(prefix), wait
        self._children = children or Children()
        self._suffixes: dict[Variant, str] = {}
        self._chosen: Variant | None = None

    async def variants(self) -> tuple[Variant, ...]:
        """Those that are installed, the one called `iptables` first."""
        if not self._suffixes:
            found: dict[Variant, str] = {}
            if shutil.which(PROGRAMS[Family.IPV4]):
                _, text, _ = await self._run([PROGRAMS[Family.IPV4], "--version"])
                found[Variant.NFT if "nf_tables" in text else Variant.LEGACY] = ""
            for variant in Variant:
                if shutil.which(f"{PROGRAMS[Family.IPV4]}-{variant.value}-restore"):
                    found[variant] = f"-{variant.value}"
            self._suffixes = found
        return tuple(self._suffixes)

    async def chosen(self) -> Variant:
        """The variant this host's rules are written with; it stays the answer. `NotFound` where there is no iptables."""
        if self._chosen is None:
            self._chosen = await self._choose()
        return self._chosen

    async def _choose(self) -> Variant:
        installed = await self.variants()
        if not installed:
            raise errors.NotFound("iptables: not installed")
        weights = {variant: await self._weight(variant) for variant in installed}
        return max(installed, key=weights.__getitem__)  # the first where they weigh the same

    async def _weight(self, variant: Variant) -> tuple[bool, int]:
        texts = []
        for family in Family:
            for table in [""] if variant is Variant.NFT else self.registered(family):
                with suppress(errors.Fault):  # a family that this kernel cannot do has no rules
                    texts.append(await self.save(variant, family, table))
        lines = [line for text in texts for line in text.splitlines()]
        return any(line.startswith(HINT) for line in lines), sum(line.startswith("-A ") for line in lines)

    def registered(self, family: Family) -> Mapping[str, bytes]:
        """The legacy tables there are, each with a stamp that is another one when rules came or went; asking makes none."""
        try:
            names = Path(REGISTERED[family]).read_text().split()
        except OSError:
            return {}
        return {name: _stamp(family, name) for name in sorted(names)}

    async def save(self, variant: Variant, family: Family, table: str = "", *, counters: bool = False) -> str:
        """A table as `iptables-save` writes it, or all there are: costly with many rules; a legacy table named comes to exist."""
        arguments = [*(["-t", table] if table else []), *(["-c"] if counters else [])]
        code, text, complaint = await self._run([self._program(variant, family, "-save"), *arguments])
        if code:
            raise fault(complaint, code, self._wait)
        return text

    async def list_chain(
        self, variant: Variant, family: Family, table: str, chain: str, *, counters: bool = False,
    ) -> tuple[str, ...] | None:
        """The rules of one chain as `iptables -S` writes them, or None where there is no such chain.

        With counters they end in `-c PACKETS BYTES`, with a target behind it if there is one.
        """
        listing = ["-v"] if counters else []
        argv = [self._program(variant, family), "-w", str(self._wait), "-t", table, *listing, "-S", chain]
        code, text, complaint = await self._run(argv)
        if not code:
            return tuple(line for line in text.splitlines() if line.startswith("-A "))
        if any(words in complaint for words in ABSENT):
            return None
        raise fault(complaint, code, self._wait)

    async def restore(self, variant: Variant, family: Family, script: str) -> None:
        """Run a script in the format of iptables-save: chains it does not name stay as they are."""
        code, _, complaint = await self._run(
            [self._program(variant, family, "-restore"), "-w", str(self._wait), "--noflush"], script
        )
        if code:
            raise fault(complaint, code, self._wait)

    def _program(self, variant: Variant, family: Family, action: str = "") -> str:
        return f"{PROGRAMS[family]}{self._suffixes.get(variant, '-' + variant.value)}{action}"

    async def _run(self, argv: Sequence[str], script: str = "") -> tuple[int, str, str]:
        return await self._children.run((*self._prefix, *argv), script)


def _stamp(family: Family, table: str) -> bytes:
    """What the kernel says of a legacy table's size and shape: microseconds, where listing it may take tens of milliseconds."""
    level = socket.IPPROTO_IP if family is Family.IPV4 else socket.IPPROTO_IPV6
    answer = ctypes.create_string_buffer(table.encode(), GETINFO_BYTES)
    with socket.socket(family.af, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        size = ctypes.c_uint32(GETINFO_BYTES)
        if _libc.getsockopt(sock.fileno(), level, SO_GET_INFO, answer, ctypes.byref(size)):
            raise errors.Denied(f"iptables: table {table}: {os.strerror(ctypes.get_errno())}")
    return answer.raw


def entries_of(stamp: bytes) -> int:
    """How many entries such a stamp says the table has: a rule is one, a chain two, a built-in one one."""
    return int.from_bytes(stamp[ENTRIES], sys.byteorder)


def fault(complaint: str, code: int, waited: int) -> errors.Fault:
    """What iptables said on stderr, as one of our errors with its first line as the message."""
    lines = [line for line in complaint.splitlines() if line.strip() and not line.startswith("#")] or ["failed without a word"]
    if code == LOCKED:
        return errors.Busy(f"iptables: another program has held the xtables lock for more than {waited} s")
    if "Permission denied" in complaint or "Operation not permitted" in complaint:
        return errors.Denied(f"iptables: {lines[0]}")
    if any(words in complaint for words in ABSENT):
        return errors.NotFound(f"iptables: {lines[0]}")
    return errors.Invalid(f"iptables: {lines[0]}")
