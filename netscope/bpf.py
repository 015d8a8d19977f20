"""What is looked for, as a classic BPF program, so that the kernel hands over nothing else: pure.

Programs count from the network header, where the packets of taps begin (`filters.py` moves them for rings). Looked at: the
packet itself, and the one inside IP in IP or VXLAN. At each place a header may begin, a head of tests says whether it does, and
alternatives say whether it is one of ours; what fails the head goes on behind the place, what fails an alternative to the next.

Must not know: sockets. Read next: `nodecore/kernel/tap.py`, `nodecore/kernel/ring.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

from netscope.flow import ICMP, ICMPV6, PORTED, TCP, UDP, Flow
from netscope.headers import ETHERTYPES, IP6_IN_IP, IP_IN_IP, VXLAN, VXLAN_AND_ETHERNET, VXLAN_FLAGS
from nodecore.net import Family, IPAddress

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # ld, ldh, ldb [k]
LOAD_WORD_AT_X, LOAD_HALF_AT_X, LOAD_BYTE_AT_X, LOAD_HEADER_LENGTH = 0x40, 0x48, 0x50, 0xB1  # [x + k]; ldx 4*([k]&0xf)
AND, EQUAL, AT_LEAST, ANY_BIT, RETURN, JUMP = 0x54, 0x15, 0x35, 0x45, 0x06, 0x05
LOADS, LOADS_AT_X = (LOAD_WORD, LOAD_HALF, LOAD_BYTE), (LOAD_WORD_AT_X, LOAD_HALF_AT_X, LOAD_BYTE_AT_X)
NO_TESTS = (*LOADS, *LOADS_AT_X, LOAD_HEADER_LENGTH, AND)
RST = 4
MOST_VALUES = 200  # a jump within alternatives is shorter than 256
FRAGMENT = 44  # the header of a fragment of IPv6
INSTRUCTION = struct.Struct("=HBBI")
WHOLE, NOTHING = 0x40000, 0
LARGEST = 2400 * INSTRUCTION.size  # 4096 instructions are allowed, but kernels before 6.7 have 20 kB for them (optmem_max)

Test = tuple[int, int]  # an opcode and its k: EQUAL and AT_LEAST go on where it is so, ANY_BIT where none of the bits is set
Tests = tuple[Test, ...]
Place = tuple[Tests, Iterable[Tests]]  # the head, and the alternatives


def of_flow(flow: Flow) -> bytes:
    """Packets that bear the flow's mark as a port, or go to or come from one of its ends."""
    return _program(lambda begin, family: [_flow_at(flow, begin)] if family is flow.family else [])


def of_resets() -> bytes:
    """TCP packets that end a connection at once."""
    def resets(begin: int, family: Family) -> Iterator[Place]:
        load, flags = (LOAD_BYTE_AT_X, begin + 13) if family is Family.IPV4 else (LOAD_BYTE, begin + 40 + 13)
        yield _carries(TCP, begin, family), [((load, flags), (AND, RST), (EQUAL, RST))]

    return _program(resets)


def of_ends(ends: Iterable[tuple[IPAddress, int, int]], protocol: int = 0, ports: Sequence[int] = ()) -> bytes:
    """Packets to or from one of these ends (address, port, protocol) and one of these ports, of that protocol; 0 or none: any.

    Fragments behind the first bear no ports: but of TCP, which makes none, they are taken for any.
    """
    known = tuple(ends)

    def wanted(begin: int, family: Family) -> Iterator[Place]:
        mine = [end for end in known if Family.of(end[0]) is family and (not protocol or end[2] in (0, protocol))]
        if known and not mine:
            return
        everybody = [tests for host, _, _ in mine for tests in _addresses(begin, host)] or [()]
        if not protocol and not ports and not any(port for _, port, _ in mine):
            yield (), everybody
            return
        numbers = [protocol] if protocol else PORTED
        for number in numbers:
            yield _carries(_wire(number, family), begin, family), [
                (*port, *end) for port in _either(begin, family, ports) for end in _ends_of(mine, number, begin, family)]
        if not protocol and not ports:
            yield (), [tests for host, port, _ in mine if not port for tests in _addresses(begin, host)]
        parts = [tests for host, port, kind in mine if (protocol or kind) != TCP and (port or protocol or ports)
                 for tests in _addresses(begin, host)]
        if parts or (not mine and protocol != TCP):
            yield _is_fragment(_wire(protocol, family), begin, family), parts or [()]

    return _program(wanted)


def _either(begin: int, family: Family, ports: Sequence[int]) -> list[Tests]:
    """One of the ports at one end."""
    load, at = _ports_at(begin, family)
    return [((load, at + place), (EQUAL, port)) for place in (0, 2) for port in ports] or [()]


def _ends_of(ends: Iterable[tuple[IPAddress, int, int]], number: int, begin: int, family: Family) -> list[Tests]:
    """One of the ends at one end: its port first, which many may have in common."""
    load, at = _ports_at(begin, family)
    found: list[Tests] = []
    known = False
    for host, port, protocol in ends:
        known = True
        if protocol in (0, number):
            found += [(*(((load, at + place), (EQUAL, port)) if port else ()), *address)
                      for address, place in zip(_addresses(begin, host), (0, 2), strict=True)]
    return found if known else [()]


