"""What is looked for, as a classic BPF program, so that the kernel hands over nothing else: pure.

Programs for taps count from the network header, where their packets begin. Those for rings say so (SKF_NET_OFF), as there the
link's own header comes before; the kernel then takes a function call for each load. Looked at: the packet itself, and the one
inside IP in IP or VXLAN. At each place a header may begin, a head of tests says whether it does, and alternatives say whether it
is one of ours; what fails the head goes on behind the place, what fails an alternative to the next.

Must not know: sockets. Read next: `nodecore/kernel/tap.py`, `nodecore/kernel/ring.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

from netscope.flow import ICMP, ICMPV6, PORTED, TCP, UDP, Flow
from netscope.headers import IP6_IN_IP, IP_IN_IP, VXLAN_AND_ETHERNET, VXLAN_PORT
from nodecore.net import Family, IPAddress

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # ld, ldh, ldb [k]
LOAD_HALF_AT_X, LOAD_BYTE_AT_X, LOAD_HEADER_LENGTH = 0x48, 0x50, 0xB1  # ldh, ldb [x + k]; ldx 4*([k]&0xf)
AND, EQUAL, ANY_BIT, RETURN, JUMP = 0x54, 0x15, 0x45, 0x06, 0x05
LOADS = (LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_HALF_AT_X, LOAD_BYTE_AT_X, LOAD_HEADER_LENGTH)
RST = 4
NETWORK_HEADER = -0x100000
INSTRUCTION = struct.Struct("=HBBI")
WHOLE, NOTHING = 0x40000, 0
LARGEST = 4096 * INSTRUCTION.size  # that the kernel takes

Test = tuple[int, int]  # an opcode and its k: EQUAL goes on where it is, ANY_BIT where none of the bits is set
Tests = tuple[Test, ...]
Place = tuple[Tests, Iterable[Tests]]  # the head, and the alternatives


def of_flow(flow: Flow) -> bytes:
    """Packets that bear the flow's mark as a port, or go to or come from one of its ends."""
    return _program(lambda begin, family: [_flow_at(flow, begin)] if family is flow.family else [])


def of_resets(hosts: Iterable[IPAddress]) -> bytes:
    """TCP packets that end a connection at once, to or from one of these addresses; without any, everybody's."""
    known = tuple(hosts)

    def resets(begin: int, family: Family) -> Iterator[Place]:
        mine = [host for host in known if Family.of(host) is family]
        if known and not mine:
            return
        four = family is Family.IPV4
        load, flags = (LOAD_BYTE_AT_X, begin + 13) if four else (LOAD_BYTE, begin + 40 + 13)
        reset: Tests = (load, flags), (AND, RST), (EQUAL, RST)
        alternatives = [(*tests, *reset) for host in mine for tests in _addresses(begin, host)] or [reset]
        yield _carries(TCP, begin, family), alternatives

    return _program(resets)


def of_hosts(hosts: Iterable[IPAddress], protocol: int = 0, ports: Sequence[int] = ()) -> bytes:
    """Packets to or from one of these addresses and one of these ports, of that protocol; what is not given may be any."""
    known = tuple(hosts)

    def places(begin: int, family: Family) -> Iterator[Place]:
        mine = [tests for host in known if Family.of(host) is family for tests in _addresses(begin, host)]
        if known and not mine:
            return
        if not protocol and not ports:
            yield (), mine
            return
        load, at = _ports_at(begin, family)
        ends: list[Tests] = [((load, at + place), (EQUAL, port)) for port in ports for place in (0, 2)]
        for number in [ICMPV6 if protocol == ICMP and family is Family.IPV6 else protocol] if protocol else PORTED:
            yield _carries(number, begin, family), [(*host, *end) for host in mine or [()] for end in ends or [()]]

    return _of_whole_frames(places)


def of_everything() -> bytes:
    """Every packet."""
    return INSTRUCTION.pack(RETURN, 0, 0, WHOLE)


def _of_whole_frames(wanted: Callable[[int, Family], Iterable[Place]]) -> bytes:
    """The same for packets with their link's header."""
    program = b""
    for code, passes, fails, k in INSTRUCTION.iter_unpack(_program(wanted)):
        program += INSTRUCTION.pack(code, passes, fails, (NETWORK_HEADER + k) & 0xFFFFFFFF if code in LOADS else k)
    return program


