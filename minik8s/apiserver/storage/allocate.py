"""Cluster IPs and node ports, given out without doubles: one etcd key for each that is taken.

    /registry/allocations/ips/10.96.0.7     {"owner": "<uid of the Service>", "time": 1700000000}
    /registry/allocations/ports/30080       ...

A key is created before its Service is written and removed after the Service is gone, so that a crash can only leak,
never double; `repair` (at the start and now and then) drops leaks and takes what Services hold without a key.
Must not know: HTTP. Read next: `kinds/service_fields.py`, `verbs/writing.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import msgspec

from minik8s.apiserver.kinds import service_families, service_fields
from minik8s.apiserver.kinds.causes import wrong
from minik8s.apiserver.request.status import Cause, Refused, invalid
from minik8s.apiserver.storage.objects import Storage
from nodecore.errors import AlreadyExists, Fault
from nodecore.etcd.client import Delete, EtcdClient, unchanged
from nodecore.net import IPNetwork

log = logging.getLogger(__name__)
Object = dict[str, Any]
IPS, PORTS = "/registry/allocations/ips/", "/registry/allocations/ports/"
GUESSES = 16
YOUNG = 60.0
REPAIR_PERIOD = 600.0


class _Taken(msgspec.Struct):
    owner: str
    time: float


@dataclass(slots=True)
class Claim:
    """The keys taken for one write, to be given back if it fails."""

    owner: str
    keys: list[str] = field(default_factory=list)


class Allocator:
    """A range of addresses for each family and one of ports, shared by all API servers of a cluster."""

    def __init__(self, etcd: EtcdClient, networks: Sequence[IPNetwork], low: int, high: int) -> None:
        self._etcd, self.low, self.high = etcd, low, high
        self._networks = {f"IPv{network.version}": network for network in networks}

    async def claim(self, old: Object, new: Object) -> Claim:
        """Take what a new or changed Service needs beyond what it holds, writing it into `new`."""
        claim = Claim(new["metadata"]["uid"])
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
            await self._free(key, claim.owner)

    async def release(self, old: Object, new: Object | None = None) -> None:
        """Free what a Service held and does not hold any more."""
        for key in keys_of(old) - (keys_of(new) if new else set()):
            try:
                await self._free(key, old["metadata"]["uid"])
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
        network = self._networks[service_families.family_of(wanted)]
        if address not in network or address in (network.network_address, network.broadcast_address):
            why = f"the provided IP is not in the valid range. The range of valid IPs is {network}"
            raise _invalid(obj, wrong("spec.clusterIPs", [wanted], f"failed to allocate IP {wanted}: {why}"))
        if not await self._take(claim, IPS + str(address)):
            why = "provided IP is already allocated"
            raise _invalid(obj, wrong("spec.clusterIPs", [wanted], f"failed to allocate IP {wanted}: {why}"))

    async def _any_address(self, claim: Claim, family: str) -> str:
        network = self._networks[family]
        size = min(network.num_addresses, 2**20)
        found = await self._any(claim, IPS, lambda offset: str(network.network_address + offset), range(2, size - 1))
        if not found:
            raise Refused(500, f"Internal error occurred: failed to allocate a serviceIP: range {network} is full")
        return found

    async def _claim_ports(self, claim: Claim, old: Object, new: Object) -> None:
        held = service_fields.node_ports_of(old)
        for port in service_fields.node_ports_of(new) - held:
            await self._this_port(claim, new, port)
        for entry in service_fields.ports_in_need(new):
            found = await self._any(claim, PORTS, str, range(self.low, self.high + 1))
            if not found:
                raise Refused(500, "Internal error occurred: failed to allocate a nodePort: range is full")
            entry["nodePort"] = int(found)

    async def _this_port(self, claim: Claim, obj: Object, port: int) -> None:
        index = next((i for i, entry in enumerate(obj["spec"].get("ports") or []) if entry.get("nodePort") == port), 0)
        name = f"spec.ports[{index}].nodePort"
        if not self.low <= port <= self.high:
            raise _invalid(obj, wrong(name, port, "provided port is not in the valid range. The range of valid ports is "
                                                  f"{self.low}-{self.high}"))
        if not await self._take(claim, f"{PORTS}{port}"):
            raise _invalid(obj, wrong(name, port, "provided port is already allocated"))

    async def _any(self, claim: Claim, folder: str, name: Any, choices: range) -> str:
        """Guess a few times, then look which are free."""
        for _ in range(GUESSES):
            guess = str(name(random.choice(choices)))
            if await self._take(claim, folder + guess):
                return guess
        taken = {kv.key for kv in (await self._etcd.range(folder, keys_only=True)).items}
        for choice in choices:
            guess = str(name(choice))
            if folder + guess not in taken and await self._take(claim, folder + guess):
                return guess
        return ""

    async def _take(self, claim: Claim, key: str) -> bool:
        try:
            await self._etcd.create(key, msgspec.json.encode(_Taken(claim.owner, time.time())))
        except AlreadyExists:
            return False
        claim.keys.append(key)
        return True

    async def _free(self, key: str, owner: str) -> None:
        found = await self._etcd.get(key)
        if found and _read(found.value).owner == owner:
            await self._etcd.txn([unchanged(key, found.mod_revision)], [Delete(key)])

    async def repair(self, services: Iterable[Object]) -> list[str]:
        """Make the keys fit the Services; says what was done."""
        wanted = {key: obj["metadata"]["uid"] for obj in services for key in keys_of(obj)}
        done: list[str] = []
        present: set[str] = set()
        for folder in (IPS, PORTS):
            for kv in (await self._etcd.range(folder)).items:
                taken = _read(kv.value)
                present.add(kv.key)
                if wanted.get(kv.key) != taken.owner and (kv.key in wanted or time.time() - taken.time > YOUNG):
                    await self._etcd.txn([unchanged(kv.key, kv.mod_revision)], [Delete(kv.key)])
                    present.discard(kv.key)
                    done.append(f"freed {kv.key}")
        for key in wanted.keys() - present:
            if await self._take(Claim(wanted[key]), key):
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


def _read(value: bytes) -> _Taken:
    try:
        return msgspec.json.decode(value, type=_Taken)
    except msgspec.DecodeError:
        return _Taken("", 0)


def _invalid(obj: Object, cause: Cause) -> Refused:
    return invalid("Service", "", str(obj["metadata"].get("name", "")), [cause])