def of_everything() -> bytes:
    """Every packet."""
    return INSTRUCTION.pack(RETURN, 0, 0, WHOLE)


def _program(wanted: Callable[[int, Family], Iterable[Place]]) -> bytes:
    """All places, and at the end: nothing."""
    code = b""
    for begin, outside, families in places():
        for family in families:
            for before, alternatives in wanted(begin, family):
                body = _alternatives(alternatives)
                code += head((*outside, *_is(begin, family), *before), len(body) // INSTRUCTION.size) + body
    return code + INSTRUCTION.pack(RETURN, 0, 0, NOTHING)


def places() -> Iterator[tuple[int, Tests, Sequence[Family]]]:
    """Where an IP header may begin, of which family, and the tests of what stands before it; first the packet itself."""
    yield 0, (), [*Family]
    for family, size, kind in ((Family.IPV4, 20, 9), (Family.IPV6, 40, 6)):
        for inside, inner in ((Family.IPV4, IP_IN_IP), (Family.IPV6, IP6_IN_IP)):
            yield size, (*_is(0, family), (LOAD_BYTE, kind), (EQUAL, inner)), [inside]
        vxlan = (LOAD_BYTE, kind), (EQUAL, UDP), (LOAD_BYTE, size + 8), (AND, VXLAN_FLAGS), (EQUAL, VXLAN)
        begin = size + 8 + VXLAN_AND_ETHERNET
        for inside in Family:
            yield begin, (*_is(0, family), *vxlan, (LOAD_HALF, begin - 2), (EQUAL, ETHERTYPES[inside])), [inside]


def _is(begin: int, family: Family) -> Tests:
    return (LOAD_BYTE, begin), (AND, 0xF0), (EQUAL, family.value << 4)


def _carries(protocol: int, begin: int, family: Family) -> Tests:
    """A protocol; the index is the length of an IPv4 header afterwards."""
    four = family is Family.IPV4
    head: Tests = ((LOAD_BYTE, begin + (9 if four else 6)), (EQUAL, protocol))
    if four:  # no later fragment, whose first bytes are no ports
        head = (*head, (LOAD_HALF, begin + 6), (ANY_BIT, 0x1FFF), (LOAD_HEADER_LENGTH, begin))
    return head


def _is_fragment(protocol: int, begin: int, family: Family) -> Tests:
    """A fragment behind the first one; of IPv6 any. Of this protocol, where one is given."""
    if family is Family.IPV4:
        kind: Tests = ((LOAD_BYTE, begin + 9), (EQUAL, protocol)) if protocol else ()
        return (*kind, (LOAD_HALF, begin + 6), (AND, 0x1FFF), (AT_LEAST, 1))
    kind = ((LOAD_BYTE, begin + 40), (EQUAL, protocol)) if protocol else ()
    return (LOAD_BYTE, begin + 6), (EQUAL, FRAGMENT), *kind


def _wire(protocol: int, family: Family) -> int:
    return ICMPV6 if protocol == ICMP and family is Family.IPV6 else protocol


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
                yield (load, ports + place), (EQUAL, end.port), *address
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


def head(tests: Tests, behind: int) -> bytes:
    """The tests in a row, each followed by a far jump behind the whole place for when it fails."""
    sizes = [1 if code in NO_TESTS else 2 for code, _ in tests]
    code = b""
    for number, (opcode, k) in enumerate(tests):
        if sizes[number] == 1:
            code += _instruction(opcode, k)
            continue
        far = sum(sizes[number + 1 :]) + behind
        passes, fails = (0, 1) if opcode == ANY_BIT else (1, 0)
        code += INSTRUCTION.pack(opcode, passes, fails, k) + INSTRUCTION.pack(JUMP, 0, 0, far)
    return code


def _alternatives(found: Iterable[Tests]) -> bytes:
    """One after the other; those that differ in nothing but the value of their last test are one, with many values."""
    grouped: dict[Tests, dict[int, None]] = {}
    for tests in found:
        if not tests:
            return INSTRUCTION.pack(RETURN, 0, 0, WHOLE)
        grouped.setdefault(tests[:-1], {})[tests[-1][1]] = None
    return b"".join(_any_of(before, values[begin : begin + MOST_VALUES]) for before, values in
                    ((before, [*values]) for before, values in grouped.items()) for begin in range(0, len(values), MOST_VALUES))


def _any_of(before: Tests, values: Sequence[int]) -> bytes:
    """The tests in a row, and at last one of the values; what fails jumps behind, what passes all is taken whole."""
    count = len(before) + len(values)
    code = b""
    for number, (opcode, k) in enumerate(before):
        code += INSTRUCTION.pack(EQUAL, 0, count - number, k) if opcode == EQUAL else _instruction(opcode, k)
    for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        code += INSTRUCTION.pack(EQUAL, left, 0 if left else 1, value)
    return code + INSTRUCTION.pack(RETURN, 0, 0, WHOLE)


def _instruction(opcode: int, k: int) -> bytes:
    return INSTRUCTION.pack(opcode, 0, 0, k)
