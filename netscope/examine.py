"""Reads a node's facts: iproute2, nft and /proc/sys, each asked once.

Must not know: what is wrong with them. Read next: `netscope/facts.py`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from netscope.facts import Chain, Facts, FdbEntry, Link, LinkAddresses, Neighbour, Route
from nodecore.errors import Fault
from nodecore.kernel.nftlist import base_chains

SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables",
           "net/bridge/bridge-nf-call-ip6tables", "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max",
           "net/ipv4/neigh/default/gc_thresh3")
PER_LINK = ("net/ipv4/conf/{}/rp_filter", "net/ipv4/conf/{}/forwarding")
LEGACY = ("net/ip_tables_names", "net/ip6_tables_names")


def examine() -> Facts:
    """The namespace this process lives in."""
    absent: dict[str, str] = {}

    def ask(kind: Any, *argv: str) -> Any:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(done.stderr.strip())
            found = json.loads(done.stdout or "[]")
        except OSError as error:
            absent[" ".join(argv)] = str(error)
            return ()
        return msgspec.convert(found, tuple[kind, ...], strict=False)

    links: tuple[Link, ...] = ask(Link, "ip", "-j", "-d", "link", "show")
    return Facts(
        links=links, addresses=ask(LinkAddresses, "ip", "-j", "addr", "show"),
        routes=(*ask(Route, "ip", "-j", "route", "show"), *ask(Route, "ip", "-j", "-6", "route", "show")),
        neighbours=ask(Neighbour, "ip", "-j", "neigh", "show"), fdb=ask(FdbEntry, "bridge", "-j", "fdb", "show"),
        chains=_chains(absent), sysctls=_sysctls(links), legacy=_legacy(),
        absent=absent,
    )


def _chains(absent: dict[str, str]) -> tuple[Chain, ...]:
    try:
        return tuple(msgspec.convert(base_chains(), list[Chain]))
    except Fault as fault:
        absent["nftables"] = str(fault)
        return ()


def _sysctls(links: tuple[Link, ...]) -> dict[str, str]:
    names = [*SYSCTLS, *(name.format(each) for name in PER_LINK for each in ("all", *(link.ifname for link in links)))]
    return {name: text for name in names if (text := _read(f"/proc/sys/{name}"))}


def _legacy() -> tuple[str, ...]:
    return tuple(sorted({word for name in LEGACY for word in _read(f"/proc/self/{name}").split()}))


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""

