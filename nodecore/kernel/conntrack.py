"""Connection tracking: which flows the kernel remembers, and forgetting the ones that lead nowhere.

A flow that was sent to an endpoint keeps going there for as long as packets come, even when the endpoint is
long gone. Raw ctnetlink messages (linux/netfilter/nfnetlink_conntrack.h), standard library only: one dump, which
the kernel narrows to one protocol where it can, and one delete per stale flow.

Must not know: what makes a flow stale (the caller's `stale` says). Read next: `proxy/stale.py`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nodecore import errors
from nodecore.kernel.batch import Message, NetlinkSocket, attribute, attributes
from nodecore.kernel.nfnetlink import NETLINK_NETFILTER, NFGENMSG
from nodecore.net import Family

CT_GET, CT_DELETE = 0x101, 0x102
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_FILTER = 1, 2, 12, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
IP_SOURCE, IP_DESTINATION = (1, 3), (2, 4)  # IPv4 and IPv6 numbers of the same thing
PROTO_NUMBER, PROTO_SOURCE, PROTO_DESTINATION = 1, 2, 3
FILTER_ORIG_FLAGS, FILTER_BY_PROTOCOL = 1, 1 << 3
NESTED = 0x8000
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow: where it was sent to, and who it came to be answered by (the same where nothing was translated).

    `seen_source` is who that one takes for the source.
    """

    source: str
    source_port: int
    destination: str
    port: int
    endpoint: str
    endpoint_port: int
    seen_source: str = ""
    seen_source_port: int = 0


class Conntrack:
    """The connection tracking table of the network namespace this process lives in."""

    async def list_flows(self, family: Family, protocol: str) -> list[Flow]:
        """Every flow of a family and protocol."""
        return await asyncio.to_thread(lambda: [flow for flow, _ in _dump(family, PROTOCOLS[protocol])])

    async def delete_flows(self, family: Family, protocol: str, stale: Callable[[Flow], bool]) -> int:
        """Forget the flows of a protocol that `stale` picks; says how many there were."""
        return await asyncio.to_thread(_delete, family, PROTOCOLS[protocol], stale)


def _delete(family: Family, protocol: int, stale: Callable[[Flow], bool]) -> int:
    identities = [identity for flow, identity in _dump(family, protocol) if stale(flow)]
    if not identities:
        return 0
    with NetlinkSocket(protocol=NETLINK_NETFILTER) as sock:
        answers = sock.send([Message(CT_DELETE, 0, _head(family) + identity) for identity in identities])
    for fault in answers:
        if fault and not isinstance(fault, errors.NotFound):  # gone by itself is as good
            raise type(fault)(f"conntrack: {fault}")
    return answers.count(None)


def _dump(family: Family, protocol: int) -> Iterator[tuple[Flow, bytes]]:
    """Each flow with the attributes that identify it in a delete."""
    number = attribute(CTA_TUPLE_PROTO | NESTED, attribute(PROTO_NUMBER, bytes([protocol])))
    narrow = attribute(CTA_TUPLE_ORIG | NESTED, number)
    narrow += attribute(CTA_FILTER | NESTED, attribute(FILTER_ORIG_FLAGS, struct.pack("=I", FILTER_BY_PROTOCOL)))
    with NetlinkSocket(protocol=NETLINK_NETFILTER) as sock:
        try:
            found = sock.dump(CT_GET, _head(family) + narrow, "conntrack")
            yield from filter(None, (_flow(body[NFGENMSG:], protocol) for body in found))
        except errors.Invalid:  # a kernel before 5.8 knows no such filter
            found = sock.dump(CT_GET, _head(family), "conntrack")
            yield from filter(None, (_flow(body[NFGENMSG:], protocol) for body in found))


def _flow(payload: bytes, protocol: int) -> tuple[Flow, bytes] | None:
    parts = attributes(payload)
    original, reply = (_tuple(parts.get(which, b""), protocol) for which in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    if not original or not reply:
        return None
    identity = attribute(CTA_TUPLE_ORIG | NESTED, parts[CTA_TUPLE_ORIG])
    if CTA_ID in parts:
        identity += attribute(CTA_ID, parts[CTA_ID])
    return Flow(*original, *reply), identity


def _tuple(payload: bytes, protocol: int) -> tuple[str, int, str, int] | None:
    parts = attributes(payload)
    addresses, ports = attributes(parts.get(CTA_TUPLE_IP, b"")), attributes(parts.get(CTA_TUPLE_PROTO, b""))
    if ports.get(PROTO_NUMBER) != bytes([protocol]):
        return None
    source, destination = (next(addresses[kind] for kind in kinds if kind in addresses) for kinds in (IP_SOURCE, IP_DESTINATION))
    return (_address(source), int.from_bytes(ports[PROTO_SOURCE], "big"),
            _address(destination), int.from_bytes(ports[PROTO_DESTINATION], "big"))


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _head(family: Family) -> bytes:
    return struct.pack("=BBH", family.af, 0, 0)
