"""What a table as `iptables-save` writes it holds of ours and of Go kube-proxy's, and the script that removes it.

Chains are told by their names, rules in anybody's chain by what they jump to; nothing else is touched. Some chains of
Go kube-proxy are the kubelet's as well, in versions that make them: where that has been, they stay.

Pure. Read next: `proxy/writers/iptables.py`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..names import PREFIX

GO_CHAINS = re.compile(
    r"KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|FORWARD|PROXY-FIREWALL|PROXY-CANARY|LOAD-BALANCER|NODE-PORT"
    r"|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|(SVC|SVL|SEP|FW|XLB|EXT)-[A-Z0-9]+)")
GO_SETS = re.compile(  # of ipset; others give theirs names in KUBE- too
    r"KUBE-(6-)?(LOOP-BACK|CLUSTER-IP|EXTERNAL-IP(-LOCAL)?|LOAD-BALANCER(-LOCAL|-FW|-SOURCE-CIDR|-SOURCE-IP)?"
    r"|NODE-PORT(-LOCAL)?-(TCP|UDP|SCTP(-HASH)?)|HEALTH-CHECK-NODE-PORT|IPVS-IPS)")
GO_SHARED = frozenset({"KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-MARK-DROP"})
KUBELET = frozenset({"KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-HOSTPORTS"})
HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
TARGET = re.compile(r" -[jg] (\S+)")


class Whose(enum.Enum):
    """Whose chains."""

    OURS = enum.auto()
    GO = enum.auto()  # Go kube-proxy's


@dataclass(frozen=True, slots=True)
class Held:
    """Ours in one table: chains, how many rules are in them, and the rules of other chains that jump there."""

    chains: frozenset[str] = frozenset()
    rules: int = 0
    jumps: tuple[str, ...] = ()

    @property
    def entries(self) -> int:
        """What the kernel counts it as."""
        return self.rules + len(self.jumps) + 2 * len(self.chains)


def read_held(saved: str) -> Held:
    """What is ours of a table."""
    chains = frozenset(name for name in _chains(saved) if name.startswith(PREFIX))
    jumps, count = [], 0
    for line in saved.splitlines():
        if line.startswith(f"-A {PREFIX}"):
            count += 1
        elif line.startswith("-A ") and _target(line).startswith(PREFIX):
            jumps.append(line)
    return Held(chains, count, tuple(jumps))


def read_tables(saved: str) -> dict[str, Held]:
    """The same of every table there is."""
    return {name: read_held(rest) for name, _, rest in (section.partition("\n") for section in f"\n{saved}".split("\n*")[1:])}


def removal_script(table: str, saved: str, whose: Collection[Whose]) -> str:
    """What removes their chains from a table; empty if there are none."""
    there = frozenset(_chains(saved))
    doomed = {name for name in there if Whose.OURS in whose and name.startswith(PREFIX)}
    if Whose.GO in whose:
        doomed |= {name for name in there if GO_CHAINS.fullmatch(name)} | (frozenset() if KUBELET & there else GO_SHARED & there)
    lines = [line for line in saved.splitlines() if line.startswith("-A ")]
    if GO_SHARED & {_target(line) for line in lines if _owner(line) not in doomed | HOOKS}:
        doomed -= GO_SHARED  # somebody else marks packets by them
    if not doomed:
        return ""
    jumps = [line for line in lines if _target(line) in doomed and _owner(line) not in doomed]
    names = sorted(doomed)
    return "\n".join((
        f"*{table}", *(f":{name} - [0:0]" for name in names), *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {name}" for name in names), "COMMIT", "",
    ))


def _chains(saved: str) -> Iterable[str]:
    return (line[1:].split(" ", 1)[0] for line in saved.splitlines() if line.startswith(":"))


def _owner(line: str) -> str:
    return line.split(" ", 2)[1]


def _target(line: str) -> str:
    found = TARGET.findall(line)
    return found[-1] if found else ""
