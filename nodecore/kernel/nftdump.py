"""What nftables sets and tables hold, as the kernel tells it in binary: `nft list` takes 300 times as long.

Raw nfnetlink messages (linux/netfilter/nf_tables.h), standard library only, dumps in the calling thread.
Must not know: what is in them. Read next: `nodecore/kernel/setcounters.py`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from nodecore import errors
from nodecore.kernel.batch import ATTR, NLA_TYPE_MASK, NetlinkSocket, attribute, attributes, spans
from nodecore.kernel.nfnetlink import FAMILIES, NETLINK_NETFILTER, NFGENMSG
from nodecore.net import Family

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETSET, NFT_MSG_GETSETELEM = 1, 4, 10, 13
NAME_OF_TABLE, HANDLE_OF_TABLE = 1, 4
TABLE_OF_CHAIN, NAME_OF_CHAIN = 1, 3
TABLE_OF_SET, NAME_OF_SET = 1, 2
LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3
ELEMENT_KEY, ELEMENT_DATA = 1, 2
VALUE, VERDICT, VERDICT_CODE, VERDICT_CHAIN = 1, 2, 1, 2
VERDICTS = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
CODE = struct.Struct("!i")
TRIES = 20


def dump(kind: int, family: Family | None, *words: tuple[int, str]) -> Iterator[bytes]:
    """Each message of an answer, of one family or all; its attributes begin at `NFGENMSG`. Raises `NotFound`.

    Tables, chains and sets that come or go meanwhile may have left others out or brought them twice: `Busy`. Of elements the
    kernel does not tell it.
    """
    request = struct.pack("=BBH", family.af if family else socket.AF_UNSPEC, 0, 0)
    request += b"".join(attribute(what, text.encode() + b"\0") for what, text in words)
    with NetlinkSocket(protocol=NETLINK_NETFILTER) as sock:
        yield from sock.dump(NFNL_SUBSYS_NFTABLES << 8 | kind, request, "nftables")


def listed(kind: int, family: Family | None) -> list[bytes]:
    """All messages of an answer during which nothing came or went; asked for again until there is one."""
    for _ in range(TRIES):
        with suppress(errors.Busy):
            return list(dump(kind, family))
    return list(dump(kind, family))


def table_names() -> frozenset[str]:
    """`family name` of every table there is."""
    return frozenset(f"{FAMILIES.get(message[0], '?')} {_text(attributes(message, NFGENMSG)[NAME_OF_TABLE])}"
                     for message in listed(NFT_MSG_GETTABLE, None))


def table_handle(family: Family, table: str) -> int:
    """A number that no other table has had; `NotFound` where there is none."""
    for message in listed(NFT_MSG_GETTABLE, family):
        found = attributes(message, NFGENMSG)
        if _text(found[NAME_OF_TABLE]) == table:
            return int.from_bytes(found[HANDLE_OF_TABLE], "big")
    raise errors.NotFound(f"nftables: no table {table}")


def chain_names(family: Family, table: str) -> frozenset[str]:
    """The chains of a table."""
    return frozenset(_names(NFT_MSG_GETCHAIN, family, table, TABLE_OF_CHAIN, NAME_OF_CHAIN))


def set_names(family: Family, table: str) -> frozenset[str]:
    """The sets and maps of a table; the anonymous ones of its rules too."""
    return frozenset(_names(NFT_MSG_GETSET, family, table, TABLE_OF_SET, NAME_OF_SET))


def _names(kind: int, family: Family, table: str, its_table: int, its_name: int) -> Iterator[str]:
    for message in listed(kind, family):
        found = attributes(message, NFGENMSG)
        if _text(found.get(its_table, b"")) == table:
            yield _text(found[its_name])


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def elements(family: Family, table: str, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Each element of a set: the message it is in, and where its attributes begin and end there."""
    for message in dump(NFT_MSG_GETSETELEM, family, (LIST_TABLE, table), (LIST_SET, name)):
        for what, first, last in spans(message, NFGENMSG, len(message)):
            if what == LIST_ELEMENTS:
                for _, inner, stop in spans(message, first, last):
                    yield message, inner, stop


def read_elements(family: Family, table: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each element as the kernel has them, in concatenations each part padded to four bytes.

    A verdict is its attributes; `verdict` reads those. The value is empty where there is none. Written for speed: the key is
    an element's first attribute, and its value, if there is one, the second.
    """
    unpack = ATTR.unpack_from
    for data, start, end in elements(family, table, name):
        length, kind = unpack(data, start)
        if kind & NLA_TYPE_MASK != ELEMENT_KEY:
            raise errors.Unsupported(f"nftables: elements of {name} do not begin with their keys")
        key, second = data[start + 8 : start + length], start + ((length + 3) & ~3)
        if second < end:
            length, kind = unpack(data, second)
            if kind & NLA_TYPE_MASK == ELEMENT_DATA:
                inner = second + 4
                if unpack(data, inner)[1] & NLA_TYPE_MASK == VALUE:
                    inner += 4
                yield key, data[inner : second + length]
                continue
        yield key, b""


def verdict(value: bytes) -> str:
    """The words of a verdict that an element has."""
    _, start, end = next(spans(value, 0, len(value)))
    code, chain = 0, ""
    for what, first, last in spans(value, start, end):
        if what == VERDICT_CODE:
            (code,) = CODE.unpack_from(value, first)
        elif what == VERDICT_CHAIN:
            chain = _text(value[first:last])
    return f"{VERDICTS.get(code, code)} {chain}".rstrip()
