"""ipset: the names of the sets there are, and many changes at once.

`ipset restore` does the lines of a script one by one: the first that fails ends it, and those before it stay done.
Must not know: what a set is for. Read next: `nodecore/kernel/nft.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodecore import errors
from nodecore.kernel.nftnews import Children

COMPLAINTS = (
    ("does not exist", errors.NotFound), ("already exists", errors.AlreadyExists), ("already added", errors.AlreadyExists),
    ("in use", errors.Busy), ("not permitted", errors.Denied), ("ermission denied", errors.Denied),
    ("not supported", errors.Unsupported),
)


class Ipset:
    """The sets of the network namespace this process lives in."""

    def __init__(self, *, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    async def names(self) -> list[str]:
        """Of all sets; none where ipset is not installed."""
        try:
            return (await self._run("list", "-n")).split()
        except errors.NotFound:
            return []

    async def restore(self, script: str) -> None:
        """Run a script in the format of `ipset save`."""
        await self._run("restore", script=script)

    async def _run(self, *arguments: str, script: str = "") -> str:
        code, out, complaint = await Children().run((*self._prefix, "ipset", *arguments), script)
        if code:
            raise fault(complaint)
        return out


def fault(complaint: str) -> errors.Fault:
    """What ipset said on stderr, as one of our errors with its first line as the message."""
    line = next((line for line in complaint.splitlines() if line.strip()), "failed without a word")
    kind = next((kind for words, kind in COMPLAINTS if words in complaint), errors.Invalid)
    return kind(f"ipset: {line}")
