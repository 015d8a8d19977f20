"""What nft lists, for those who only read: base chains, and the rules of a chain by their handles.

Must not know: what the rules are for. Read next: `nodecore/kernel/nft.py`, for those who write.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from nodecore.errors import Fault, NotFound

LISTED = re.compile(r"^\s*(?P<text>.*\S)\s*# handle (?P<number>\d+)$")


def base_chains() -> list[dict[str, Any]]:
    """Every chain that a hook calls, with nft's own JSON names: `family`, `table`, `name`, `hook`, `prio`, `policy`."""
    found = json.loads(_list("-j", "list", "chains"))["nftables"]
    return [each["chain"] for each in found if each.get("chain", {}).get("hook")]


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
