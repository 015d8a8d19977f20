"""nftables: one transaction at a time, a look at a table, and news of what others change.

Writes go through `nft -f -` as a child: it costs about 10 ms and cannot take the agent down with it.

Must not know: what a table is for. Read next: `nodecore/kernel/nftnews.py`, `nodecore/kernel/conntrack.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nodecore import errors
from nodecore.kernel import nftdump
from nodecore.kernel.nftnews import Children


class Nft:
    """The nftables of the network namespace this process lives in."""

    def __init__(self, *, command: Sequence[str] = ("nft",), children: Children | None = None) -> None:
        self._command = tuple(command)
        self._children = children or Children()

    async def load(self, script: str) -> None:
        """Run a script as one transaction: all of it happens, or nothing."""
        code, _, complaint = await self._run(["-f", "-"], script)
        if code:
            raise fault(complaint)

    async def check(self, script: str) -> None:
        """Ask whether `load` would succeed, changing nothing."""
        code, _, complaint = await self._run(["-c", "-f", "-"], script)
        if code:
            raise fault(complaint)

    async def list_tables(self) -> frozenset[str]:
        """`family name` of every table there is; asked of the kernel, as `nft list tables` reads every rule to answer."""
        return nftdump.table_names()

    async def list_table(self, family: str, name: str) -> str | None:
        """The table as text without counters, or None where there is none. Slow for big maps."""
        return await self._list(["-s", "list", "table", family, name])

    async def list_map(self, family: str, table: str, name: str) -> str | None:
        """One map with its elements as text, or None where there is none."""
        return await self._list(["list", "map", family, table, name])

    async def _list(self, arguments: list[str]) -> str | None:
        code, text, complaint = await self._run(arguments, "")
        if not code:
            return text
        problem = fault(complaint)
        if isinstance(problem, errors.NotFound):
            return None
        raise problem

    async def _run(self, arguments: list[str], script: str) -> tuple[int, str, str]:
        return await self._children.run((*self._command, *arguments), script)

    def changes(self, *, chains: bool = False) -> AsyncIterator[str]:
        """Yields `family table` for each change by others, and `EVERYTHING` when news was lost. Never ends.

        With `chains` it is `family table chain` for what happened to a chain or its rules.
        """
        return self._children.changes_by_others(chains=chains)


COMPLAINTS = (
    ("No such file or directory", errors.NotFound),
    ("Operation not permitted", errors.Denied),
    ("Permission denied", errors.Denied),
    ("File exists", errors.AlreadyExists),
    ("Device or resource busy", errors.Busy),
    ("Resource temporarily unavailable", errors.Busy),
    ("No buffer space", errors.Busy),
)


def fault(complaint: str) -> errors.Fault:
    """What nft said on stderr, as one of our errors with its first line as the message."""
    lines = [line for line in complaint.splitlines() if line.strip()] or ["failed without a word"]
    for words, kind in COMPLAINTS:
        if words in complaint:
            return kind(f"nft: {lines[0]}")
    return errors.Invalid(f"nft: {lines[0]}")
