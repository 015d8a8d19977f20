"""A lease as a Node tells it: annotations for what the backend needs to know, spec.podCIDRs for the subnets.

    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"5a:d0:94:bc:b8:7e"}
    flannel.alpha.coreos.com/public-ip: 192.168.77.12          and the same with v6

Byte for byte as Go flanneld writes them. Pure. Must not know: the API. Read next: `flanneld_py/store/kube.py`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flanneld_py.lease import Lease, Part, decode_data, encode_data, parse_json
from nodecore.errors import Invalid, UserError
from nodecore.net import Family, IPAddress, IPNetwork, read_address, read_network

PREFIX = re.compile(r"([a-z0-9_-]+\.)+[a-z0-9_-]+/([a-z0-9_-]+-)?")
VERSION = {Family.IPV4: "", Family.IPV6: "v6"}
DATA = {Family.IPV4: "backend-data", Family.IPV6: "backend-v6-data"}
SILENT_WITHOUT_DATA = ("vxlan", "wireguard")  # of these, Go flanneld does not tell a family that has no data


@dataclass(frozen=True, slots=True)
class Annotations:
    """The names of one network's annotations; several networks have several prefixes."""

    prefix: str

    @classmethod
    def named(cls, text: str, *, what: str = "--kube-annotation-prefix") -> Annotations:
        """Read the flag: `flannel.alpha.coreos.com`, or `example.com/net2` for names such as `example.com/net2-public-ip`."""
        prefix = text if "/" in text else text + "/"
        if not prefix.endswith(("/", "-")):
            prefix += "-"
        if not PREFIX.fullmatch(prefix):
            raise UserError(f"{what}: {text!r} is not a domain in small letters, with at most one / and a name behind it")
        return cls(prefix)

    def encode(self, lease: Lease) -> dict[str, str]:
        """What a Node is to be annotated with."""
        told = {self.prefix + "backend-type": lease.backend, self.prefix + "kube-subnet-manager": "true"}
        for part in lease.parts:
            if part.public_ip and (part.data or lease.backend not in SILENT_WITHOUT_DATA):
                data = encode_data(part.data) if part.data else None
                told[self.prefix + DATA[part.family]] = json.dumps(data, separators=(",", ":"))
                told[self._public(part.family)] = str(part.public_ip)
        return told

    def decode(self, told: Mapping[str, str], subnets: Mapping[Family, IPNetwork]) -> Lease | None:
        """The lease a Node tells, None if no flanneld has annotated it; raises `Invalid` naming the annotation."""
        if told.get(self.prefix + "kube-subnet-manager") != "true":
            return None
        parts = []
        for family, subnet in subnets.items():
            address = self._address(told, self._public(family), family)
            if address:
                parts.append(Part(subnet, address, self._data(told, family)))
        return Lease(tuple(parts), told.get(self.prefix + "backend-type", "")) if parts else None

    def _data(self, told: Mapping[str, str], family: Family) -> Mapping[str, Any]:
        name = self.prefix + DATA[family]
        what = f"annotation {name}"
        return decode_data(parse_json(told.get(name) or "null", what=what), what=what)

    def overwritten(self, told: Mapping[str, str], family: Family) -> IPAddress | None:
        """The address an administrator wants peers to use."""
        return self._wanted(told, f"{self._public(family)}-overwrite", family)

    def stored(self, told: Mapping[str, str], family: Family) -> IPAddress | None:
        """The address that goes before --public-ip."""
        return self._wanted(told, f"{self.prefix}node-public-ip{VERSION[family]}", family)

    def _public(self, family: Family) -> str:
        return f"{self.prefix}public-ip{VERSION[family]}"

    def _wanted(self, told: Mapping[str, str], name: str, family: Family) -> IPAddress | None:
        try:
            return self._address(told, name, family)
        except Invalid as wrong:
            raise UserError(str(wrong)) from None

    def _address(self, told: Mapping[str, str], name: str, family: Family) -> IPAddress | None:
        text = told.get(name)
        if not text:
            return None
        try:
            address = read_address(text)
        except ValueError:
            address = None
        if address is None or Family.of(address) is not family:
            raise Invalid(f"annotation {name}: {reprlib.repr(text)} is not an IPv{family.value} address")
        return address


def pod_subnets(cidr: str, cidrs: Sequence[str]) -> dict[Family, IPNetwork]:
    """A Node's subnets by family, from spec.podCIDR and spec.podCIDRs; raises `Invalid`."""
    found: dict[Family, IPNetwork] = {}
    for text in cidrs or ([cidr] if cidr else []):
        try:
            subnet = read_network(text, strict=False) if "/" in text else None
        except ValueError:
            subnet = None
        if subnet is None:
            raise Invalid(f"spec.podCIDRs: {reprlib.repr(text)} is not a network in CIDR form")
        if Family.of(subnet) in found:
            raise Invalid(f"spec.podCIDRs: {subnet} is one too many of IPv{subnet.version}")
        found[Family.of(subnet)] = subnet
    return dict(sorted(found.items(), key=lambda item: item[0].value))
