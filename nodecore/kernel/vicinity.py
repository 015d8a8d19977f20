"""Who lives behind which device of this network namespace, as far as the kernel has met them: four dumps, no library.

Must not know: who is looked for. Read next: `nodecore/kernel/batch.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodecore.errors import Fault
from nodecore.kernel import messages as nl
from nodecore.kernel.batch import NetlinkSocket, attribute, attributes
from nodecore.net import Family, IPAddress

IFLA_MASTER, IFLA_LINK_NETNSID = 10, 37

Entries = dict[int, list[tuple[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Device:
    """`elsewhere`: its other end is in another namespace; `bridge`: the number of the one it is a port of; `macs` were met behind
    it, and `addresses` of one family, as packed bytes, with their MAC.
    """

    name: str
    index: int
    bridge: int
    elsewhere: bool
    macs: frozenset[bytes]
    addresses: dict[bytes, bytes]


def read_devices(family: Family) -> tuple[Device, ...]:
    """All of this namespace."""
    with NetlinkSocket() as sock:
        links = list(sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0)))
        behind = _entries(sock, nl.AF_BRIDGE)
        neighbours = _entries(sock, family.af)
    return tuple(_device(body, behind, neighbours) for body in links)


def ways_out(addresses: Iterable[IPAddress]) -> dict[bytes, int]:
    """The number of the device that a packet to each would leave by; nothing of those it would not leave for."""
    found: dict[bytes, int] = {}
    with NetlinkSocket() as sock:
        for address in addresses:
            family = Family.of(address)
            request = nl.RTMSG.pack(family.af, family.bits, 0, 0, 0, 0, 0, 0, 0) + attribute(nl.RTA_DST, address.packed)
            try:
                body = sock.get(nl.RTM_GETROUTE, request, f"route to {address}")
            except Fault:
                continue
            (found[address.packed],) = nl.U32.unpack(attributes(body, nl.RTMSG.size).get(nl.RTA_OIF, bytes(4)))
    return found


def _entries(sock: NetlinkSocket, family: int) -> Entries:
    """By device: MAC and address (none in a bridge's table) of whoever was met, the bridges' own ports left out."""
    found: Entries = {}
    for body in sock.dump(nl.RTM_GETNEIGH, nl.NDMSG.pack(family, 0, 0, 0, 0)):
        _, index, state, _, _ = nl.NDMSG.unpack_from(body)
        entry = attributes(body, nl.NDMSG.size)
        if nl.NDA_LLADDR in entry and not (family == nl.AF_BRIDGE and state & nl.NUD_PERMANENT):
            found.setdefault(index, []).append((entry[nl.NDA_LLADDR], entry.get(nl.NDA_DST, b"")))
    return found


def _device(body: bytes, behind: Entries, neighbours: Entries) -> Device:
    index, found = nl.IFINFO.unpack_from(body)[2], attributes(body, nl.IFINFO.size)
    (bridge,) = nl.U32.unpack(found.get(IFLA_MASTER, bytes(4)))
    met = frozenset(mac for mac, _ in behind.get(index, ()))
    known = [(mac, address) for mac, address in neighbours.get(bridge or index, ()) if not bridge or mac in met]
    return Device(nl.link_name(body)[1], index, bridge, IFLA_LINK_NETNSID in found, met or frozenset(mac for mac, _ in known),
                  {address: mac for mac, address in known})