def _program(wanted: Callable[[int, Family], Iterable[Place]]) -> bytes:
    """All places, and at the end: nothing."""
    code = b""
    for begin, outside in _places():
        for family in Family:
            for head, alternatives in wanted(begin, family):
                body = b"".join(map(_alternative, alternatives))
                code += _head((*outside, *_is(begin, family), *head), len(body) // INSTRUCTION.size) + body
    return code + INSTRUCTION.pack(RETURN, 0, 0, NOTHING)


def _places() -> Iterator[tuple[int, Tests]]:
    """Where an IP header may begin, and the tests of what stands before it."""
    yield 0, ()
    for family, size, kind in ((Family.IPV4, 20, 9), (Family.IPV6, 40, 6)):
        for inner in (IP_IN_IP, IP6_IN_IP):
            yield size, (*_is(0, family), (LOAD_BYTE, kind), (EQUAL, inner))
        vxlan = (LOAD_BYTE, kind), (EQUAL, UDP), (LOAD_HALF, size + 2), (EQUAL, VXLAN_PORT)
        yield size + 8 + VXLAN_AND_ETHERNET, (*_is(0, family), *vxlan)


def _is(begin: int, family: Family) -> Tests:
    return (LOAD_BYTE, begin), (AND, 0xF0), (EQUAL, family.value << 4)


def _carries(protocol: int, begin: int, family: Family) -> Tests:
    """A protocol; the index is the length of an IPv4 header afterwards."""
    four = family is Family.IPV4
    head: Tests = ((LOAD_BYTE, begin + (9 if four else 6)), (EQUAL, protocol))
    if four:  # no later fragment, whose first bytes are no ports
        head = (*head, (LOAD_HALF, begin + 6), (ANY_BIT, 0x1FFF), (LOAD_HEADER_LENGTH, begin))
    return head


def _ports_at(begin: int, family: Family) -> tuple[int, int]:
    """How the half-words behind the IP header are loaded, and where the first is, once `_carries` has been tested."""
    return (LOAD_HALF_AT_X, begin) if family is Family.IPV4 else (LOAD_HALF, begin + 40)


def _flow_at(flow: Flow, begin: int) -> Place:
    load, ports = _ports_at(begin, flow.family)
    places = (0, 2) if flow.protocol in PORTED else (4, 6)  # an echo's identifier and number
    marked: list[Tests] = [((load, ports + place), (EQUAL, flow.mark)) for place in places if flow.mark]
    return _carries(flow.wire, begin, flow.family), [*marked, *_ends_at(flow, begin, load, ports)]


def _ends_at(flow: Flow, begin: int, load: int, ports: int) -> Iterator[Tests]:
    for end in flow.ends:
        for address, place in zip(_addresses(begin, ip_address(end.address)), (0, 2), strict=True):
            if flow.protocol in PORTED:
                yield *address, (load, ports + place), (EQUAL, end.port)
            elif not flow.mark:
                yield address


def _addresses(begin: int, host: IPAddress) -> tuple[Tests, Tests]:
    """As the source, and as the target."""
    size = len(host.packed)
    first = begin + (12 if size == 4 else 8)
    words = struct.unpack(f"!{size // 4}I", host.packed)
    source, target = (
        tuple(test for place, word in enumerate(words) for test in ((LOAD_WORD, start + 4 * place), (EQUAL, word)))
        for start in (first, first + size))
    return source, target


def _head(tests: Tests, behind: int) -> bytes:
    """The tests in a row, each followed by a far jump behind the whole place for when it fails."""
    sizes = [1 if code in (*LOADS, AND) else 2 for code, _ in tests]
    code = b""
    for number, (opcode, k) in enumerate(tests):
        if sizes[number] == 1:
            code += _instruction(opcode, k)
            continue
        far = sum(sizes[number + 1 :]) + behind
        passes, fails = (1, 0) if opcode == EQUAL else (0, 1)
        code += INSTRUCTION.pack(opcode, passes, fails, k) + INSTRUCTION.pack(JUMP, 0, 0, far)
    return code


def _alternative(tests: Tests) -> bytes:
    """The tests in a row; what fails one jumps behind, what passes all is taken whole."""
    code = b""
    for number, (opcode, k) in enumerate(tests):
        code += INSTRUCTION.pack(EQUAL, 0, len(tests) - number, k) if opcode == EQUAL else _instruction(opcode, k)
    return code + INSTRUCTION.pack(RETURN, 0, 0, WHOLE)


def _instruction(opcode: int, k: int) -> bytes:
    return INSTRUCTION.pack(opcode, 0, 0, k)
