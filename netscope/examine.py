"""Reads a node's facts: iproute2, nft, iptables, ipset, /proc and a few files, each asked once.

Must not know: what is wrong with them. Read next: `netscope/facts.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from netscope import CNI_DIRECTORY, SUBNET_FILE, xfrm
from netscope.facts import (
    Chain,
    Facts,
    FdbEntry,
    Filter,
    Link,
    LinkAddresses,
    Neighbour,
    Queue,
    Route,
    RouteRule,
    Rules,
    Settings,
    WireguardPeer,
)
from nodecore.errors import Fault
from nodecore.kernel import rulelist
from nodecore.kernel.ethtool import defers_checksums

SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables",
           "net/bridge/bridge-nf-call-ip6tables", "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max",
           "net/ipv4/neigh/default/gc_thresh3", "net/ipv4/vs/conntrack", "net/ipv4/ip_local_port_range",
           "net/ipv4/ip_local_reserved_ports", "net/ipv4/conf/all/route_localnet", "net/ipv4/tcp_tw_recycle",
           "net/netfilter/nf_conntrack_tcp_be_liberal")
PER_LINK = ("net/ipv4/conf/{}/rp_filter", "net/ipv4/conf/{}/forwarding")
LEGACY = ("net/ip_tables_names", "net/ip6_tables_names")
FILTERED = {"clsact": ("ingress", "egress"), "ingress": ("ingress",)}  # kinds of queues that only carry filters
FLANNEL = tuple(f"FLANNEL_{name}" for name in ("NETWORK", "SUBNET", "IPV6_NETWORK", "IPV6_SUBNET", "MTU", "IPMASQ"))
DEFERRING = ("vxlan", "ipip", "wireguard")


class Asker:
    """Asks programs that answer in JSON; what they cannot tell is kept in `absent`."""

    def __init__(self) -> None:
        self.absent: dict[str, str] = {}

    def ask(self, kind: Any, *argv: str) -> Any:
        """A tuple of that kind."""
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(done.stderr.strip())
            found = json.loads(done.stdout or "[]")
        except OSError as error:
            self.absent[" ".join(argv)] = str(error)
            return ()
        return msgspec.convert(found, tuple[kind, ...], strict=False)


    def text(self, *argv: str) -> str:
        """What a program prints; nothing where it cannot."""
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            self.absent[" ".join(argv)] = str(error)
            return ""
        return done.stdout


def examine(*, cni: str = CNI_DIRECTORY, subnet: str = SUBNET_FILE, rules: bool = True) -> Facts:
    """The namespace this process lives in, and the node's files at these paths; without `rules` it takes a part of the time."""
    asker = Asker()
    ask, absent = asker.ask, asker.absent
    links: tuple[Link, ...] = ask(Link, "ip", "-j", "-d", "link", "show")
    routes: tuple[Route, ...] = (*ask(Route, "ip", "-j", "route", "show", "table", "all"),
                                 *ask(Route, "ip", "-j", "-6", "route", "show", "table", "all"))
    found = _rules(absent) if rules else Rules()
    queues: tuple[Queue, ...] = ask(Queue, "tc", "-j", "qdisc", "show")
    return Facts(
        links=links, addresses=ask(LinkAddresses, "ip", "-j", "addr", "show"),
        routes=tuple(each for each in routes if not each.table),
        other_routes=tuple(each for each in routes if each.table and each.table != "local"),
        route_rules=(*ask(RouteRule, "ip", "-j", "rule", "show"), *ask(RouteRule, "ip", "-j", "-6", "rule", "show")),
        neighbours=ask(Neighbour, "ip", "-j", "neigh", "show"), fdb=ask(FdbEntry, "bridge", "-j", "fdb", "show"),
        chains=tuple(msgspec.convert([item["chain"] for item in found.nft if item.get("chain", {}).get("hook")], list[Chain])),
        sysctls=_sysctls(links), legacy=_legacy(), rules=found, settings=_settings(links, cni, subnet),
        policies=xfrm.policies_in(asker.text("ip", "xfrm", "policy", "list")),
        agreed=xfrm.agreed_in(asker.text("ip", "xfrm", "state", "list", "nokeys")),
        absent=absent, queues=queues, filters=tuple(_filters(queues, absent)), peers=tuple(_peers(links, absent)),
    )


def _peers(links: tuple[Link, ...], absent: dict[str, str]) -> Iterator[WireguardPeer]:
    """Their public keys and networks; no key that is secret leaves the adapter's answer."""
    names = [link.ifname for link in links if link.kind == "wireguard"]
    if not names:
        return
    from nodecore.kernel.wireguard import WireguardDevices

    devices = WireguardDevices()
    try:
        for name in names:
            for peer in sorted(devices.read(name)[1], key=lambda each: each.public_key):
                yield WireguardPeer(name, peer.public_key, tuple(sorted(map(str, peer.allowed))))
    except Fault as fault:
        absent["wireguard"] = str(fault)
    finally:
        devices.close()


def _filters(queues: tuple[Queue, ...], absent: dict[str, str]) -> Iterator[Filter]:
    """Of all links that may have some, asked at once: tc answers with one list for each."""
    asked = [(each.dev, side) for each in queues if each.kind in FILTERED for side in FILTERED[each.kind]]
    if not asked:
        return
    done = subprocess.run(["tc", "-j", "-batch", "-"], capture_output=True, text=True, check=False,
                          input="".join(f"filter show dev {dev} {side}\n" for dev, side in asked))
    if done.returncode:
        absent["tc filter"] = done.stderr.strip()
    text, decoder = done.stdout.lstrip(), json.JSONDecoder()
    for dev, side in asked:
        if not text:
            return
        found, end = decoder.raw_decode(text)
        text = text[end:].lstrip()
        yield from (Filter(dev, side, each["kind"]) for each in found if each.get("options"))


def _rules(absent: dict[str, str]) -> Rules:
    items = rulelist.nft_items(absent)
    return Rules(tuple(items), rulelist.nft_texts(absent), rulelist.iptables_saves(items, absent), _read("/proc/net/ip_vs"),
                 rulelist.ipsets(absent))


def _settings(links: tuple[Link, ...], cni: str, subnet: str) -> Settings:
    lines = [line.partition("=") for line in _read(subnet).splitlines()]
    told = {name: value for name, _, value in lines if name in FLANNEL}
    names = sorted(os.listdir(cni)) if os.path.isdir(cni) else None
    return Settings(
        None if names is None else tuple(names), told if lines else None, time.time(),
        {link.ifname: on for link in links if link.kind in DEFERRING and (on := _defers(link.ifname)) is not None},
        os.uname().release, _bad_checksums())


RECEIVED = {"Tcp": "InSegs", "Udp": "InDatagrams", "Icmp": "InMsgs"}


def _bad_checksums() -> dict[str, tuple[int, int]]:
    """By protocol, from pairs of lines, names and then numbers: how many, of how many."""
    found = {}
    for names, numbers in pairwise(line.split() for line in _read("/proc/net/snmp").splitlines()):
        protocol, values = names[0].rstrip(":"), dict(zip(names, numbers, strict=False))
        if names[0] == numbers[0] and protocol in RECEIVED:
            found[protocol] = int(values.get("InCsumErrors", 0)), int(values.get(RECEIVED[protocol], 0))
    return found


def _defers(link: str) -> bool | None:
    try:
        return defers_checksums(link)
    except Fault:
        return None


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
