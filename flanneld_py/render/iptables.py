"""A family's rules as iptables chains: FLANNEL-FWD in `filter`, FLANNEL-POSTRTG in `nat`, word for word as Go flanneld's.

One script per table, for `iptables-restore --noflush`: it fills the chain, adds the jump to it where that is missing, and
takes away what else is ours, all in one commit. What is ours is told by the chains' names and the rules' comments: so
rules that old versions put straight into FORWARD and POSTROUTING are found as well, and nobody else's is. Rules of another
network, by another flanneld on this host, are told by their addresses and written again as they were.

Pure. Must not know: which of the two iptables runs it. Read next: `flanneld_py/rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flanneld_py.masq import Match, Rule, RuleSet, Verdict, beside, of_another_network, share_out


@dataclass(frozen=True, slots=True)
class Layout:
    """Where our rules live in a table; `leftover` chains are of no use and are removed."""

    chain: str
    hook: str
    comment: str
    leftover: tuple[str, ...] = ()

    @property
    def jump(self) -> str:
        """The rule that leads to the chain."""
        return f'-A {self.hook} -m comment --comment "{self.comment}" -j {self.chain}'

    @property
    def chains(self) -> tuple[str, ...]:
        """Every chain of ours there may be."""
        return (self.chain, *self.leftover)

    def owns(self, line: str) -> bool:
        """Whether a rule of the built-in chain is ours."""
        return f'--comment "{self.comment}"' in line or line.endswith(tuple(f" -j {chain}" for chain in self.chains))


TABLES: Mapping[str, Layout] = {
    "filter": Layout("FLANNEL-FWD", "FORWARD", "flanneld forward"),
    "nat": Layout("FLANNEL-POSTRTG", "POSTROUTING", "flanneld masq", leftover=("FLANNEL-FWD",)),
}
ADDRESSES = re.compile(r"( !)? -[sd] (\S+)")
MARKED = " -m mark --mark "
COUNTS = {"filter": 1, "nat": 2}  # addresses in a rule
CHAINS = frozenset(name for layout in TABLES.values() for name in (*layout.chains, layout.hook))


@dataclass(frozen=True, slots=True)
class Held:
    """What a table holds of ours: the chains with their rules, our rules in the built-in chain, all as iptables -S lists them.

    `others` are the rules of other networks in our chain.
    """

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    others: tuple[str, ...] = field(default=(), compare=False)

    def __bool__(self) -> bool:
        return any(self.chains.values()) if self.others else bool(self.chains or self.hooks)


def read_chains(
    table: str, listed: Mapping[str, tuple[str, ...]], hook: Sequence[str], rules: RuleSet, *, alone: bool
) -> Held:
    """What a table's chains of our names and its built-in chain hold; `alone` says that all flannel's rules are ours."""
    layout = TABLES[table]

    def theirs(line: str) -> bool:
        addresses = ADDRESSES.findall(line)
        return not alone and len(addresses) == COUNTS[table] and of_another_network(addresses, rules)

    shared = {name: share_out(lines, theirs, MARKED) for name, lines in listed.items()}
    hooks = tuple(line for line in hook if layout.owns(line) and not theirs(line))
    others = shared[layout.chain][1] if layout.chain in shared else ()
    return Held({name: own for name, (own, _) in shared.items()}, hooks, others)


def chain_rules(rules: RuleSet, table: str) -> tuple[str, ...]:
    """The rules of our chain in a table; none where the chain is not wanted."""
    layout = TABLES[table]
    wanted = rules.forward if table == "filter" else rules.masquerade
    return tuple(_rule(layout, rule, fully_random=rules.fully_random) for rule in wanted)


def table_script(table: str, rules: Sequence[str], held: Held) -> str:
    """What turns `held` into a chain of these rules with its jump; without rules, into nothing of ours."""
    layout = TABLES[table]
    content = beside(rules, held.others, MARKED)
    wanted = [layout.chain] if content else []
    stale = [chain for chain in held.chains if chain not in wanted]
    keeps = layout.jump if content and layout.jump in held.hooks else ""
    surplus = list(held.hooks)
    if keeps:
        surplus.remove(keeps)
    lines = [
        *(f":{chain} - [0:0]" for chain in (*wanted, *stale)),
        *content,
        *([layout.jump] if content and not keeps else []),
        *(f"-D{line.removeprefix('-A')}" for line in surplus),
        *(f"-X {chain}" for chain in stale),
    ]
    return "\n".join([f"*{table}", *lines, "COMMIT", ""])


def is_whole(table: str, rules: Sequence[str], held: Held) -> bool:
    """Whether our chain, in whichever spelling, has as many rules and is jumped to."""
    layout = TABLES[table]
    jumps = any(line.endswith(f" -j {layout.chain}") for line in held.hooks)
    return jumps and len(held.chains.get(layout.chain, ())) == len(rules)


def _rule(layout: Layout, rule: Rule, *, fully_random: bool) -> str:
    words = [f"-A {layout.chain}", _address("-s", rule.source), _address("-d", rule.destination)]
    words.append(f"-m mark --mark {rule.mark}/{rule.mark}" if rule.mark else "")
    words += [f'-m comment --comment "{layout.comment}"', f"-j {rule.verdict.value.upper()}"]
    words.append("--random-fully" if rule.verdict is Verdict.MASQUERADE and fully_random else "")
    return " ".join(filter(None, words))


def _address(option: str, match: Match | None) -> str:
    return f"{'! ' if match.outside else ''}{option} {match.network}" if match else ""
