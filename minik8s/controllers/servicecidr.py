"""ServiceCIDRs: a range of ClusterIPs stays until no address in it is in use that no other range has.

A finalizer holds it; the API server gives out nothing from a range that is being deleted, and as one of several servers may
not have heard of that yet, the finalizer stays for GRACE seconds in any case.
Must not know: how addresses are given out. Read next: `minik8s/apiserver/storage/allocate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nodecore.kube.objects import View
from nodecore.kube.resource import SERVICE_CIDRS
from nodecore.kube.workload import Anything, Condition, Meta, seconds, stamp
from nodecore.net import IPAddress, IPNetwork, read_address, read_network

from .ops import Patch, Plan, Raw
from .world import Collection

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
GRACE = 10.0
LEFT = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"


class RangeSpec(View, frozen=True):
    """networking/v1 ServiceCIDRSpec."""

    cidrs: list[str] | None = None


class RangeStatus(View, frozen=True):
    """networking/v1 ServiceCIDRStatus."""

    conditions: list[Condition] | None = None


class Range(View, frozen=True):
    """networking/v1 ServiceCIDR."""

    metadata: Meta = Meta()
    spec: RangeSpec = RangeSpec()
    status: RangeStatus = RangeStatus()

    @property
    def networks(self) -> list[IPNetwork]:
        """Its ranges."""
        return [read_network(text) for text in self.spec.cidrs or ()]


def orphans(going: Range, others: Iterable[Range], addresses: Iterable[str]) -> list[str]:
    """The addresses that would be in no range any more."""
    own, rest = going.networks, [net for other in others for net in other.networks]
    found: list[str] = []
    for text in addresses:
        try:
            address = read_address(text)
        except ValueError:
            continue
        if _within(address, own) and not _within(address, rest):
            found.append(text)
    return found


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def plan_range(one: Range, others: Iterable[Range], addresses: Iterable[str], now: float) -> Plan:
    """The finalizer and the condition one range should have; `others` are those that stay."""
    meta = one.metadata
    held = FINALIZER in (meta.finalizers or ())
    if meta.deletion_timestamp is None:
        kept = () if held else (_finalizers(meta, [*(meta.finalizers or ()), FINALIZER], "held"),)
        return Plan((*kept, *_condition(one, "True", "", "Kubernetes Service CIDR is ready", now)))
    if not held:
        return Plan()
    if orphans(one, others, addresses):
        return Plan(_condition(one, "False", "Terminating", LEFT, now))
    wait = seconds(meta.deletion_timestamp) + GRACE - now
    if wait > 0:
        return Plan((), wait)
    return Plan((_finalizers(meta, [each for each in meta.finalizers or () if each != FINALIZER], "let go"),))


def _finalizers(meta: Meta, wanted: list[str], why: str) -> Patch:
    return Patch(SERVICE_CIDRS, meta, {"metadata": {"finalizers": wanted or None}}, why, version=meta.resource_version)


def _condition(one: Range, status: str, reason: str, message: str, now: float) -> tuple[Patch, ...]:
    old = next((each for each in one.status.conditions or () if each.type == "Ready"), None)
    if old and (old.status, old.reason) == (status, reason):
        return ()
    rest = [each for each in one.status.conditions or () if each.type != "Ready"]
    fresh: Raw = {"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp(now)}
    body = {"status": {"conditions": [*map(_raw, rest), fresh]}}
    return (Patch(SERVICE_CIDRS, one.metadata, body, f"Ready={status}", subresource="status"),)


def _raw(found: Condition) -> Raw:
    return {"type": found.type, "status": found.status, "reason": found.reason, "message": found.message,
            "lastTransitionTime": found.last_transition_time}


class ServiceRanges:
    """The controller around `plan_range`."""

    name = "servicecidr"

    def __init__(self, ranges: Collection[Range], addresses: Collection[Anything]) -> None:
        self.ranges, self.addresses = ranges, addresses

    def listen(self, mark: Callable[[str], None]) -> None:
        """A range's change marks it and those that wait to go; an address that is free again marks the latter."""
        def of_range(old: Range | None, new: Range | None) -> None:
            if new is not None:
                mark(new.metadata.key)
            self._mark_going(mark)

        def of_address(old: Anything | None, new: Anything | None) -> None:
            if new is None:
                self._mark_going(mark)

        self.ranges.listeners.append(of_range)
        self.addresses.listeners.append(of_address)

    def _mark_going(self, mark: Callable[[str], None]) -> None:
        for each in self.ranges:
            if each.metadata.deletion_timestamp:
                mark(each.metadata.key)

    def plan(self, key: str, now: float) -> Plan:
        """What is to be done for a range that is there."""
        one = self.ranges.get(key)
        if one is None:
            return Plan()
        others = [each for each in self.ranges if each.metadata.key != key and each.metadata.deletion_timestamp is None]
        return plan_range(one, others, (each.metadata.name for each in self.addresses), now)
