"""Cluster IPs and node ports, given out without doubles: one etcd key for each that is taken.

    /registry/ipaddresses/10.96.0.7      the IPAddress, whose parentRef is the Service
    /registry/allocations/ports/30080    {"owner": "<uid of the Service>", "time": 1700000000}

What is asked for by nobody in particular comes from above the part of each range that is kept for those who name their
address (its first sixteenth, 16 to 256; of ports a 32nd, 16 to 128), and from there only when all else is taken.
Beside the ranges of the command line, those of ServiceCIDR objects are given out, when the former are full or named.

A key is created before its Service is written and removed after the Service is gone, so that a crash can only leak,
never double; `repair` (at the start and now and then) drops leaks and takes what Services hold without a key.
Must not know: HTTP. Read next: `kinds/service_fields.py`, `verbs/writing.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from minik8s.apiserver.kinds import service_families, service_fields
from minik8s.apiserver.kinds.causes import wrong
from minik8s.apiserver.request.call import now
from minik8s.apiserver.request.status import Cause, Refused, invalid
from minik8s.apiserver.storage.objects import Storage
from nodecore.errors import AlreadyExists, Fault
from nodecore.etcd.client import Delete, EtcdClient, KeyValue, unchanged
from nodecore.net import IPAddress, IPNetwork

log = logging.getLogger(__name__)
Object = dict[str, Any]
IPS, PORTS, CIDRS = "/registry/ipaddresses/", "/registry/allocations/ports/", "/registry/servicecidrs/"
MANAGER, FAMILY = "ipaddress.kubernetes.io/managed-by", "ipaddress.kubernetes.io/ip-family"
OURS = "ipallocator.k8s.io"
GUESSES = 16
YOUNG = 60.0
REPAIR_PERIOD = 600.0
SOMEBODY = "somebody else"


class _Taken(msgspec.Struct):
    owner: str
    time: float


@dataclass(slots=True)
class Claim:
    """The keys taken for one write, to be given back if it fails."""

    owner: str
    place: str
    keys: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, service: Object) -> Claim:
        """A claim for a Service."""
        meta = service["metadata"]
        return cls(meta["uid"], f"{meta.get('namespace', '')}/{meta['name']}")

    def holder(self, key: str) -> str:
        """As who a key names its holder: an address by namespace and name, a port by uid."""
        return self.place if key.startswith(IPS) else self.owner


class Allocator:
    """A range of addresses for each family and one of ports, shared by all API servers of a cluster."""

    def __init__(self, etcd: EtcdClient, networks: Sequence[IPNetwork], low: int, high: int) -> None:
        self._etcd, self.low, self.high = etcd, low, high
        self._networks = {f"IPv{network.version}": network for network in networks}

    async def claim(self, old: Object, new: Object) -> Claim:
        """Take what a new or changed Service needs beyond what it holds, writing it into `new`."""
        claim = Claim.of(new)
        try:
            await self._claim_addresses(claim, old, new)
            await self._claim_ports(claim, old, new)
        except BaseException:
            await asyncio.shield(self.give_back(claim))
            raise
        return claim

    async def give_back(self, claim: Claim) -> None:
        """Undo a claim."""
        for key in claim.keys:
            await self._free(key, claim)

    async def release(self, old: Object, new: Object | None = None) -> None:
        """Free what a Service held and does not hold any more."""
        for key in keys_of(old) - (keys_of(new) if new else set()):
            try:
                await self._free(key, Claim.of(old))
            except Fault as fault:
                log.warning("%s is not freed yet: %s", key, fault)

    async def _claim_addresses(self, claim: Claim, old: Object, new: Object) -> None:
        service_fields.agree(new)
        spec = new["spec"]
        if spec.get("type") == "ExternalName":
            return
        if problems := service_families.choose(new, tuple(self._networks)):
            raise invalid("Service", "", str(new["metadata"].get("name", "")), problems)
        if spec.get("clusterIP") == service_families.HEADLESS:
            return
        held, asked = service_fields.addresses_of(old), service_fields.addresses_of(new)
        for address in asked:
            if address not in held:
                await self._this_address(claim, new, address)
        spec["clusterIPs"] = [*asked, *[await self._any_address(claim, family) for family in spec["ipFamilies"][len(asked):]]]
        service_fields.agree(new)

    async def _this_address(self, claim: Claim, obj: Object, wanted: str) -> None:
        address = ip_address(wanted)
        family = service_families.family_of(wanted)
        known = [self._networks[family]]
        if not _inside(address, known):
            known += await self._more_networks(family)
        if not _inside(address, known):
            why = f"the provided IP is not in the valid range. The range of valid IPs is {', '.join(map(str, known))}"
            raise _invalid(obj, wrong("spec.clusterIPs", [wanted], f"failed to allocate IP {wanted}: {why}"))
        if not await self._take(claim, IPS + str(address)):
            why = "provided IP is already allocated"
            raise _invalid(obj, wrong("spec.clusterIPs", [wanted], f"failed to allocate IP {wanted}: {why}"))

    async def _any_address(self, claim: Claim, family: str) -> str:
        first = self._networks[family]
        found = await self._one_of(claim, first)
        for network in () if found else await self._more_networks(family):
            found = found or await self._one_of(claim, network)
        if not found:
            raise Refused(500, f"Internal error occurred: failed to allocate a serviceIP: range {first} is full")
        return found

    async def _one_of(self, claim: Claim, network: IPNetwork) -> str:
        size = min(network.num_addresses, 2**20)
        kept = min(max(size // 16, 16), 256)
        start = 2 if network in self._networks.values() else 1
        return await self._any(claim, IPS, lambda offset: str(network.network_address + offset), range(start, size - 1), kept)

    async def _more_networks(self, family: str) -> list[IPNetwork]:
        """The ranges that ServiceCIDR objects add."""
        found: list[IPNetwork] = []
        for kv in (await self._etcd.range(CIDRS)).items:
            obj = msgspec.json.decode(kv.value)
            if not obj["metadata"].get("deletionTimestamp"):
                found += [ip_network(text) for text in obj["spec"].get("cidrs") or []]
        return [each for each in found if f"IPv{each.version}" == family and each != self._networks[family]]

    async def _claim_ports(self, claim: Claim, old: Object, new: Object) -> None:
        held = service_fields.node_ports_of(old)
        for port in service_fields.node_ports_of(new) - held:
            await self._this_port(claim, new, port)
        for entry in service_fields.ports_in_need(new):
            entry["nodePort"] = await self._any_port(claim)
        if service_fields.needs_health_port(new):
            new["spec"]["healthCheckNodePort"] = await self._any_port(claim)

    async def _any_port(self, claim: Claim) -> int:
        ports = range(self.low, self.high + 1)
        found = await self._any(claim, PORTS, str, ports, min(max(len(ports) // 32, 16), 128))
        if not found:
            raise Refused(500, "Internal error occurred: failed to allocate a nodePort: range is full")
        return int(found)

    async def _this_port(self, claim: Claim, obj: Object, port: int) -> None:
        index = next((i for i, entry in enumerate(obj["spec"].get("ports") or []) if entry.get("nodePort") == port), None)
        name = "spec.healthCheckNodePort" if index is None else f"spec.ports[{index}].nodePort"
        if not self.low <= port <= self.high:
            raise _invalid(obj, wrong(name, port, "provided port is not in the valid range. The range of valid ports is "
                                                  f"{self.low}-{self.high}"))
        if not await self._take(claim, f"{PORTS}{port}"):
            raise _invalid(obj, wrong(name, port, "provided port is already allocated"))

    async def _any(self, claim: Claim, folder: str, name: Any, choices: range, kept: int) -> str:
        """Guess a few times, not among the first `kept`; then look which are free, those last."""
        upper, lower = choices[kept:], choices[:kept]
        for _ in range(GUESSES if upper else 0):
            guess = str(name(random.choice(upper)))
            if await self._take(claim, folder + guess):
                return guess
        taken = {kv.key for kv in (await self._etcd.range(folder, keys_only=True)).items}
        for choice in (*upper, *lower):
            guess = str(name(choice))
            if folder + guess not in taken and await self._take(claim, folder + guess):
                return guess
        return ""

    async def _take(self, claim: Claim, key: str) -> bool:
        try:
            await self._etcd.create(key, _value(claim, key))
        except AlreadyExists:
            return False
        claim.keys.append(key)
        return True

    async def _free(self, key: str, claim: Claim) -> None:
        found = await self._etcd.get(key)
        if found and _read(found).owner == claim.holder(key):
            await self._etcd.txn([unchanged(key, found.mod_revision)], [Delete(key)])

    async def repair(self, services: Iterable[Object]) -> list[str]:
        """Make the keys fit the Services; says what was done."""
        claims: dict[str, Claim] = {}
        done: list[str] = []
        for obj in services:
            for key in keys_of(obj):
                own = Claim.of(obj)
                claim = claims.setdefault(key, own)
                if claim.owner != own.owner:
                    done.append(f"CONFLICT: the Services {claim.place} and {own.place} both hold {key}; delete one")
        wanted = {key: claim.holder(key) for key, claim in claims.items()}
        present: set[str] = set()
        for folder in (IPS, PORTS):
            for kv in (await self._etcd.range(folder)).items:
                taken = _read(kv)
                present.add(kv.key)
                if taken.owner == SOMEBODY:
                    continue
                if wanted.get(kv.key) != taken.owner and (kv.key in wanted or time.time() - taken.time > YOUNG):
                    await self._etcd.txn([unchanged(kv.key, kv.mod_revision)], [Delete(kv.key)])
                    present.discard(kv.key)
                    done.append(f"freed {kv.key}")
        for key in wanted.keys() - present:
            if await self._take(claims[key], key):
                done.append(f"took {key}")
        return done

    async def repair_for_ever(self, storage: Storage, folder: str) -> None:
        """Repair now and every few minutes."""
        while True:
            try:
                # the keys first seen young are left alone, so that a claim in the making is not taken for a leak
                for line in await self.repair((await storage.list(folder)).objects):
                    log.info("allocations: %s", line)
            except Fault as fault:
                log.warning("allocations could not be checked: %s", fault)
            await asyncio.sleep(REPAIR_PERIOD)


def keys_of(obj: Object) -> set[str]:
    """The keys a Service should hold."""
    ports = {f"{PORTS}{port}" for port in service_fields.node_ports_of(obj)}
    return ports | {f"{IPS}{ip_address(address)}" for address in service_fields.addresses_of(obj)}


def _inside(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network and address not in (network.network_address, network.broadcast_address) for network in networks)


def _value(claim: Claim, key: str) -> bytes:
    """What is written at a key: of an address the IPAddress object."""
    if key.startswith(PORTS):
        return msgspec.json.encode(_Taken(claim.owner, time.time()))
    address, (namespace, _, name) = key.removeprefix(IPS), claim.place.partition("/")
    labels = {FAMILY: service_families.family_of(address), MANAGER: OURS}
    meta = {"name": address, "uid": str(uuid.uuid4()), "creationTimestamp": now(), "labels": labels}
    spec = {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}}
    return msgspec.json.encode({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1", "metadata": meta, "spec": spec})


def _read(kv: KeyValue) -> _Taken:
    """Who holds a key, and since when; SOMEBODY where that is none of ours."""
    try:
        if kv.key.startswith(PORTS):
            return msgspec.json.decode(kv.value, type=_Taken)
        obj = msgspec.json.decode(kv.value)
        ref, meta = obj["spec"]["parentRef"], obj["metadata"]
        if (meta.get("labels") or {}).get(MANAGER) != OURS:
            return _Taken(SOMEBODY, 0)
        made = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()
        return _Taken(f"{ref.get('namespace', '')}/{ref['name']}", made)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return _Taken("", 0)


def _invalid(obj: Object, cause: Cause) -> Refused:
    return invalid("Service", "", str(obj["metadata"].get("name", "")), [cause])
