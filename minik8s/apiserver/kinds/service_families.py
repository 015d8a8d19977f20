"""Which address families a Service is to have, by what it asks for and what this cluster has, in the API's own terms.

    ipFamilyPolicy     SingleStack, PreferDualStack (two where the cluster has two), RequireDualStack
    ipFamilies         in order; the first is for life, the second may come and go
    clusterIPs         one of each; the first one is `clusterIP`

Pure. Must not know: which addresses are free. Read next: `service_fields.py`, `storage/allocate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import section
from minik8s.apiserver.request.status import Cause

Object = dict[str, Any]
FAMILIES = ("IPv4", "IPv6")
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
HEADLESS = "None"


def family_of(address: str) -> str:
    """`IPv4` or `IPv6`."""
    return f"IPv{ip_address(address).version}"


def well_formed(spec: Object) -> Iterator[Cause]:
    """What is wrong with the fields whatever the cluster has."""
    families, policy, listed = spec.get("ipFamilies") or [], spec.get("ipFamilyPolicy"), spec.get("clusterIPs") or []
    if policy:
        yield from causes.one_of("spec.ipFamilyPolicy", policy, POLICIES)
    for index, family in enumerate(families):
        yield from causes.one_of(f"spec.ipFamilies[{index}]", family, FAMILIES)
        if family in families[:index]:
            yield causes.duplicate(f"spec.ipFamilies[{index}]", family)
    if len(listed) > 2:
        yield causes.wrong("spec.clusterIPs", listed, "may only hold up to 2 values")
    met: list[str] = []
    for index, address in enumerate(listed):
        if address == HEADLESS and len(listed) == 1:
            continue
        try:
            met.append(family_of(str(address)))
        except ValueError:
            yield causes.wrong(f"spec.clusterIPs[{index}]", address, "must be a valid IP address")
            continue
        wanted = _at(families, index)
        if wanted in FAMILIES and wanted != met[-1]:
            why = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            yield causes.wrong(f"spec.clusterIPs[{index}]", address, why)
    if len(met) > len(set(met)):
        yield causes.wrong("spec.clusterIPs", listed, "may specify no more than one IP for each IP family")


def changed(before: Object, after: Object) -> Iterator[Cause]:
    """The first family is for life; the second may be added and removed, not exchanged."""
    for index in range(2):
        for field in ("ipFamilies", "clusterIPs"):
            old, new = (_at(spec.get(field), index) for spec in (before, after))
            if old and new and old != new and (field, index) != ("clusterIPs", 0):
                yield causes.wrong(f"spec.{field}[{index}]", new, "may not change once set")


def _at(values: Any, index: int) -> Any:
    return values[index] if isinstance(values, list) and index < len(values) else None


def downgrade(before: Object, after: Object) -> None:
    """A Service that is to be SingleStack from now on gives up its second family without being told which."""
    if after.get("ipFamilyPolicy") == "SingleStack":
        for field in ("clusterIPs", "ipFamilies"):
            if len(after.get(field) or []) == 2 and after[field] == before.get(field):
                after[field] = after[field][:1]


def choose(obj: Object, available: Sequence[str]) -> list[Cause]:
    """Fill in policy and families; `available` are the cluster's, the usual one first. Says what cannot be."""
    spec = section(obj, "spec")
    families, policy = list(spec.get("ipFamilies") or []), spec.get("ipFamilyPolicy")
    listed = [address for address in spec.get("clusterIPs") or [] if address != HEADLESS]
    if policy == "SingleStack":
        for field, values in (("cluster IPs", listed), ("ipFamilies", families)):
            if len(values) == 2:
                why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {field} are specified"
                return [causes.wrong("spec.ipFamilyPolicy", policy, why)]
    families += [family_of(address) for address in listed[len(families):]]
    anywhere = spec.get("clusterIP") == HEADLESS and not spec.get("selector")
    if not policy:
        policy = "RequireDualStack" if anywhere or len(families) == 2 else "SingleStack"
    if not anywhere and (found := list(_not_here(families, policy, available))):
        return found
    families = families or [available[0]]
    if policy != "SingleStack":
        families += [other for other in (FAMILIES if anywhere else available) if other not in families]
    spec["ipFamilyPolicy"], spec["ipFamilies"] = policy, families
    return []


def _not_here(families: Sequence[str], policy: str, available: Sequence[str]) -> Iterator[Cause]:
    for index, family in enumerate(families):
        if family not in available:
            yield causes.wrong(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
    if policy == "RequireDualStack" and len(available) < 2:
        why = "this cluster is not configured for dual-stack services"
        yield causes.wrong("spec.ipFamilyPolicy", policy, why)
