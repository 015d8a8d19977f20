"""What can be asked about the machine we are on: its devices, which way a packet would leave, and news of one device.

Must not know: what an underlay is. Read next: `nodecore/kernel/ports.py`.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface

from nodecore.errors import Fault
from nodecore.kernel import messages as nl
from nodecore.kernel.batch import NetlinkSocket, attribute, attributes, messages_in
from nodecore.kernel.ethtool import driver_of
from nodecore.kernel.messages import link_name
from nodecore.kernel.model import Address, Link
from nodecore.kernel.ports import Interface, Path
from nodecore.net import Family, IPAddress

RTM_GETNSID, NETNSA_NSID, NETNSA_FD = 90, 1, 3
RTGENMSG = bytes(4)  # struct rtgenmsg: no address family, and padding


class KernelHost:
    """What can be asked about the machine we are on."""

    def __init__(self, netns: str = "") -> None:
        self._netns = netns

    @contextmanager
    def _socket(self) -> Iterator[NetlinkSocket]:
        with NetlinkSocket(self._netns) as sock:
            yield sock

    def interfaces(self) -> tuple[Interface, ...]:
        """Every device, with its addresses, in the kernel's order."""
        with self._socket() as sock:
            bodies = list(sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0)))
            names = dict(map(link_name, bodies))
            found: list[Address] = []
            for family in Family:
                for body in sock.dump(nl.RTM_GETADDR, nl.IFADDR.pack(family.af, 0, 0, 0, 0)):
                    address = nl.read_address(body, names)
                    if address:
                        found.append(address)
            links = [nl.read_link(body, names)[1] for body in bodies]
        return tuple(_interface(link, [a for a in found if a.link == link.name]) for link in links)

    def path_to(self, address: IPAddress) -> Path:
        """The kernel's routing decision."""
        family = Family.of(address)
        request = nl.RTMSG.pack(family.af, family.bits, 0, 0, 0, 0, 0, 0, 0) + attribute(nl.RTA_DST, address.packed)
        with self._socket() as sock:
            found = attributes(sock.get(nl.RTM_GETROUTE, request, f"route to {address}"), nl.RTMSG.size)
            names = dict(map(link_name, sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0))))
        (index,) = struct.unpack("=I", found[nl.RTA_OIF])
        source, gateway = found.get(nl.RTA_PREFSRC), found.get(nl.RTA_GATEWAY)
        return Path(names[index], ip_address(source) if source else None, ip_address(gateway) if gateway else None)

    def leads_to(self, netns: str) -> bool:
        """Whether a link of this network namespace has its other end in the one at that path (or ever had)."""
        with open(netns, "rb") as other, self._socket() as sock:
            request = RTGENMSG + attribute(NETNSA_FD, struct.pack("=I", other.fileno()))
            found = attributes(sock.get(RTM_GETNSID, request, netns), len(RTGENMSG))
        return bool(struct.unpack("=i", found[NETNSA_NSID])[0] >= 0)

    def driver(self, link: str) -> str:
        """The name of its driver, empty where it has none."""
        try:
            return driver_of(link, self._netns)
        except Fault:
            return ""

    async def changes(self, link: str) -> AsyncIterator[None]:
        """Yields when that device came, went or changed, or its addresses did."""
        from nodecore.kernel.notify import notifications  # asyncio, which a reader at once has no use for

        index = 0
        async for data in notifications(self._netns, (1, 5, 9)):
            news = data is None
            for kind, _, body in messages_in(data or b""):
                if kind in (nl.RTM_NEWADDR, nl.RTM_DELADDR):
                    news |= nl.IFADDR.unpack_from(body)[4] == index
                elif link_name(body)[1] == link:
                    index, news = link_name(body)[0], True
            if news:
                index = index or self._index(link)
                yield None

    def _index(self, link: str) -> int:
        with self._socket() as sock:
            names = dict(map(link_name, sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0))))
        return next((index for index, name in names.items() if name == link), 0)

    def link(self, name: str) -> Link | None:
        """One device with all its parameters."""
        with self._socket() as sock:
            bodies = list(sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0)))
        names = dict(map(link_name, bodies))
        return next((nl.read_link(body, names)[1] for body in bodies if link_name(body)[1] == name), None)


def _interface(link: Link, addresses: Sequence[Address]) -> Interface:
    networks = tuple(ip_interface((a.address, a.prefix)).network for a in addresses)
    return Interface(link.name, link.mtu, link.up, tuple(a.address for a in addresses), networks)
