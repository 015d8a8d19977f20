"""Every packet rule of the network namespace this process lives in, as the programs that own them print them.

What a program cannot list is left out and named in `absent`. Listing makes no table: legacy tables are asked for only where
they are registered. Must not know: what the rules are for. Read next: `nodecore/kernel/nft.py`, for those who write.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = re.compile(r"^\s*(?P<kind>table|chain) (?P<words>.*?) \{")
LISTED = re.compile(r"^\s*(?P<text>.*\S)\s*# handle (?P<number>\d+)$")
REGISTERED = {"ip": "/proc/thread-self/net/ip_tables_names", "ip6": "/proc/thread-self/net/ip6_tables_names"}
PREFIX = {"ip": "iptables", "ip6": "ip6tables"}
OWNED = {"filter", "nat", "mangle", "raw", "security"}  # the tables that iptables-nft keeps


def nft_items(absent: dict[str, str]) -> list[dict[str, Any]]:
    """`nft -j list ruleset`."""
    text = _ask(absent, "nft", "-j", "list", "ruleset")
    found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
    return found


def nft_texts(absent: dict[str, str]) -> dict[str, str]:
    """Each rule as nft writes it, by `family table chain handle`."""
    return dict(_texts(_ask(absent, "nft", "-a", "-s", "-t", "list", "ruleset")))


def _texts(listing: str) -> Iterator[tuple[str, str]]:
    table = chain = ""
    for line in listing.splitlines():
        if header := HEADER.match(line):
            if header["kind"] == "table":
                table = header["words"]
            else:
                chain = header["words"]
        elif found := LISTED.match(line):
            yield f"{table} {chain} {found['number']}", found["text"]


def iptables_saves(items: list[dict[str, Any]], absent: dict[str, str]) -> dict[str, str]:
    """`iptables-save` of both variants and families, by `variant family`, where such tables exist."""
    found = {}
    for family, program in PREFIX.items():
        if any("table" in item and item["table"]["family"] == family and item["table"]["name"] in OWNED for item in items):
            found[f"nft {family}"] = _ask(absent, f"{program}-nft-save")
        if _names(REGISTERED[family]):
            found[f"legacy {family}"] = _ask(absent, f"{program}-legacy-save")
    return {name: text for name, text in found.items() if text}


def ipsets(absent: dict[str, str]) -> str:
    """`ipset save`, nothing where there is no such program."""
    return _ask(absent, "ipset", "save") if shutil.which("ipset") else ""


def _names(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def _ask(absent: dict[str, str], *argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        absent[" ".join(argv)] = error.strerror or str(error)
        return ""
    if done.returncode:
        absent[" ".join(argv)] = done.stderr.strip().partition("\n")[0]
        return ""
    return done.stdout
