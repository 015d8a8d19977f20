"""Which of the kernel's notifications are news: what others changed, and not the echo of our own writes.

Every write of ours comes back as a notification. Those of routes, addresses and neighbours carry the port id of the
socket that asked; forwarding entries and links do not, so what was last read or written of those is remembered and
compared. Whatever contradicts it is news. In doubt a thing is news: looking again costs time, missing it costs packets.

Pure: bytes in, yes or no out. Must not know: sockets. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

from nodecore.kernel import messages as nl
from nodecore.kernel.batch import attributes, messages_in
from nodecore.kernel.model import FdbEntry, Link, Neighbour, Scope, Wireguard
from nodecore.net import Family

Known = tuple[int, int, bytes]  # link, family, and whose entry it is
LINKS = (nl.RTM_NEWLINK, nl.RTM_DELLINK)
ADDRESSES = (nl.RTM_NEWADDR, nl.RTM_DELADDR)
NEIGHBOURS = (nl.RTM_NEWNEIGH, nl.RTM_DELNEIGH)


class Ledger:
    """What we believe to be there, as far as notifications are to be compared with it; `port` is our socket's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._scope = Scope()
        self._names: Mapping[int, str] = {}
        self._links: dict[int, Link] = {}
        self._ours: frozenset[int] = frozenset()
        self._entries: dict[Known, bytes] = {}

    def begin(self, scope: Scope, names: Mapping[int, str], links: Mapping[int, Link]) -> None:
        """A new reading: these links are ours or on our paths."""
        self._scope, self._names, self._links = scope, names, dict(links)
        self._ours = frozenset(index for index, link in links.items() if link.name not in scope.paths)
        self._entries = {}

    def put(self, entry: Neighbour | FdbEntry, index: int) -> None:
        """An entry is there, read or written."""
        known, value = _known(entry, index)
        self._entries[known] = value

    def remove(self, entry: Neighbour | FdbEntry, index: int) -> None:
        """An entry is gone."""
        self._entries.pop(_known(entry, index)[0], None)

    def is_news(self, data: bytes) -> bool:
        """Whether a datagram of notifications says anything we did not know."""
        return any(self._tells(kind, port, body) for kind, port, body in messages_in(data))

    def _tells(self, kind: int, port: int, body: bytes) -> bool:
        if kind in LINKS:
            return self._link(kind, body)
        if kind in NEIGHBOURS:
            return self._neighbour(kind, port, body)
        if port == self._port:
            return False
        if kind in ADDRESSES:
            return nl.IFADDR.unpack_from(body)[4] in self._ours and nl.read_address(body, {}) is not None
        route = nl.read_route(body, {})
        if route is None:
            return False
        (index,) = struct.unpack("=I", attributes(body, nl.RTMSG.size).get(nl.RTA_OIF, b"\0\0\0\0"))
        return index in self._ours or self._scope.owns_route(route)

    def _link(self, kind: int, body: bytes) -> bool:
        """Those of a family (bridge, IPv6) speak of something else than the device."""
        family, _, index, _, _ = nl.IFINFO.unpack_from(body)
        if family:
            return False
        found = attributes(body, nl.IFINFO.size)
        name = found.get(nl.IFLA_IFNAME, b"").rstrip(b"\0").decode()
        known = self._links.get(index)
        if known is None:
            return name in self._scope.links or name in self._scope.paths
        return kind == nl.RTM_DELLINK or _comparable(nl.read_link(body, self._names)[1]) != _comparable(known)

    def _neighbour(self, kind: int, port: int, body: bytes) -> bool:
        family, index, state, _, _ = nl.NDMSG.unpack_from(body)
        if index not in self._ours:
            return False
        found = attributes(body, nl.NDMSG.size)
        dst, mac = found.get(nl.NDA_DST, b""), found.get(nl.NDA_LLADDR, b"")
        if family == nl.AF_BRIDGE:
            if nl.NDA_CACHEINFO not in found:  # Linux 6.1 tells of each write twice, once without the rest
                return False
            known = self._entries.get((index, family, mac))
            value = dst
        elif port == self._port:
            return False
        else:
            known = self._entries.get((index, family, dst))
            value = mac
        if kind == nl.RTM_DELNEIGH:
            return known is not None
        permanent = bool(state & nl.NUD_PERMANENT)
        return not permanent if known == value else permanent or known is not None


def _known(entry: Neighbour | FdbEntry, index: int) -> tuple[Known, bytes]:
    mac = bytes.fromhex(entry.mac.replace(":", ""))
    if isinstance(entry, FdbEntry):
        return (index, nl.AF_BRIDGE, mac), entry.dst.packed
    return (index, Family.of(entry.address).af, entry.address.packed), mac


def _comparable(link: Link) -> Link:
    """What a notification tells of a link: a WireGuard device's own key is not in it."""
    return replace(link, tunnel=None) if isinstance(link.tunnel, Wireguard) else link
