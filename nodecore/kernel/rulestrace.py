"""Which nftables rules a packet met: a table that marks the packets of a flow for tracing, and what the kernel tells of them.

The table belongs to an `nft -i` child of ours (`flags owner`): the kernel removes it as soon as that child ends, and it ends
with us, kill -9 included. What it holds never judges a packet, it only says `meta nftrace set 1`. iptables-nft is heard as
well; iptables-legacy looks at the same mark on a packet, but tells elsewhere (`legacytrace.py`).

The messages are read off the group NFNLGRP_NFTRACE (linux/netfilter/nf_tables.h), not off `nft monitor`: the socket hears from
the moment it is there.

Must not know: what the rules are for. Read next: `nodecore/kernel/rulelist.py`.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nodecore.errors import Fault
from nodecore.kernel.batch import attributes
from nodecore.kernel.nfnetlink import FAMILIES, Heard, heard, open_socket

NFNL_SUBSYS_NFTABLES = 10
NFNLGRP_NFTRACE, NFT_MSG_TRACE = 9, 17
TABLE, CHAIN, HANDLE, TYPE, VERDICT, ID, NETWORK_HEADER, TRANSPORT_HEADER = 1, 2, 3, 4, 5, 6, 8, 9
INTERFACE_IN, POLICY = 10, 16
VERDICT_CODE, VERDICT_CHAIN = 1, 2
TYPES = {1: "policy", 2: "return", 3: "rule"}
VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat", 5: "stop", -1: "continue", -2: "break",
            -3: "jump", -4: "goto", -5: "return"}
FIRST = -350  # before anybody, connection tracking included
HOOKS = ("prerouting", "output")
SECONDS_TO_START = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """One rule (by its handle) or policy a packet met; `data` are its headers, which only the first step in a table has."""

    packet: int
    family: str
    table: str
    chain: str
    handle: int
    kind: str
    verdict: str
    goes_to: str
    interface: int
    data: bytes


class RulesTrace:
    """Traces while this lives. `matches` are nft expressions, each of which picks packets."""

    def __init__(self, table: str, matches: Sequence[str]) -> None:
        self.lost = 0  # how often there was no room for messages
        self._socket = open_socket(NFNLGRP_NFTRACE)
        self._child = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            self._write(table, matches)
        except BaseException:
            self.close()
            raise

    def _write(self, table: str, matches: Sequence[str]) -> None:
        """The table in one line, as nft -i takes each line for a transaction; then wait for it, or for what is wrong."""
        assert self._child.stdin
        rules = "; ".join(f"{match} meta nftrace set 1" for match in matches)
        chains = " ".join(f"chain {hook} {{ type filter hook {hook} priority {FIRST}; {rules}; }};" for hook in HOOKS)
        self._child.stdin.write(f"table inet {table} {{ flags owner; {chains} }}\n".encode())
        self._child.stdin.write(f"list table inet {table}\n".encode())
        self._child.stdin.flush()
        self._await(f"table inet {table}")

    def _await(self, words: str) -> None:
        assert self._child.stdout
        heard, deadline = "", time.monotonic() + SECONDS_TO_START
        while words not in heard:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._child.stdout.fileno(), 65536).decode(errors="replace") if ready else ""
            heard += piece
            if not piece or "Error:" in heard:
                raise Fault(f"tracing rules: nft: {heard.strip().splitlines()[0] if heard.strip() else 'no answer'}")

    def fileno(self) -> int:
        """For select and event loops."""
        return self._socket.fileno()

    def read(self) -> list[Step]:
        """What has come since the last time."""
        found = []
        for each in heard(self._socket):
            self.lost += each.kind < 0
            if each.kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE:
                found.append(_step(each))
        return found

    def close(self) -> None:
        """No packet is traced any more."""
        self._socket.close()
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(SECONDS_TO_START)


def _step(message: Heard) -> Step:
    found = message.attributes
    verdict = attributes(found.get(VERDICT, b""), 0)
    kind = TYPES.get(_number(found, TYPE), "?")
    code = _number(found, POLICY) if kind == "policy" else _number(verdict, VERDICT_CODE)
    return Step(
        packet=_number(found, ID), family=FAMILIES.get(message.family, "?"), table=_text(found, TABLE), chain=_text(found, CHAIN),
        handle=int.from_bytes(found.get(HANDLE, b""), "big"), kind=kind, verdict=VERDICTS.get(code, str(code)),
        goes_to=_text(verdict, VERDICT_CHAIN), interface=_number(found, INTERFACE_IN),
        data=found.get(NETWORK_HEADER, b"") + found.get(TRANSPORT_HEADER, b""),
    )


def _number(found: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack("!i", found[kind])[0]) if kind in found else 0


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")
