"""Connection tracking: which flows the kernel remembers, and forgetting the ones that lead nowhere.

A flow that was sent to an endpoint keeps going there for as long as packets come, even when the endpoint is
long gone. Raw ctnetlink messages (linux/netfilter/nfnetlink_conntrack.h), standard library only: one dump, which
the kernel narrows to one protocol where it can, and one delete per stale flow.

Must not know: what makes a flow stale (the caller's `stale` says). Read next: `proxy/stale.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nodecore import errors
from nodecore.kernel.batch import HEADER, attribute, attributes
from nodecore.net import Family

NETLINK_NETFILTER = 12
CT_GET, CT_DELETE = 0x101, 0x102
F_REQUEST, F_ACK, F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_FILTER = 1, 2, 12, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
IP_SOURCE, IP_DESTINATION = (1, 3), (2, 4)  # IPv4 and IPv6 numbers of the same thing
PROTO_NUMBER, PROTO_SOURCE, PROTO_DESTINATION = 1, 2, 3
FILTER_ORIG_FLAGS, FILTER_BY_PROTOCOL = 1, 1 << 3
NESTED = 0x8000
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
BODY = 20  # nlmsghdr and nfgenmsg


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
    deleted = 0
    with _open() as sock:
        for identity in identities:
            sock.send(_message(CT_DELETE, F_REQUEST | F_ACK, family, identity))
            deleted += _acknowledged(sock.recv(1 << 16))
    return deleted


def _acknowledged(reply: bytes) -> bool:
    (code,) = struct.unpack_from("=i", reply, 16)
    if code not in (0, -2):  # gone by itself is as good
        raise errors.Fault(f"conntrack: {os.strerror(-code)}")
    return bool(code == 0)


def _dump(family: Family, protocol: int) -> Iterator[tuple[Flow, bytes]]:
    """Each flow with the attributes that identify it in a delete."""
    number = attribute(CTA_TUPLE_PROTO | NESTED, attribute(PROTO_NUMBER, bytes([protocol])))
    narrow = attribute(CTA_TUPLE_ORIG | NESTED, number)
    narrow += attribute(CTA_FILTER | NESTED, attribute(FILTER_ORIG_FLAGS, struct.pack("=I", FILTER_BY_PROTOCOL)))
    with _open() as sock:
        try:
            yield from _answers(sock, _message(CT_GET, F_REQUEST | F_DUMP, family, narrow), protocol)
        except errors.Invalid:  # a kernel before 5.8 knows no such filter
            yield from _answers(sock, _message(CT_GET, F_REQUEST | F_DUMP, family, b""), protocol)


def _answers(sock: socket.socket, request: bytes, protocol: int) -> Iterator[tuple[Flow, bytes]]:
    sock.send(request)
    while True:
        datagram = sock.recv(1 << 17)
        offset = 0
        while offset + BODY <= len(datagram):
            length, kind, _, _, _ = HEADER.unpack_from(datagram, offset)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", datagram, offset + 16)
                raise errors.Invalid(f"conntrack: {os.strerror(-code)}")
            found = _flow(datagram[offset + BODY : offset + length], protocol)
            if found:
                yield found
            offset += (length + 3) & ~3


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


def _message(kind: int, flags: int, family: Family, payload: bytes) -> bytes:
    body = struct.pack("=BBH", family.af, 0, 0) + payload
    return HEADER.pack(16 + len(body), kind, flags, 1, 0) + body


def _open() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise errors.Denied(f"conntrack: {error.strerror}") from None
    sock.settimeout(10)
    return sock
