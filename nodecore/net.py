"""Address values: one `Family` parameter instead of v4/v6 twins.

Values only. Read next: `nodecore/kernel/model.py`.
"""

from __future__ import annotations

import socket
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from nodecore.errors import UserError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Family(Enum):
    """An IP version, with everything that differs between the two and nothing that does not."""

    IPV4 = 4
    IPV6 = 6

    @property
    def bits(self) -> int:
        """Length of an address in bits."""
        return 32 if self is Family.IPV4 else 128

    @property
    def af(self) -> socket.AddressFamily:
        """The socket address family."""
        return socket.AF_INET if self is Family.IPV4 else socket.AF_INET6

    @property
    def nft(self) -> str:
        """The nftables family and address keyword: `ip` or `ip6`."""
        return "ip" if self is Family.IPV4 else "ip6"

    @property
    def multicast(self) -> str:
        """The multicast block, as rules write it."""
        return "224.0.0.0/4" if self is Family.IPV4 else "ff00::/8"

    @classmethod
    def of(cls, value: IPAddress | IPNetwork) -> Family:
        """The family of an address or network."""
        return cls(value.version)


def read_address(text: str) -> IPAddress:
    """An address as the outside world writes it, or `ValueError`.

    A zone (`fe80::1%eth0`) is refused: Python lets it be any text, and addresses become words of rules and command lines.
    """
    return ip_address(_without_zone(text))


def read_network(text: str, *, strict: bool = True) -> IPNetwork:
    """A network likewise; host bits are refused, or dropped where not `strict`."""
    return ip_network(_without_zone(text), strict=strict)


def _without_zone(text: str) -> str:
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return text


def parse_address(text: str, *, what: str = "address") -> IPAddress:
    """Read an IP address, or raise `UserError` naming `what` was wrong."""
    try:
        return read_address(text.strip())
    except ValueError:
        raise UserError(f"{what}: {text!r} is not an IP address") from None


def parse_network(text: str, *, what: str = "network") -> IPNetwork:
    """Read a CIDR whose host bits are zero, or raise `UserError` naming `what` was wrong."""
    try:
        return read_network(text.strip())
    except ValueError as error:
        raise UserError(f"{what}: {text!r} is not a network in CIDR form ({error})") from None
