"""Which interface and address carry the overlay: the underlay.

    --iface NAME|IP (several: the first that fits), then --iface-regex (addresses, then names), then
    --iface-can-reach ADDRESS, then the one --public-ip is on, else the default route's

Reads through the `Host` port only. Read next: `flanneld_py/backends/vxlan.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from nodecore.errors import Fault, NotFound, UserError
from nodecore.kernel.ports import Host, Interface
from nodecore.net import Family, IPAddress, IPNetwork, read_address

SOMEWHERE = {Family.IPV4: ip_address("8.8.8.8"), Family.IPV6: ip_address("2001:4860:4860::8888")}  # only looked up, never sent to


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the flags say about it."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: str = ""
    public: Mapping[Family, IPAddress] | None = None

    @property
    def any_flag(self) -> bool:
        """Whether an interface was asked for."""
        return bool(self.names or self.patterns or self.can_reach)


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link, our addresses on it, and those the others are to use."""

    link: str
    mtu: int
    addresses: Mapping[Family, IPAddress]
    public: Mapping[Family, IPAddress]
    networks: tuple[IPNetwork, ...] = ()
    ipv6: bool = True

    def describe(self) -> str:
        """In words."""
        ours, public = (", ".join(map(str, addresses.values())) for addresses in (self.addresses, self.public))
        return f"{self.link}, MTU {self.mtu}, addresses {ours}, public {public}"

    def reaches(self, address: IPAddress) -> bool:
        """Whether an address is on our own underlay network."""
        return any(address in network for network in self.networks)


def check_wishes(host: Host, wishes: Wishes) -> None:
    """Refuse a flag that names nothing there is, before anything else is known; what may yet come is not asked for."""
    try:
        if wishes.any_flag or wishes.public:
            _choose(host, host.interfaces(), (Family.IPV4,), wishes, wishes.public or {})
    except NotFound:
        return


def follow_underlay(host: Host, families: Sequence[Family], wishes: Wishes, before: Underlay) -> Underlay:
    """The same link and addresses while they are there, as they are now; else a new choice."""
    interface = next((interface for interface in host.interfaces() if interface.name == before.link), None)
    if interface and all(address in interface.addresses for address in before.addresses.values()):
        return replace(before, mtu=interface.mtu, networks=interface.networks)
    return choose_underlay(host, families, wishes, ipv6=before.ipv6)


def choose_underlay(host: Host, families: Sequence[Family], wishes: Wishes, *, ipv6: bool = True) -> Underlay:
    """Choose; raises `UserError` naming the flag, or `NotFound` where the machine has nothing to offer."""
    interfaces = host.interfaces()
    given = dict(wishes.public or {})
    interface, address = _choose(host, interfaces, families, wishes, given)
    addresses = {}
    for family in families:
        found = address if address and Family.of(address) is family else _first(interface, family)
        if not found:
            raise UserError(f"interface {interface.name} has no IPv{family.value} address")
        addresses[family] = found
    public = {family: given.get(family, addresses[family]) for family in families}
    return Underlay(interface.name, interface.mtu, addresses, public, interface.networks, ipv6)


Found = tuple[Interface, IPAddress | None]


def _choose(
    host: Host, interfaces: Sequence[Interface], families: Sequence[Family], wishes: Wishes, public: Mapping[Family, IPAddress]
) -> Found:
    if wishes.any_flag:
        found = next(_by_flags(host, interfaces, wishes), None)
        if not found:
            raise UserError(_nothing_fits(interfaces, wishes))
        return found
    for family, address in public.items():
        owner = _owner(interfaces, address)
        if not owner:
            flag = "--public-ip" if family is Family.IPV4 else "--public-ipv6"
            raise UserError(f"{flag}: no interface has the address {address} (give --iface as well if it is not a local one)")
        return owner, address
    return _by_path(host, interfaces, SOMEWHERE[families[0]], "there is no default route to choose an interface by; give --iface")


def _by_flags(host: Host, interfaces: Sequence[Interface], wishes: Wishes) -> Iterator[Found]:
    for name in wishes.names:
        yield from _by_name(interfaces, name)
    for pattern in wishes.patterns:
        yield from _by_pattern(interfaces, pattern)
    if wishes.can_reach:
        try:
            target = read_address(wishes.can_reach)
        except ValueError:
            raise UserError(f"--iface-can-reach: {wishes.can_reach!r} is not an IP address") from None
        yield _by_path(host, interfaces, target, f"--iface-can-reach: no route to {target}")


def _by_name(interfaces: Sequence[Interface], name: str) -> Iterator[Found]:
    try:
        address = read_address(name)
    except ValueError:
        yield from ((interface, None) for interface in interfaces if interface.name == name)
        return
    owner = _owner(interfaces, address)
    if owner:
        yield owner, address


def _by_pattern(interfaces: Sequence[Interface], pattern: str) -> Iterator[Found]:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--iface-regex: {pattern!r}: {error}") from None
    for interface in interfaces:
        yield from ((interface, address) for address in interface.addresses if wanted.search(str(address)))
    yield from ((interface, None) for interface in interfaces if wanted.search(interface.name))


def _by_path(host: Host, interfaces: Sequence[Interface], target: IPAddress, otherwise: str) -> Found:
    try:
        path = host.path_to(target)
    except Fault:
        raise NotFound(otherwise) from None
    interface = next((i for i in interfaces if i.name == path.link), None)
    if not interface:
        raise NotFound(otherwise)
    return interface, path.source if path.source in interface.addresses else None


def _owner(interfaces: Sequence[Interface], address: IPAddress) -> Interface | None:
    return next((interface for interface in interfaces if address in interface.addresses), None)


def _first(interface: Interface, family: Family) -> IPAddress | None:
    return next((address for address in interface.addresses if Family.of(address) is family), None)


def _nothing_fits(interfaces: Sequence[Interface], wishes: Wishes) -> str:
    asked = [f"--iface: no interface called {name!r} or with that address" for name in wishes.names]
    asked += [f"--iface-regex: nothing fits {pattern!r}" for pattern in wishes.patterns]
    return "; ".join(asked) + f" (there are: {', '.join(interface.name for interface in interfaces)})"
