"""The kernel's switches the rules rely on, each with its reason. A switch that does not exist here is not needed here.

Read next: `proxy/target.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodecore.errors import Denied
from nodecore.net import Family

ROOT = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Switch:
    """A file under /proc/sys and what has to be in it."""

    name: str
    value: str

    def describe(self) -> str:
        """For logs and --dry-run."""
        return f"set {self.name.replace('/', '.')} = {self.value}"


# without it a late segment counts as INVALID, leaves untranslated, and the caller resets the connection
TCP_BE_LIBERAL = Switch("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
WANTED = {
    Family.IPV4: (
        Switch("net/ipv4/ip_forward", "1"),  # NodePorts answer from other nodes' pods
        Switch("net/bridge/bridge-nf-call-iptables", "1"),  # pods on one bridge reach each other through a Service
        TCP_BE_LIBERAL,
    ),
    Family.IPV6: (
        Switch("net/ipv6/conf/all/forwarding", "1"),
        Switch("net/bridge/bridge-nf-call-ip6tables", "1"),
        TCP_BE_LIBERAL,
    ),
}


def read_wrong(family: Family) -> list[Switch]:
    """The switches that exist and are set otherwise."""
    return [switch for switch in WANTED[family] if (ROOT / switch.name).exists() and _read(switch) != switch.value]


def _read(switch: Switch) -> str:
    try:
        return (ROOT / switch.name).read_text().strip()
    except OSError:
        return ""


def write(switch: Switch) -> None:
    """Set one."""
    try:
        (ROOT / switch.name).write_text(switch.value)
    except OSError as error:
        raise Denied(f"sysctl {switch.name}: {error.strerror}") from None
