"""What an nft table holds, from the kernel's binary to the words of our elements, and what has to change to make it another.

The words and the kernel's are told apart by the types in the declarations of sets and maps. Those whose elements we cannot
tell apart so, because they are networks, are filled anew; those the packets fill are left alone.

Pure. Must not know: how the kernel is asked. Read next: `proxy/render/nftables.py`, `proxy/writers/nftables.py`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import groupby
from operator import attrgetter

from nodecore.errors import Invalid

from ..ledger import Element

DECLARATION = re.compile(r"(?:set|map) (\S+) \{ (?:type ([^:;]+?)(?: : ([^;]+?))?|typeof [^;]+);(.*)\}")
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
WORD = 4  # bytes to which every part of a concatenation is padded
Words = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Container:
    """A set or map as declared: the types of its keys and values."""

    name: str
    key: tuple[str, ...]
    value: tuple[str, ...]
    refilled: bool  # its elements are not compared
    alone: bool  # its elements are not ours

    def reader(self) -> Callable[[bytes], str]:
        """Keys in words."""
        return _reader(self.key)

    def value_reader(self) -> Callable[[bytes], str]:
        """Values in words; not for verdicts."""
        return _reader(self.value)


@dataclass(frozen=True, slots=True)
class There:
    """A table: the names of its chains, and elements by container and key."""

    chains: frozenset[str]
    elements: Mapping[str, Words]


def declared(lines: Iterable[str]) -> dict[str, Container]:
    """The containers of a table's text."""
    found = {}
    for line in lines:
        if said := DECLARATION.match(line):
            name, key, value, more = said.groups()
            found[name] = Container(name, tuple((key or "").split(" . ")), tuple((value or "").split(" . ")) if value else (),
                                    "interval" in more or "elements" in more, "dynamic" in more)
    return found


def changes(wanted: Iterable[Element], there: There, refilled: Iterable[str]) -> tuple[list[Element], list[Element]]:
    """What has to be removed and added; the `wanted` elements are sorted by container."""
    removed: list[Element] = []
    added: list[Element] = []
    left = set(there.elements)
    for container, group in groupby(wanted, key=attrgetter("container")):
        if container in refilled:
            added += group
            continue
        left.discard(container)
        should, does = {item.key: item.value for item in group}, there.elements[container]
        if should == does:
            continue
        removed += (Element(container, key, value) for key, value in does.items() if should.get(key) != value)
        added += (Element(container, key, value) for key, value in should.items() if does.get(key) != value)
    removed += (Element(container, key, value) for container in left for key, value in there.elements[container].items())
    return sorted(removed), added


def _reader(types: tuple[str, ...]) -> Callable[[bytes], str]:
    """What reads so many parts; addresses are many, and what follows them is mostly the same."""
    known: dict[bytes, str] = {}
    size, first = PARTS[types[0]]
    whole = sum(PARTS[kind][0] for kind in types)

    def rest(raw: bytes) -> str:
        if (text := known.get(raw)) is None:
            text = known[raw] = _parts(raw, types[1:])
        return text

    def read(raw: bytes) -> str:
        if len(raw) != whole:
            raise Invalid(f"elements of {len(raw)} bytes, and not of {whole}")
        return first(raw[:size]) + rest(raw[size:])

    return read


def _parts(raw: bytes, types: tuple[str, ...]) -> str:
    text, offset = "", 0
    for kind in types:
        size, read = PARTS[kind]
        text += f" . {read(raw[offset : offset + size])}"
        offset += size
    return text


def _four(raw: bytes) -> str:
    first, second, third, fourth = raw
    return f"{first}.{second}.{third}.{fourth}"


def _six(raw: bytes) -> str:
    return str(IPv6Address(raw))


def _protocol(raw: bytes) -> str:
    return PROTOCOLS.get(raw[0], f"{raw[0]}")


def _service(raw: bytes) -> str:
    return f"{int.from_bytes(raw[:2], 'big')}"


def _classid(raw: bytes) -> str:
    value = int.from_bytes(raw, sys.byteorder)
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def _mark(raw: bytes) -> str:
    return f"{int.from_bytes(raw, sys.byteorder):#010x}"


PARTS: dict[str, tuple[int, Callable[[bytes], str]]] = {
    "ipv4_addr": (4, _four), "ipv6_addr": (16, _six), "inet_proto": (WORD, _protocol),
    "inet_service": (WORD, _service), "classid": (WORD, _classid),
    "mark": (WORD, _mark),
}
