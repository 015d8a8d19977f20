"""Connection tracking for those who watch: every flow with its state and counters, and news of those that ended.

Raw ctnetlink messages (linux/netfilter/nfnetlink_conntrack.h). Counters are there only where net.netfilter.nf_conntrack_acct is
on; nothing here switches it. Must not know: whose flows they are. Read next: `nodecore/kernel/conntrack.py`, which forgets some.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from nodecore.errors import NotFound
from nodecore.kernel.batch import NetlinkSocket, attribute, attributes
from nodecore.kernel.nfnetlink import NETLINK_NETFILTER, NFGENMSG, OVERFLOW, heard, open_socket
from nodecore.net import Family

CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102
GROUP_NEW, GROUP_DESTROY = 1, 3
ORIGINAL, REPLY, STATUS, PROTOINFO, COUNT_ORIGINAL, COUNT_REPLY, IDENTITY = 1, 2, 3, 4, 9, 10, 12
SEEN_REPLY, NESTED = 1 << 1, 0x8000
IPS = {Family.IPV4: (1, 2), Family.IPV6: (3, 4)}
ECHO = {1: ((4, 5, 6), (8, 0)), 58: ((7, 8, 9), (128, 129))}  # identifier, type and code; the types of request and reply
TCP_INFO, TCP_STATE = 1, 1
TCP_STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
              "SYN_SENT2")


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction's addresses and ports; an echo has its identifier as the port of who asks."""

    source: str
    source_port: int
    target: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Tracked:
    """One flow: as it was asked, as it is answered, how it stands; counters are None where the kernel does not count."""

    identity: int
    protocol: int
    asked: Tuple
    answered: Tuple
    state: str
    replied: bool
    packets: tuple[int, int] | None = None
    octets: tuple[int, int] | None = None


def look_up(protocol: int, asked: Tuple) -> Tracked | None:
    """The entry that a packet with these addresses and ports belongs to, in either direction; of an echo by its identifier."""
    here, there = ip_address(asked.source), ip_address(asked.target)
    family = Family.of(here)
    ips, number = IPS[family], attribute(1, bytes([protocol]))
    if protocol in ECHO:
        kinds, types = ECHO[protocol]
        reply = not asked.source_port
        values = (struct.pack("!H", asked.source_port or asked.target_port), bytes([types[reply]]), b"\0")
        ports = b"".join(attribute(kind, value) for kind, value in zip(kinds, values, strict=True))
    else:
        ports = attribute(2, struct.pack("!H", asked.source_port)) + attribute(3, struct.pack("!H", asked.target_port))
    addresses = attribute(ips[0], here.packed) + attribute(ips[1], there.packed)
    wanted = attribute(ORIGINAL | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, number + ports))
    with NetlinkSocket(protocol=NETLINK_NETFILTER) as sock, suppress(NotFound):
        return _tracked(attributes(sock.get(CT_GET, struct.pack("=BBH", family.af, 0, 0) + wanted, "conntrack"), NFGENMSG))
    return None


class FlowTable:
    """Listens from the moment it is made, in the network namespace this thread is in."""

    def __init__(self) -> None:
        self._news = open_socket(GROUP_DESTROY)

    def flows(self) -> list[Tracked]:
        """All there are now, of both families."""
        with NetlinkSocket(protocol=NETLINK_NETFILTER) as sock:
            heads = [struct.pack("=BBH", family, 0, 0) for family in (socket.AF_INET, socket.AF_INET6)]
            found = (_tracked(attributes(body, NFGENMSG)) for head in heads for body in sock.dump(CT_GET, head, "conntrack"))
            return [flow for flow in found if flow]

    def ended(self) -> tuple[list[Tracked], int]:
        """What ended since the last time, and how often news of that was lost: how much, nobody knows."""
        found: list[Tracked] = []
        lost = 0
        for item in heard(self._news):
            if item is OVERFLOW:
                lost += 1
            elif item.kind == CT_DELETE and (flow := _tracked(item.attributes)):
                found.append(flow)
        return found, lost

    def close(self) -> None:
        """Listen no more."""
        self._news.close()


def _tracked(parts: dict[int, bytes]) -> Tracked | None:
    if ORIGINAL not in parts or REPLY not in parts:
        return None
    protocol, asked = _tuple(parts[ORIGINAL])
    _, answered = _tuple(parts[REPLY])
    info = attributes(attributes(parts.get(PROTOINFO, b"")).get(TCP_INFO, b""))
    number = info[TCP_STATE][0] if TCP_STATE in info else 0
    counts = [attributes(parts[which]) for which in (COUNT_ORIGINAL, COUNT_REPLY) if which in parts]
    both = [(_number(each.get(1, b"")), _number(each.get(2, b""))) for each in counts]
    return Tracked(
        _number(parts.get(IDENTITY, b"")), protocol, asked, answered,
        TCP_STATES[number] if info and number < len(TCP_STATES) else "", bool(_number(parts.get(STATUS, b"")) & SEEN_REPLY),
        (both[0][0], both[1][0]) if len(both) == 2 else None, (both[0][1], both[1][1]) if len(both) == 2 else None)


def _tuple(payload: bytes) -> tuple[int, Tuple]:
    parts = attributes(payload)
    addresses, ports = attributes(parts.get(1, b"")), attributes(parts.get(2, b""))
    source, target = (next((addresses[kind] for kind in kinds if kind in addresses), b"\0\0\0\0") for kinds in ((1, 3), (2, 4)))
    here, there = (_number(ports.get(which, b"")) for which in (2, 3))
    protocol = _number(ports.get(1, b""))
    if protocol in ECHO:
        (number, kind, _), (request, _) = ECHO[protocol]
        identifier = _number(ports.get(number, b""))
        here, there = (identifier, 0) if _number(ports.get(kind, b"")) == request else (0, identifier)
    return protocol, Tuple(_address(source), here, _address(target), there)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
