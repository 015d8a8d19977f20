"""The lease: which subnet a node has, where it is reached, and what its backend needs to know of it.

In etcd a lease is one key, `<prefix>/subnets/10.5.52.0-24` (with `&fd00:5:1::-64` where there are two families),
and one JSON value, byte for byte as Go flanneld writes them.

Pure. Must not know: etcd's leases and revisions. Read next: `flanneld_py/alloc.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from nodecore.errors import Invalid
from nodecore.net import Family, IPAddress, IPNetwork

KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([0-9a-fA-F:]+)-(\d+))?")
NO_SUBNET = "0.0.0.0-0"
NO_ADDRESS = "0.0.0.0"
JSON_KEYS = {Family.IPV4: ("PublicIP", "BackendData"), Family.IPV6: ("PublicIPv6", "BackendV6Data")}


@dataclass(frozen=True, slots=True)
class Part:
    """One family of a lease; `public_ip` may be missing in a reservation."""

    subnet: IPNetwork
    public_ip: IPAddress | None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The family of the subnet."""
        return Family.of(self.subnet)


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's subnets, one part a family."""

    parts: tuple[Part, ...]
    backend: str = "vxlan"

    def part(self, family: Family) -> Part | None:
        """What it says of one family."""
        return next((part for part in self.parts if part.family is family), None)

    @property
    def key(self) -> str:
        """Its name below `<prefix>/subnets/`."""
        texts = {part.family: f"{part.subnet.network_address}-{part.subnet.prefixlen}" for part in self.parts}
        text = texts.get(Family.IPV4, NO_SUBNET)
        return f"{text}&{texts[Family.IPV6]}" if Family.IPV6 in texts else text

    def describe(self) -> str:
        """In words."""
        subnets = " and ".join(str(part.subnet) for part in self.parts)
        owners = sorted({str(part.public_ip) for part in self.parts if part.public_ip})
        return f"{subnets} of {' and '.join(owners) or 'nobody'}"


def encode_lease(lease: Lease) -> bytes:
    """The JSON value."""
    four, six = lease.part(Family.IPV4), lease.part(Family.IPV6)
    value: dict[str, Any] = {
        "PublicIP": str(four.public_ip) if four and four.public_ip else NO_ADDRESS,
        "PublicIPv6": str(six.public_ip) if six and six.public_ip else None,
        "BackendType": lease.backend,
    }
    if four and four.data:
        value["BackendData"] = dict(four.data)
    if six and six.data:
        value["BackendV6Data"] = dict(six.data)
    return json.dumps(value, separators=(",", ":")).encode()


def decode_lease(key: str, value: bytes) -> Lease:
    """A lease from its key below `subnets/` and its value; raises `Invalid` with what is wrong."""
    subnets = parse_key(key)
    try:
        raw = json.loads(value or b"{}")
        parts = tuple(_part(subnet, raw) for subnet in subnets)
        return Lease(parts, str(raw.get("BackendType") or ""))
    except (ValueError, AttributeError, TypeError) as error:
        raise Invalid(f"lease {key}: {error}") from None


def parse_key(key: str) -> tuple[IPNetwork, ...]:
    """The subnets a key names; raises `Invalid`."""
    match = KEY.fullmatch(key)
    if not match:
        raise Invalid(f"lease {key!r}: not a subnet's name")
    four, four_length, six, six_length = match.groups()
    texts = [f"{four}/{four_length}"] if key.split("&")[0] != NO_SUBNET else []
    texts += [f"{six}/{six_length}"] if six else []
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise Invalid(f"lease {key!r}: {error}") from None


def _part(subnet: IPNetwork, raw: Mapping[str, Any]) -> Part:
    public, data = (raw.get(name) for name in JSON_KEYS[Family.of(subnet)])
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"backend data {data!r} is not an object")
    address = ip_address(public) if public and public != NO_ADDRESS else None
    return Part(subnet, address, data or {})
