"""What a table holds against what it should, in words, by Service.

Reads nft's listing of one of our tables; of rules only the number in each chain counts, as nft words them its own way.

Pure. Must not know: how the listing is come by. Read next: `proxy/ledger.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from . import names
from .ledger import Chain, Element, Ledger

UNCOMPARED = {names.PROTOCOLS, names.NODE_PORT_ADDRESSES, *(path.affinity for path in names.OWN_MAPS)}
OPENING = re.compile(r"^(table|chain|set|map) (?:\S+ )?([\w-]+) \{$")
SHARED = "many Services"
NOBODY = "no Service"


@dataclass
class Table:
    """A table as listed: elements by container, and the number of rules by chain."""

    elements: dict[str, dict[str, str]] = field(default_factory=dict)
    chains: dict[str, int] = field(default_factory=dict)


def read_listing(text: str) -> Table:
    """What `nft -s list table` says."""
    found = Table()
    kind, name, words = "", "", ""
    for raw in text.splitlines():
        line = raw.strip()
        if opening := OPENING.match(line):
            kind, name = opening.groups()
            words = ""
            if kind == "chain":
                found.chains[name] = 0
            elif kind != "table":
                found.elements[name] = {}
        elif line == "}":
            kind = ""
        elif kind == "chain":
            found.chains[name] += bool(line) and not line.startswith(("type ", "policy "))
        elif words or line.startswith("elements = {"):
            words += " " + line
            if line.endswith("}"):
                found.elements[name] = dict(_pair(item) for item in words.partition("{")[2].rpartition("}")[0].split(","))
                words = ""
    return found


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.strip().removesuffix(" counter").partition(" : ")
    return _spelled(key), _spelled(value)


def _spelled(text: str) -> str:
    """In one spelling: nft leaves the length of a single address away, and has its own for some of IPv6."""
    return " . ".join(_word(word) for word in text.split(" . "))


def _word(word: str) -> str:
    word = word.removesuffix("/32").removesuffix("/128")
    if word.count(":") < 2:
        return word
    try:
        return str(ip_address(word))
    except ValueError:
        return word


def differences(ledger: Ledger, fixed: Mapping[str, int], kernel: Table) -> list[str]:
    """One line for each difference, by Service; empty where all is as it should be. `fixed` are chains that are always there."""
    kernel = _without_probe(kernel)
    owner_of: dict[tuple[str, str], str] = {}
    wanted: dict[str, dict[str, str]] = {}
    for owner, fragment in ledger.held():
        for item in (*fragment.elements, *(each for each in fragment.shared if isinstance(each, Element))):
            key = _spelled(item.key)
            wanted.setdefault(item.container, {})[key] = _spelled(item.value)
            known = owner_of.setdefault((item.container, key), owner)
            if known != owner:
                owner_of[(item.container, key)] = SHARED
    lines: list[str] = []
    for container in sorted((wanted.keys() | kernel.elements.keys()) - UNCOMPARED):
        lines += _of_container(container, wanted.get(container, {}), kernel.elements.get(container, {}), owner_of)
    chains = {**fixed, **_chains(ledger)}
    return sorted(lines) + _of_chains(chains, kernel.chains)


def _without_probe(kernel: Table) -> Table:
    """What --verify-programming adds is nobody's: no Service can have an address on loopback."""
    own = ("127.0.0.1 . ", "::1 . ")
    elements = {name: {key: value for key, value in found.items() if not key.startswith(own)}
                for name, found in kernel.elements.items()}
    used = {value for found in elements.values() for value in found.values()}
    alone = names.EXTERNAL.spread(1)
    probed = elements != kernel.elements and f"goto {alone}" not in used
    return Table(elements, {name: count for name, count in kernel.chains.items() if not (probed and name == alone)})


def _of_container(name: str, wanted: Mapping[str, str], there: Mapping[str, str],
                  owner_of: Mapping[tuple[str, str], str]) -> Iterable[str]:
    for key in wanted.keys() | there.keys():
        owner = owner_of.get((name, key), NOBODY)
        should, does = wanted.get(key), there.get(key)
        if should == does:
            continue
        if does is None:
            yield f"{owner}: {name} lacks {key}{_to(should)}"
        elif should is None:
            yield f"{owner}: {name} has {key}{_to(does)}, which nobody asks for"
        else:
            yield f"{owner}: {name} has {key}{_to(does)}, and it should be{_to(should)}"


def _to(value: str | None) -> str:
    return f" -> {value}" if value else ""


def _chains(ledger: Ledger) -> dict[str, int]:
    shared = (item for _, fragment in ledger.held() for item in fragment.shared)
    return {item.name: len(item.rules) for item in shared if isinstance(item, Chain)}


def _of_chains(wanted: Mapping[str, int], there: Mapping[str, int]) -> list[str]:
    lines: list[str] = []
    for name in sorted(wanted.keys() | there.keys()):
        should, does = wanted.get(name), there.get(name)
        if does is None:
            lines.append(f"all Services: chain {name} is missing")
        elif should is None:
            lines.append(f"{NOBODY}: chain {name}, which nobody asks for")
        elif should != does:
            lines.append(f"all Services: chain {name} has {does} rules, and it should have {should}")
    return lines
