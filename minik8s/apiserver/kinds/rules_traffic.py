"""What must hold of what lets traffic through: address blocks, ranges, the paths of an Ingress.

Pure and total. Must not know: HTTP, storage. Read next: `rules.py`, the table that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.request.status import Cause
from nodecore.net import read_network

Object = dict[str, Any]


def blocks(obj: Object) -> Iterator[Cause]:
    """The address blocks of a NetworkPolicy, and what is left out of them."""
    spec = section(obj, "spec")
    for way, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(each(spec, way)):
            for at, peer in enumerate(each(rule, side)):
                where, block = f"spec.{way}[{index}].{side}[{at}]", section(peer, "ipBlock")
                if block and (peer.get("podSelector") or peer.get("namespaceSelector")):
                    yield causes.forbidden(where, "may not specify both ipBlock and another peer")
                elif not peer:
                    yield causes.required(where, "must specify a peer")
                if block:
                    yield from _block(f"{where}.ipBlock", block)


def _block(where: str, block: Object) -> Iterator[Cause]:
    whole = _network(block.get("cidr"))
    if whole is None:
        yield causes.wrong(f"{where}.cidr", block.get("cidr"), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return
    for index, text in enumerate(block.get("except") or []):
        part = _network(text)
        if part is None or part.version != whole.version or not part.subnet_of(whole) or part == whole:
            yield causes.wrong(f"{where}.except[{index}]", text, f"must be a strict subset of `cidr`: {block['cidr']}")


def _network(text: Any) -> Any:
    try:
        return read_network(str(text), strict=False)
    except ValueError:
        return None


def ranges(obj: Object) -> Iterator[Cause]:
    """At most one range of a family, written as networks are."""
    found = section(obj, "spec").get("cidrs") or []
    families = set()
    for index, text in enumerate(found):
        network = _network(text)
        if network is None or str(network) != text:
            yield causes.wrong(f"spec.cidrs[{index}]", text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        elif network.version in families:
            yield causes.wrong("spec.cidrs", found, "may only contain one value for each IP family")
        else:
            families.add(network.version)


def leads_somewhere(obj: Object) -> Iterator[Cause]:
    """Rules or a default backend."""
    spec = section(obj, "spec")
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield causes.wrong("spec", spec, "either `defaultBackend` or `rules` must be specified")


def paths(obj: Object) -> Iterator[Cause]:
    """The paths of an Ingress, and what is behind them."""
    spec = section(obj, "spec")
    if spec.get("defaultBackend"):
        yield from _backend("spec.defaultBackend", section(spec, "defaultBackend"))
    for index, rule in enumerate(each(spec, "rules")):
        for at, path in enumerate(each(section(rule, "http"), "paths")):
            where = f"spec.rules[{index}].http.paths[{at}]"
            yield from causes.one_of(f"{where}.pathType", path.get("pathType"), ("Exact", "ImplementationSpecific", "Prefix"))
            if path.get("pathType") in ("Exact", "Prefix") and not str(path.get("path") or "").startswith("/"):
                yield causes.wrong(f"{where}.path", path.get("path"), "must be an absolute path")
            yield from _backend(f"{where}.backend", section(path, "backend"))


def _backend(where: str, backend: Object) -> Iterator[Cause]:
    service = section(backend, "service")
    if bool(service) == bool(backend.get("resource")):
        yield causes.required(where, "exactly one of `service` and `resource` must be specified")
    elif service:
        if not service.get("name"):
            yield causes.required(f"{where}.service.name")
        port = section(service, "port")
        if not port.get("name") and not port.get("number"):
            yield causes.required(f"{where}.service.port", "port name or number is required")
