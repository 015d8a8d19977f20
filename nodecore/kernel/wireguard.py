"""WireGuard devices: own key, port and peers, read and written over generic netlink, peers one by one and never flushed.

Layouts: linux/wireguard.h. A peer that moved, or is behind address translation, is followed by the kernel itself: it
takes the address an authentic packet came from. So of a peer that was heard of lately the endpoint is told as it was last
asked for, and only of one gone silent as the kernel has it, to be set again.

Must not know: leases, where keys are kept. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import socket
import struct
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from nodecore.errors import Fault
from nodecore.kernel.batch import attribute, attributes, each_attribute
from nodecore.kernel.genetlink import GenericSocket
from nodecore.kernel.model import Wireguard, WireguardPeer
from nodecore.net import Family, IPAddress, IPNetwork

FAMILY, VERSION = "wireguard", 1
GET_DEVICE, SET_DEVICE = 0, 1
DEVICE_IFNAME, DEVICE_PRIVATE_KEY, DEVICE_LISTEN_PORT, DEVICE_PEERS = 2, 3, 6, 8
PEER_PUBLIC_KEY, PEER_PRESHARED_KEY, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE, PEER_LAST_HANDSHAKE, PEER_ALLOWEDIPS = (
    1, 2, 3, 4, 5, 6, 9)
ALLOWED_FAMILY, ALLOWED_ADDRESS, ALLOWED_LENGTH = 1, 2, 3
REMOVE_ME, REPLACE_ALLOWEDIPS = 1, 2
NESTED = 0x8000
KEY_LENGTH = 32
NO_KEY = bytes(KEY_LENGTH)
SILENT = 180.0  # seconds; a session is given up by then
GLANCE, SHARE = 1.0, 0.01  # seconds between two looks for changes by others; what of the time looking may take
ENDPOINTS = {Family.IPV4: struct.Struct("=H2s4s8x"), Family.IPV6: struct.Struct("=H2s4x16s4x")}
NETWORKS_A_MESSAGE = 500

Endpoint = tuple[IPAddress, int]
Told = dict[tuple[str, str], Endpoint | None]
Known = tuple[Wireguard, dict[str, WireguardPeer]]


class WireguardDevices:
    """The WireGuard side of the devices of a network namespace."""

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._socket: GenericSocket | None = None
        self._told: Told = {}
        self._known: dict[str, Known] = {}  # as last read and since written
        self._due = 0.0

    def read(self, name: str) -> tuple[Wireguard, frozenset[WireguardPeer]]:
        """A device, and its peers as far as they differ from what was asked for."""
        body = attribute(DEVICE_IFNAME, name.encode() + b"\0")
        device, peers = Wireguard(), dict[str, tuple[WireguardPeer, float]]()
        for answer in self._open().dump(GET_DEVICE, body):
            device = read_device(answer) or device
            for peer, handshake in read_peers(name, answer):
                before = peers.get(peer.public_key)  # one that is too large for a message goes on in the next
                peers[peer.public_key] = (
                    (replace(before[0], allowed=before[0].allowed | peer.allowed), before[1]) if before else (peer, handshake))
        found = {key: self._as_asked(peer, handshake) for key, (peer, handshake) in peers.items()}
        self._known[name] = device, found
        return device, frozenset(found.values())

    def has_news(self) -> bool:
        """Whether others changed a device since; looks only so often that it costs little."""
        begin = time.monotonic()
        if begin < self._due:
            return False
        news = [self._differs(name, before) for name, before in tuple(self._known.items())]
        self._due = begin + max(GLANCE, (time.monotonic() - begin) / SHARE)
        return any(news)

    def _differs(self, name: str, before: Known) -> bool:
        try:
            self.read(name)
        except Fault:  # it is gone, which is told otherwise, or changes just now
            return False
        return self._known[name] != before

    def _as_asked(self, peer: WireguardPeer, handshake: float) -> WireguardPeer:
        asked = self._told.get((peer.link, peer.public_key))
        return replace(peer, endpoint=asked) if asked and time.time() - handshake < SILENT else peer

    def _peers(self, name: str) -> dict[str, WireguardPeer]:
        return self._known.setdefault(name, (Wireguard(), {}))[1]

    def configure(self, name: str, device: Wireguard) -> None:
        """Give a device its key and port."""
        self._known[name] = device, self._peers(name)
        for fault in self._open().send(SET_DEVICE, [pack_device(name, device)]):
            if fault:
                raise fault

    def put(self, peers: Sequence[WireguardPeer]) -> list[Fault | None]:
        """Add peers or change them; one answer each."""
        messages = [(index, body) for index, peer in enumerate(peers) for body in pack_peer(peer)]
        answers: list[Fault | None] = [None] * len(peers)
        for (index, _), fault in zip(messages, self._open().send(SET_DEVICE, [body for _, body in messages]), strict=True):
            answers[index] = answers[index] or fault
        for peer, fault in zip(peers, answers, strict=True):
            if not fault:
                self._told[peer.link, peer.public_key] = peer.endpoint
                self._peers(peer.link)[peer.public_key] = peer
        return answers

    def remove(self, peers: Sequence[WireguardPeer]) -> list[Fault | None]:
        """Take peers away."""
        for peer in peers:
            self._told.pop((peer.link, peer.public_key), None)
            self._peers(peer.link).pop(peer.public_key, None)
        return self._open().send(SET_DEVICE, [pack_removal(peer) for peer in peers])

    def _open(self) -> GenericSocket:
        self._socket = self._socket or GenericSocket(FAMILY, VERSION, self._netns)
        return self._socket

    def close(self) -> None:
        """Close the socket; the devices stay."""
        if self._socket:
            self._socket.close()


def pack_device(name: str, device: Wireguard) -> bytes:
    """A message that sets key and port."""
    return (
        attribute(DEVICE_IFNAME, name.encode() + b"\0") + attribute(DEVICE_PRIVATE_KEY, device.private_key or NO_KEY)
        + attribute(DEVICE_LISTEN_PORT, struct.pack("=H", device.port))
    )


def pack_peer(peer: WireguardPeer) -> Iterable[bytes]:
    """The messages that make a peer what it should be: one, unless it has very many networks."""
    networks = sorted(peer.allowed, key=lambda network: (network.version, network))
    chunks = [networks[at : at + NETWORKS_A_MESSAGE] for at in range(0, len(networks), NETWORKS_A_MESSAGE)] or [[]]
    key = attribute(PEER_PUBLIC_KEY, b64decode(peer.public_key))
    body = key + attribute(PEER_FLAGS, struct.pack("=I", REPLACE_ALLOWEDIPS))
    body += attribute(PEER_PRESHARED_KEY, peer.psk or NO_KEY) + attribute(PEER_KEEPALIVE, struct.pack("=H", peer.keepalive))
    if peer.endpoint:
        body += attribute(PEER_ENDPOINT, pack_endpoint(peer.endpoint))
    for chunk in chunks:
        yield _about(peer, body + attribute(PEER_ALLOWEDIPS | NESTED, b"".join(map(_pack_network, chunk))))
        body = key


def pack_removal(peer: WireguardPeer) -> bytes:
    """A message that takes a peer away."""
    flags = attribute(PEER_FLAGS, struct.pack("=I", REMOVE_ME))
    return _about(peer, attribute(PEER_PUBLIC_KEY, b64decode(peer.public_key)) + flags)


def _about(peer: WireguardPeer, body: bytes) -> bytes:
    name = attribute(DEVICE_IFNAME, peer.link.encode() + b"\0")
    return name + attribute(DEVICE_PEERS | NESTED, attribute(NESTED, body))


def pack_endpoint(endpoint: Endpoint) -> bytes:
    """A socket address as C has it."""
    address, port = endpoint
    family = Family.of(address)
    return ENDPOINTS[family].pack(family.af, struct.pack("!H", port), address.packed)


def read_endpoint(raw: bytes) -> Endpoint | None:
    """And back."""
    (af,) = struct.unpack_from("=H", raw)
    family = {socket.AF_INET: Family.IPV4, socket.AF_INET6: Family.IPV6}.get(af)
    if not family:
        return None
    _, port, packed = ENDPOINTS[family].unpack_from(raw)
    return ip_address(packed), int.from_bytes(port, "big")


def _pack_network(network: IPNetwork) -> bytes:
    family = Family.of(network)
    return attribute(NESTED, (
        attribute(ALLOWED_FAMILY, struct.pack("=H", family.af))
        + attribute(ALLOWED_ADDRESS, network.network_address.packed) + attribute(ALLOWED_LENGTH, bytes([network.prefixlen]))
    ))


def read_device(body: bytes) -> Wireguard | None:
    """Key and port, None in a message that only goes on with the peers."""
    found = attributes(body)
    if DEVICE_LISTEN_PORT not in found:
        return None
    key = found.get(DEVICE_PRIVATE_KEY, NO_KEY)
    return Wireguard(b"" if key == NO_KEY else key, struct.unpack("=H", found[DEVICE_LISTEN_PORT])[0])


def read_peers(link: str, body: bytes) -> Iterable[tuple[WireguardPeer, float]]:
    """The peers in one message, each with the time of its last handshake."""
    for _, raw in each_attribute(attributes(body).get(DEVICE_PEERS, b"")):
        yield _read_peer(link, attributes(raw))


def _read_peer(link: str, found: Mapping[int, bytes]) -> tuple[WireguardPeer, float]:
    psk = found.get(PEER_PRESHARED_KEY, NO_KEY)
    seconds, nanoseconds = struct.unpack("=qq", found.get(PEER_LAST_HANDSHAKE, bytes(16)))
    peer = WireguardPeer(
        link, b64encode(found[PEER_PUBLIC_KEY]).decode(), read_endpoint(found[PEER_ENDPOINT]) if PEER_ENDPOINT in found else None,
        frozenset(_read_network(attributes(raw)) for _, raw in each_attribute(found.get(PEER_ALLOWEDIPS, b""))),
        struct.unpack("=H", found.get(PEER_KEEPALIVE, b"\0\0"))[0], b"" if psk == NO_KEY else psk,
    )
    return peer, seconds + nanoseconds / 1e9


def _read_network(found: Mapping[int, bytes]) -> IPNetwork:
    packed = found[ALLOWED_ADDRESS]
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return ip_network((address, found[ALLOWED_LENGTH][0]))
