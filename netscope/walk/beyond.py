"""What stands on a packet's way and cannot be walked: BPF programs, tc filters, queues, flow tables, bridges' and devices' rules.

It is told by name, so that nobody takes an answer for more than it is. Pure. Read next: `netscope/explain.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netscope.facts import Facts
from netscope.walk import routes

ORDINARY = ("noqueue", "fq_codel", "pfifo_fast", "pfifo", "fq", "mq", "clsact", "ingress")  # that lose nothing on purpose
FAMILIES = ("netdev", "bridge")


def unread(facts: Facts, links: Iterable[str], addresses: Iterable[str]) -> Iterator[str]:
    """By name, what is on these links of a node, and on the ports of its bridges that lead to these addresses."""
    passed = [*dict.fromkeys(links)]
    bridges = [name for name in passed if (link := facts.link(name)) and link.kind == "bridge"]
    passed += [port for name in bridges for address in addresses if (port := _port(facts, name, address))]
    for name in dict.fromkeys(passed):
        link = facts.link(name)
        if link and link.xdp:
            yield f"XDP program on {name}"
        yield from dict.fromkeys(f"tc filter on {name} ({each.side}): {each.kind}" for each in facts.filters if each.dev == name)
        yield from (f"queue {each.kind} of {name}" for each in facts.queues if each.dev == name and each.kind not in ORDINARY)
    yield from _tables(facts, passed, bridged=bool(bridges))


def _port(facts: Facts, bridge: str, address: str) -> str:
    """The port of a bridge behind which an address lives; empty where that is not known."""
    mac = routes.neighbour(facts, bridge, address)
    return next((each.ifname for each in facts.fdb if mac and each.mac == mac and not each.dst
                 and (link := facts.link(each.ifname)) and link.master == bridge), "")


def _tables(facts: Facts, passed: list[str], *, bridged: bool) -> Iterator[str]:
    for item in facts.rules.nft:
        for kind, each in item.items():
            devices = each.get("dev", [])
            here = not devices or bool(set(passed) & set([devices] if isinstance(devices, str) else devices))
            if kind == "flowtable" and here:
                yield (f"flow table {each['family']} {each['table']} {each['name']}: packets of connections in it pass by all "
                       "rules")
            elif kind == "chain" and each.get("hook") and each["family"] in FAMILIES and here and (
                    bridged or each["family"] == "netdev"):
                yield f"nft {each['family']} {each['table']} {each['name']} (hook {each['hook']})"
