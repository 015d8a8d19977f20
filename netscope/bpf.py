"""A flow as a classic BPF program over packets that begin at their network header (packet(7), SOCK_DGRAM): pure.

The kernel then hands over nothing else. Looked at: the packet itself, and the one inside IP in IP or VXLAN. Every place a
header may begin is one block of tests, whose first that fails jumps to the next block; the last block refuses.

Must not know: sockets. Read next: `nodecore/kernel/tap.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

from netscope.flow import UDP, Flow
from netscope.headers import IP6_IN_IP, IP_IN_IP, VXLAN_AND_ETHERNET, VXLAN_PORT
from nodecore.net import Family

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # ld, ldh, ldb [k]
LOAD_HALF_AT_X, LOAD_HEADER_LENGTH = 0x48, 0xB1  # ldh [x + k]; ldx 4*([k]&0xf)
AND, EQUAL, ANY_BIT, RETURN = 0x54, 0x15, 0x45, 0x06
INSTRUCTION = struct.Struct("=HBBI")
WHOLE, NOTHING = 0x40000, 0
Test = tuple[int, int]  # an opcode and its k


def program(flow: Flow) -> bytes:
    """Packed `struct sock_filter`s."""
    blocks = [_block(tests) for begin, inside in _places() for tests in _alternatives(flow, begin, inside)]
    return b"".join(blocks) + INSTRUCTION.pack(RETURN, 0, 0, NOTHING)


def _places() -> Iterator[tuple[int, tuple[Test, ...]]]:
    """Where a packet's own IP header may begin, and the tests that say it does."""
    version = (LOAD_BYTE, 0), (AND, 0xF0)
    four, six = (*version, (EQUAL, 0x40)), (*version, (EQUAL, 0x60))
    yield 0, ()
    for outer, size, kind in ((four, 20, 9), (six, 40, 6)):
        for inner in (IP_IN_IP, IP6_IN_IP):
            yield size, (*outer, (LOAD_BYTE, kind), (EQUAL, inner))
        vxlan = (LOAD_BYTE, kind), (EQUAL, UDP), (LOAD_HALF, size + 2), (EQUAL, VXLAN_PORT)
        yield size + 8 + VXLAN_AND_ETHERNET, (*outer, *vxlan)


def _alternatives(flow: Flow, begin: int, inside: tuple[Test, ...]) -> Iterator[tuple[Test, ...]]:
    """Each way a packet can be of the flow: by its mark as either port, or by one of the ends as source or target."""
    four = flow.family is Family.IPV4
    version, kind = (0x40, 9) if four else (0x60, 6)
    own = (LOAD_BYTE, begin), (AND, 0xF0), (EQUAL, version), (LOAD_BYTE, begin + kind), (EQUAL, flow.protocol)
    head: tuple[Test, ...] = (*inside, *own)
    if four:  # no later fragment, whose first bytes are no ports
        head = (*head, (LOAD_HALF, begin + 6), (ANY_BIT, 0x1FFF), (LOAD_HEADER_LENGTH, begin))
    load, ports = (LOAD_HALF_AT_X, begin) if four else (LOAD_HALF, begin + 40)
    for place in (0, 2):
        yield (*head, (load, ports + place), (EQUAL, flow.mark))
    source, target = (12, 16) if four else (8 + 12, 24 + 12)  # of an IPv6 address the last four bytes; who asks looks at the rest
    for end in flow.ends:
        word = int.from_bytes(ip_address(end.address).packed[-4:], "big")
        for address, place in ((source, 0), (target, 2)):
            yield (*head, (LOAD_WORD, begin + address), (EQUAL, word), (load, ports + place), (EQUAL, end.port))


def _block(tests: tuple[Test, ...]) -> bytes:
    """The tests in a row; what fails one jumps behind the block, what passes all is taken whole."""
    size = len(tests)
    packed = [_instruction(code, k, size - place) for place, (code, k) in enumerate(tests)]
    return b"".join(packed) + INSTRUCTION.pack(RETURN, 0, 0, WHOLE)


def _instruction(code: int, k: int, behind: int) -> bytes:
    if code == EQUAL:
        return INSTRUCTION.pack(code, 0, behind, k)
    if code == ANY_BIT:
        return INSTRUCTION.pack(code, behind, 0, k)
    return INSTRUCTION.pack(code, 0, 0, k)
