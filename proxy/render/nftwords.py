"""nft's words for elements and chains, in lines that it reads quickly.

Pure. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from ..ledger import Element

PER_COMMAND = 2000  # elements in one `add element`: long lines cost nft more than many lines do


def element_words(table: str, verb: str, elements: Iterable[Element]) -> Iterator[str]:
    """Commands that add or delete elements, which are sorted by container."""
    for container, group in groupby(elements, key=lambda element: element.container):
        words = [f"{item.key} : {item.value}" if item.value and verb == "add" else item.key for item in group]
        for start in range(0, len(words), PER_COMMAND):
            yield f"{verb} element {table} {container} {{ {', '.join(words[start : start + PER_COMMAND])} }}"


def chain_lines(name: str, *rules: str) -> Iterator[str]:
    """A chain with its rules, of which the first may be its hook."""
    yield f"chain {name} {{"
    yield from rules
    yield "}"
