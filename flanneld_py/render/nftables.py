"""A family's rules as an nftables table: `ip flannel-ipv4` or `ip6 flannel-ipv6`, by Go flanneld's names.

The script deletes the table and makes it anew within one transaction: whatever was in it, there is no moment without rules.
Rules of another network, by another flanneld on this host, are told by their addresses and written again as they were.

The tunnel's own packets are kept out of connection tracking: the packets inside are tracked anyway, and no rule asks about
the outer ones. What that is worth, and what it is not: docs/explanation/traffic-rules.md.

Pure. Must not know: nft's command line. Read next: `flanneld_py/render/iptables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flanneld_py.masq import Match, Rule, RuleSet, Verdict, beside, of_another_network, share_out
from nodecore.net import Family

HOOKS = {
    "forward": "type filter hook forward priority filter;",
    "postrtg": "type nat hook postrouting priority srcnat;",
    "untracked-prerouting": "type filter hook prerouting priority raw;",
    "untracked-output": "type filter hook output priority raw;",
}
ADDRESSES = re.compile(r"[sd]addr (!= )?(\S+)")
MARKED = "meta mark "
COUNTS = {"forward": 1, "postrtg": 2}  # addresses in a rule


@dataclass(frozen=True, slots=True)
class Listed:
    """A table as nft lists it: what is ours, and by chain the rules that are another network's."""

    text: str = ""
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.text)


def table_name(family: Family) -> str:
    """The table of a family."""
    return f"flannel-ipv{family.value}"


def table_script(rules: RuleSet, others: Mapping[str, tuple[str, ...]]) -> str:
    """What puts the table in place, with the rules of others after ours; nothing where there are none of either."""
    own = _chains(rules)
    content = {name: beside(own[name], others.get(name, ()), MARKED) for name in HOOKS}
    blocks = [
        f"\tchain {name} {{\n\t\t{HOOKS[name]} policy accept;\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"
        for name, lines in content.items() if lines
    ]
    if not blocks:
        return ""
    return removal_script(rules.family) + f"table {_key(rules.family)} {{\n" + "\n".join(blocks) + "}\n"


def removal_script(family: Family) -> str:
    """What takes the table away, whether it is there or not."""
    return f"add table {_key(family)}\ndelete table {_key(family)}\n"


def read_listing(listing: str, rules: RuleSet, *, alone: bool) -> Listed:
    """What nft lists of a table; `alone` says that all of it is ours."""
    if alone or not listing:
        return Listed(listing)
    own_ports = {line for lines in _chains(rules).values() for line in lines if line.endswith("notrack")}
    blocks, others = [], {}
    for name, head, body in re.findall(r"^\tchain (\S+) \{\n(\t\ttype .*\n)?((?:\t\t.*\n)*)\t\}$", listing, re.M):
        def is_another(line: str, chain: str = name) -> bool:
            return _is_another(chain, line, rules) or (line.endswith("notrack") and line not in own_ports)

        lines = [line.strip() for line in body.splitlines()]
        own, others[name] = share_out(lines, is_another, MARKED)
        if own or not lines:
            blocks.append(f"\tchain {name} {{\n{head}" + "".join(f"\t\t{line}\n" for line in own) + "\t}\n")
    return Listed("\n".join(blocks), others)


def _is_another(chain: str, line: str, rules: RuleSet) -> bool:
    addresses = ADDRESSES.findall(line)
    return len(addresses) == COUNTS.get(chain) and of_another_network(addresses, rules)


def is_whole(script: str, listing: str) -> bool:
    """Whether a table as nft lists it, in whichever spelling, has a rule for each of the script's."""
    return _rules_in(listing) == _rules_in(script)


def _rules_in(text: str) -> int:
    return sum(not line.rstrip().endswith(("{", "}", ";")) for line in text.splitlines() if line.startswith("\t"))


def _key(family: Family) -> str:
    return f"{family.nft} {table_name(family)}"


def _chains(rules: RuleSet) -> dict[str, list[str]]:
    untracked = [f"udp dport {port} notrack" for port in rules.untracked_ports] if rules else []
    return {
        "forward": [_rule(rules, rule) for rule in rules.forward],
        "postrtg": [_rule(rules, rule) for rule in rules.masquerade],
        "untracked-prerouting": untracked,
        "untracked-output": untracked,
    }


def _rule(rules: RuleSet, rule: Rule) -> str:
    words = [f"meta mark & {rule.mark} == {rule.mark}"] if rule.mark else []
    words += [_address(rules.family, "saddr", rule.source), _address(rules.family, "daddr", rule.destination)]
    random = rule.verdict is Verdict.MASQUERADE and rules.fully_random
    return " ".join([*filter(None, words), rule.verdict.value, *(["fully-random"] if random else [])])


def _address(family: Family, side: str, match: Match | None) -> str:
    return f"{family.nft} {side} {'!= ' if match.outside else ''}{match.network}" if match else ""
