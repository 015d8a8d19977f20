"""What nft lists, for those who only read: the rules of a chain by their handles.

Must not know: what the rules are for. Read next: `nodecore/kernel/nft.py`, for those who write.
"""

from __future__ import annotations

import re
import subprocess

from nodecore.errors import Fault, NotFound

LISTED = re.compile(r"^\s*(?P<text>.*\S)\s*# handle (?P<number>\d+)$")


def rules_of(family: str, table: str, chain: str) -> dict[int, str]:
    """A chain's rules in nft's words, by handle; none where it is gone."""
    try:
        listing = _list("-a", "list", "chain", family, table, chain)
    except Fault:
        return {}
    return {int(found["number"]): found["text"] for line in listing.splitlines() if (found := LISTED.match(line))}


def _list(*arguments: str) -> str:
    try:
        done = subprocess.run(["nft", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotFound(f"nft: {error.strerror}") from None
    if done.returncode:
        raise Fault(f"nft: {done.stderr.strip().splitlines()[0] if done.stderr.strip() else 'failed without a word'}")
    return done.stdout
