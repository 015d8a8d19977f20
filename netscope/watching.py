"""A node's side of `flows` and of `doctor --fix`: its connections and TCP's counters of each namespace; a safe command, run.

Must not know: other nodes. Read next: `netscope/flows.py`, `netscope/mending.py`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from netscope.entries import connection_of
from netscope.mending import is_safe
from netscope.probe import OWN, namespaces
from netscope.records import Flows, Mended, Sent
from nodecore.errors import Fault
from nodecore.kernel.flowtable import FlowTable
from nodecore.kernel.host import KernelHost

COUNTERS = ("OutSegs", "RetransSegs", "OutRsts")


class Watching:
    """From its first look on, it hears of every connection that ends."""

    def __init__(self) -> None:
        self._table = FlowTable()

    def look(self) -> Flows:
        """Now."""
        ended, lost = self._table.ended()
        return Flows(tuple(map(connection_of, self._table.flows())), tuple(map(connection_of, ended)), lost, tuple(_sent()))


def _sent() -> list[Sent]:
    """TCP's counters of this namespace and of those its links lead to."""
    found, here = [], KernelHost()
    for path in namespaces():
        try:
            if path != OWN and not here.leads_to(path):
                continue
            addresses = tuple(str(address) for each in KernelHost(path).interfaces() if each.name != "lo"
                              for address in each.addresses if not address.is_link_local)
            text = Path(path.replace("/ns/net", "/net/snmp")).read_text()
        except (Fault, OSError):  # it has ended
            continue
        names, numbers = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        values = dict(zip(names, numbers, strict=False))
        found.append(Sent(addresses, *(int(values.get(name, 0)) for name in COUNTERS)))
    return found


def mend(command: list[str]) -> Mended:
    """Run it, where it is one of the safe ones."""
    if not is_safe(command):
        return Mended(f"{' '.join(command)}: is not one of the commands that are safe")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Mended("" if done.returncode == 0 else (done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}"))
