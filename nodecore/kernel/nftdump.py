"""What nftables sets and tables hold, as the kernel tells it in binary: `nft list` takes 300 times as long.

Raw nfnetlink messages (linux/netfilter/nf_tables.h), standard library only, dumps in the calling thread.
Must not know: what is in them. Read next: `nodecore/kernel/nft.py`, `nodecore/kernel/setcounters.py`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from nodecore import errors
from nodecore.kernel.batch import HEADER, attribute
from nodecore.net import Family

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES = 12, 10
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETSET, NFT_MSG_GETSETELEM = 1, 4, 10, 13
F_REQUEST, F_DUMP, F_INTERRUPTED = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
NAME_OF_TABLE, HANDLE_OF_TABLE = 1, 4
TABLE_OF_CHAIN, NAME_OF_CHAIN = 1, 3
TABLE_OF_SET, NAME_OF_SET = 1, 2
LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3
ELEMENT_KEY, ELEMENT_DATA = 1, 2
VALUE, VERDICT, VERDICT_CODE, VERDICT_CHAIN = 1, 2, 1, 2
VERDICTS = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
ATTRIBUTE, CODE = struct.Struct("=HH"), struct.Struct("!i")
BODY, MASK = 20, 0x3FFF  # nlmsghdr and nfgenmsg; an attribute's kind without its flags
BUFFER = 1 << 17
TRIES = 20


def dump(kind: int, family: Family, *words: tuple[int, str]) -> Iterator[tuple[bytes, int, int]]:
    """Each message of an answer: the datagram it is in, and where its attributes begin and end. Raises `NotFound`.

    Tables, chains and sets that come or go meanwhile may have left others out or brought them twice: `Busy`. Of elements the
    kernel does not tell it.
    """
    request = struct.pack("=BBH", family.af, 0, 0) + b"".join(attribute(what, text.encode() + b"\0") for what, text in words)
    header = HEADER.pack(16 + len(request), NFNL_SUBSYS_NFTABLES << 8 | kind, F_REQUEST | F_DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
            sock.settimeout(10)
            sock.send(header + request)
            while True:
                datagram = sock.recv(BUFFER)
                for sort, flags, start, end in _messages(datagram):
                    if flags & F_INTERRUPTED:
                        raise errors.Busy("nftables: somebody changed something while it was read")
                    if sort == NLMSG_DONE:
                        return
                    if sort == NLMSG_ERROR:
                        raise _fault(datagram, start)
                    yield datagram, start + BODY, end
    except OSError as error:
        raise errors.Fault(f"nftables: {error.strerror or error}") from None


def _messages(datagram: bytes) -> Iterator[tuple[int, int, int, int]]:
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, _, _ = HEADER.unpack_from(datagram, offset)
        yield kind, flags, offset, offset + length
        offset += (length + 3) & ~3


def _fault(datagram: bytes, start: int) -> errors.Fault:
    (code,) = struct.unpack_from("=i", datagram, start + HEADER.size)
    known = {-2: errors.NotFound, -1: errors.Denied}.get(code, errors.Fault)
    return known(f"nftables: {os.strerror(-code)}")


def attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each attribute's kind, and where its payload begins and ends."""
    while offset + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            return
        yield kind & MASK, offset + ATTRIBUTE.size, offset + length
        offset += (length + 3) & ~3


def listed(kind: int, family: Family) -> list[tuple[bytes, int, int]]:
    """All messages of an answer during which nothing came or went; asked for again until there is one."""
    for _ in range(TRIES):
        with suppress(errors.Busy):
            return list(dump(kind, family))
    return list(dump(kind, family))


def table_handle(family: Family, table: str) -> int:
    """A number that no other table has had; `NotFound` where there is none."""
    for data, start, end in listed(NFT_MSG_GETTABLE, family):
        found = {what: data[first:last] for what, first, last in attributes(data, start, end)}
        if found[NAME_OF_TABLE].rstrip(b"\0").decode() == table:
            return int.from_bytes(found[HANDLE_OF_TABLE], "big")
    raise errors.NotFound(f"nftables: no table {table}")


def chain_names(family: Family, table: str) -> frozenset[str]:
    """The chains of a table."""
    return frozenset(_names(NFT_MSG_GETCHAIN, family, table, TABLE_OF_CHAIN, NAME_OF_CHAIN))


def set_names(family: Family, table: str) -> frozenset[str]:
    """The sets and maps of a table; the anonymous ones of its rules too."""
    return frozenset(_names(NFT_MSG_GETSET, family, table, TABLE_OF_SET, NAME_OF_SET))


def _names(kind: int, family: Family, table: str, its_table: int, its_name: int) -> Iterator[str]:
    for data, start, end in listed(kind, family):
        found = {what: data[first:last].rstrip(b"\0").decode() for what, first, last in attributes(data, start, end)
                 if what in (its_table, its_name)}
        if found.get(its_table) == table:
            yield found[its_name]


def elements(family: Family, table: str, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Each element of a set: the datagram it is in, and where its attributes begin and end."""
    for data, start, end in dump(NFT_MSG_GETSETELEM, family, (LIST_TABLE, table), (LIST_SET, name)):
        for what, first, last in attributes(data, start, end):
            if what == LIST_ELEMENTS:
                for _, inner, stop in attributes(data, first, last):
                    yield data, inner, stop


def read_elements(family: Family, table: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each element as the kernel has them, in concatenations each part padded to four bytes.

    A verdict is its attributes; `verdict` reads those. The value is empty where there is none. Written for speed: the key is
    an element's first attribute, and its value, if there is one, the second.
    """
    unpack = ATTRIBUTE.unpack_from
    for data, start, end in elements(family, table, name):
        length, kind = unpack(data, start)
        if kind & MASK != ELEMENT_KEY:
            raise errors.Unsupported(f"nftables: elements of {name} do not begin with their keys")
        key, second = data[start + 8 : start + length], start + ((length + 3) & ~3)
        if second < end:
            length, kind = unpack(data, second)
            if kind & MASK == ELEMENT_DATA:
                inner = second + 4
                if unpack(data, inner)[1] & MASK == VALUE:
                    inner += 4
                yield key, data[inner : second + length]
                continue
        yield key, b""


def verdict(value: bytes) -> str:
    """The words of a verdict that an element has."""
    _, start, end = next(attributes(value, 0, len(value)))
    code, chain = 0, ""
    for what, first, last in attributes(value, start, end):
        if what == VERDICT_CODE:
            (code,) = CODE.unpack_from(value, first)
        elif what == VERDICT_CHAIN:
            chain = value[first:last].rstrip(b"\0").decode()
    return f"{VERDICTS.get(code, code)} {chain}".rstrip()
