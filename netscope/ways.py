"""How this node would send to an address, asked of the kernel through iproute2's JSON: route, neighbour, forwarding entry.

Must not know: flows. Read next: `netscope/records.py`.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from netscope.records import Way

REFUSALS = ("blackhole", "unreachable", "prohibit", "throw")


def way_to(address: str) -> Way:
    """Route, then whoever is asked on the link, then where its MAC lives."""
    found, trouble = _ask("ip", "route", "get", address)
    if not found:
        return _refused(address) or Way(address, trouble=f"no route to {address}: {trouble}")
    link, gateway = found[0].get("dev", ""), found[0].get("gateway", "")
    if link == "lo" or found[0].get("type") == "local":
        return Way(address, link)
    next_hop = gateway or address
    neighbours, _ = _ask("ip", "neigh", "show", "to", next_hop, "dev", link)
    if not neighbours:
        return Way(address, link, gateway)
    mac, state = neighbours[0].get("lladdr", ""), neighbours[0].get("state", [""])[0]
    if not mac:
        return Way(address, link, gateway, trouble=f"nobody answers for {next_hop} on {link} (neighbour {state})")
    if not _is_vxlan(link):
        return Way(address, link, gateway, mac)
    host = _host_behind(link, mac)
    return Way(address, link, gateway, mac, host, "" if host else f"{link} does not know behind which host {mac} is")


def _refused(address: str) -> Way | None:
    """A route that is there to refuse."""
    family = ["-6"] if ":" in address else []
    entries, _ = _ask("ip", *family, "route", "show", "to", "match", address)
    found = next((each for each in entries if each.get("type") in REFUSALS), None)
    if found is None:
        return None
    route = f"{found['type']} {found['dst']}"
    mend = " ".join(["ip", *family, "route del", route])
    return Way(address, trouble=f"the route {route} keeps what is for {address}", mend=mend)


def _is_vxlan(link: str) -> bool:
    found, _ = _ask("ip", "-d", "link", "show", link)
    return any(each.get("linkinfo", {}).get("info_kind") == "vxlan" for each in found)


def _host_behind(link: str, mac: str) -> str:
    entries, _ = _ask("bridge", "fdb", "show", "dev", link)
    return next((entry["dst"] for entry in entries if entry.get("mac") == mac and "dst" in entry), "")


def _ask(program: str, *words: str) -> tuple[list[dict[str, Any]], str]:
    done = subprocess.run([program, "-j", *words], capture_output=True, text=True, check=False)
    trouble = done.stderr.strip().removeprefix("RTNETLINK answers: ").splitlines()
    return json.loads(done.stdout or "[]"), trouble[0] if trouble else ""
