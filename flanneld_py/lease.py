"""The lease: which subnet a node has, where it is reached, and what its backend needs to know of it.

In etcd a lease is one key, `<prefix>/subnets/10.5.52.0-24` (with `&fd00:5:1::-64` where there are two families),
and one JSON value, byte for byte as Go flanneld writes them.

Pure. Must not know: etcd's leases and revisions. Read next: `flanneld_py/alloc.py`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.errors import Invalid
from nodecore.net import Family, IPAddress, IPNetwork, read_address, read_network

KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,3})(?:&([0-9a-fA-F:]{2,39})-(\d{1,3}))?", re.ASCII)
NO_SUBNET = "0.0.0.0-0"
NO_ADDRESS = "0.0.0.0"
TEXT = ""  # backend data that is a mere text, as the extension backend's, is kept under this key
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
    }
    if lease.backend:
        value["BackendType"] = lease.backend
    if four and four.data:
        value["BackendData"] = encode_data(four.data)
    if six and six.data:
        value["BackendV6Data"] = encode_data(six.data)
    return json.dumps(value, separators=(",", ":")).encode()


def decode_lease(key: str, value: bytes) -> Lease:
    """A lease from its key below `subnets/` and its value; raises `Invalid` with what is wrong."""
    subnets = parse_key(key)
    raw = parse_object(value or b"{}", what=f"lease {key}")
    kind = raw.get("BackendType") or ""
    if not isinstance(kind, str):
        raise Invalid(f"lease {key}: BackendType: {reprlib.repr(kind)} is not a text")
    return Lease(tuple(_part(key, subnet, raw) for subnet in subnets), kind)


def parse_object(text: str | bytes, *, what: str) -> dict[str, Any]:
    """A JSON object; raises `Invalid` saying what is wrong with `what`."""
    raw = parse_json(text, what=what)
    if not isinstance(raw, dict):
        raise Invalid(f"{what}: {reprlib.repr(raw)} is not an object")
    return raw


def parse_json(text: str | bytes, *, what: str) -> Any:
    """Any JSON value; raises `Invalid` saying what is wrong with `what`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{what}: not JSON: {error}") from None


def encode_data(data: Mapping[str, Any]) -> Any:
    """Backend data as it is written in JSON."""
    return data[TEXT] if TEXT in data else dict(data)


def decode_data(raw: Any, *, what: str) -> Mapping[str, Any]:
    """Backend data as it was read from JSON, null as none; raises `Invalid` saying what is wrong with `what`."""
    if isinstance(raw, str):
        return {TEXT: raw}
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise Invalid(f"{what}: {reprlib.repr(raw)} is not an object")
    return {key: value for key, value in raw.items() if key != TEXT}


def parse_key(key: str) -> tuple[IPNetwork, ...]:
    """The subnets a key names; raises `Invalid`."""
    match = KEY.fullmatch(key)
    if not match:
        raise Invalid(f"lease {reprlib.repr(key)}: not a subnet's name")
    four, four_length, six, six_length = match.groups()
    texts = [f"{four}/{four_length}"] if key.split("&")[0] != NO_SUBNET else []
    texts += [f"{six}/{six_length}"] if six else []
    try:
        return tuple(read_network(text) for text in texts)
    except ValueError as error:
        raise Invalid(f"lease {key!r}: {error}") from None


def _part(key: str, subnet: IPNetwork, raw: Mapping[str, Any]) -> Part:
    family = Family.of(subnet)
    where, what = JSON_KEYS[family]
    public, data = raw.get(where), decode_data(raw.get(what), what=f"lease {key}: {what}")
    if not public or public == NO_ADDRESS:
        return Part(subnet, None, data)
    try:
        address = read_address(public) if isinstance(public, str) else None
    except ValueError:
        address = None
    if address is None or Family.of(address) is not family:
        raise Invalid(f"lease {key}: {where}: {reprlib.repr(public)} is not an IPv{family.value} address")
    return Part(subnet, None if address.is_unspecified else address, data)
