r"""The network configuration: the JSON text under `<prefix>/config`, read strictly, with its defaults.

    {"Network": "10.5.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 1}}

Pure. A wrong value raises `UserError` naming the key. Must not know: where the text came from.
Read next: `flanneld_py/alloc.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from nodecore.errors import UserError
from nodecore.net import Family, IPNetwork, parse_address, read_network

WHAT = "network config"
DEFAULT_BACKEND = "udp"  # so it is in Go flanneld's code, whatever its documentation says
PREFIXES = {Family.IPV4: "", Family.IPV6: "IPv6"}
MAX_NETWORK = {Family.IPV4: 28, Family.IPV6: 124}
MAX_SUBNET = {Family.IPV4: 30, Family.IPV6: 126}
USUAL_SUBNET = {Family.IPV4: 24, Family.IPV6: 64}


@dataclass(frozen=True, slots=True)
class Block:
    """The network of one family, and the subnets that may be given out: `first` to `last`, all of length `length`."""

    network: IPNetwork
    length: int
    first: IPNetwork
    last: IPNetwork

    def allows(self, subnet: IPNetwork) -> bool:
        """Whether a subnet may be given out."""
        return (
            subnet.version == self.network.version and subnet.prefixlen == self.length
            and int(self.first.network_address) <= int(subnet.network_address) <= int(self.last.network_address)
        )

    def subnets(self) -> Iterator[IPNetwork]:
        """Every subnet that may be given out, from the first on."""
        size = 1 << (self.network.max_prefixlen - self.length)
        address = self.first.network_address
        while int(address) <= int(self.last.network_address):
            yield ip_network((address, self.length))
            if int(address) + size >= 1 << self.network.max_prefixlen:
                return
            address += size


@dataclass(frozen=True, slots=True)
class NetConf:
    """A checked network configuration."""

    blocks: tuple[Block, ...]
    backend: str
    options: Mapping[str, Any]
    nftables: bool = False

    def block(self, family: Family) -> Block | None:
        """The network of a family, None where it is switched off."""
        return next((block for block in self.blocks if Family.of(block.network) is family), None)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families switched on."""
        return tuple(Family.of(block.network) for block in self.blocks)


def parse_netconf(text: str) -> NetConf:
    """Read and check the text."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{WHAT}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{WHAT}: a JSON object is wanted, not {text.strip()[:40]!r}")
    enabled = [
        family for family, default in ((Family.IPV4, True), (Family.IPV6, False))
        if _typed(raw, f"EnableIPv{family.value}", bool, default=default)
    ]
    if not enabled:
        raise UserError(f"{WHAT}: EnableIPv4 and EnableIPv6 are both false: nothing to do")
    backend = _typed(raw, "Backend", dict, default={})
    kind = _typed(backend, "Type", str, default="", within="Backend.") or DEFAULT_BACKEND
    nftables = _typed(raw, "EnableNFTables", bool, default=False)
    return NetConf(tuple(_block(raw, family) for family in enabled), kind, backend, nftables)


def _block(raw: Mapping[str, Any], family: Family) -> Block:
    prefix = PREFIXES[family]
    text = _typed(raw, f"{prefix}Network", str, default="")
    if not text:
        raise UserError(f"{WHAT}: {prefix}Network is missing")
    try:
        network = read_network(text.strip(), strict=False)  # as Go reads it: host bits are dropped
    except ValueError:
        raise UserError(f"{WHAT}: {prefix}Network: {text!r} is not a network in CIDR form") from None
    if Family.of(network) is not family:
        raise UserError(f"{WHAT}: {prefix}Network: {text!r} is not an IPv{family.value} network")
    if network.prefixlen > MAX_NETWORK[family]:
        raise UserError(f"{WHAT}: {prefix}Network: {text!r} is too small, at most /{MAX_NETWORK[family]}")
    length = _length(raw, family, network)
    size = 1 << (family.bits - length)
    first = _edge(raw, f"{prefix}SubnetMin", network, length, default=int(network.network_address) + size)
    last = _edge(raw, f"{prefix}SubnetMax", network, length, default=int(network.broadcast_address) + 1 - size)
    if int(first.network_address) > int(last.network_address):
        raise UserError(f"{WHAT}: {prefix}SubnetMin {first.network_address} is above {prefix}SubnetMax {last.network_address}")
    return Block(network, length, first, last)


def _length(raw: Mapping[str, Any], family: Family, network: IPNetwork) -> int:
    key = f"{PREFIXES[family]}SubnetLen"
    usual = USUAL_SUBNET[family]
    length: int = _typed(raw, key, int, default=0) or (usual if network.prefixlen <= usual - 2 else network.prefixlen + 2)
    if length > MAX_SUBNET[family]:
        raise UserError(f"{WHAT}: {key}: {length} is too long, at most {MAX_SUBNET[family]}")
    if length < network.prefixlen + 2:
        raise UserError(f"{WHAT}: {key}: {length} leaves too few subnets in {network}, at least {network.prefixlen + 2}")
    return length


def _edge(raw: Mapping[str, Any], key: str, network: IPNetwork, length: int, *, default: int) -> IPNetwork:
    text = _typed(raw, key, str, default="")
    if not text:
        return ip_network((type(network.network_address)(default), length))
    address = parse_address(text, what=f"{WHAT}: {key}")
    if address not in network:
        raise UserError(f"{WHAT}: {key}: {address} is not in {network}")
    try:
        return ip_network((address, length))
    except ValueError:
        raise UserError(f"{WHAT}: {key}: {address} is not the start of a /{length} subnet") from None


def _typed(raw: Mapping[str, Any], key: str, kind: type, *, default: Any, within: str = "") -> Any:
    found = next((value for name, value in raw.items() if name.lower() == key.lower()), None)  # as Go reads JSON
    if found is None:
        return default
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        names = {bool: "true or false", int: "a number", str: "a text", dict: "an object"}
        text = json.dumps(found)
        raise UserError(f"{WHAT}: {within}{key}: {text[:60]}{'...' * (len(text) > 60)} is not {names[kind]}")
    return found


def option(options: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """One option of the backend, checked for its type."""
    return _typed(options, key, kind, default=default, within="Backend.")
