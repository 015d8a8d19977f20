"""A family's rules as an nftables table: `ip flannel-ipv4` or `ip6 flannel-ipv6`, by Go flanneld's names.

The script deletes the table and makes it anew within one transaction: whatever was in it, there is no moment without rules.

The tunnel's own packets are kept out of connection tracking: the packets inside are tracked anyway, and no rule asks about
the outer ones. That is worth several percent of throughput (`lab bench throughput`).

Pure. Must not know: nft's command line. Read next: `flanneld_py/render/iptables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from flanneld_py.masq import Match, Rule, RuleSet, Verdict
from nodecore.net import Family


def table_name(family: Family) -> str:
    """The table of a family."""
    return f"flannel-ipv{family.value}"


def table_script(rules: RuleSet) -> str:
    """What puts the table in place; nothing where there are no rules."""
    if not rules:
        return ""
    chains = []
    if rules.forward:
        chains.append(_chain("forward", "type filter hook forward priority filter;", _lines(rules, rules.forward)))
    if rules.masquerade:
        chains.append(_chain("postrtg", "type nat hook postrouting priority srcnat;", _lines(rules, rules.masquerade)))
    if rules.untracked_ports:
        for hook in ("prerouting", "output"):
            untracked = (f"udp dport {port} notrack" for port in rules.untracked_ports)
            chains.append(_chain(f"untracked-{hook}", f"type filter hook {hook} priority raw;", untracked))
    return removal_script(rules.family) + f"table {_key(rules.family)} {{\n" + "\n".join(chains) + "}\n"


def is_whole(script: str, listing: str) -> bool:
    """Whether a table as nft lists it, in whichever spelling, has a rule for each of the script's."""
    return _rules_in(listing) == _rules_in(script)


def _rules_in(text: str) -> int:
    return sum(not line.rstrip().endswith(("{", "}", ";")) for line in text.splitlines() if line.startswith("\t"))


def removal_script(family: Family) -> str:
    """What takes the table away, whether it is there or not."""
    return f"add table {_key(family)}\ndelete table {_key(family)}\n"


def _key(family: Family) -> str:
    return f"{family.nft} {table_name(family)}"


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    return f"\tchain {name} {{\n\t\t{hook} policy accept;\n" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n"


def _lines(rules: RuleSet, chain: Iterable[Rule]) -> list[str]:
    return [_rule(rules, rule) for rule in chain]


def _rule(rules: RuleSet, rule: Rule) -> str:
    words = [f"meta mark & {rule.mark} == {rule.mark}"] if rule.mark else []
    words += [_address(rules.family, "saddr", rule.source), _address(rules.family, "daddr", rule.destination)]
    random = rule.verdict is Verdict.MASQUERADE and rules.fully_random
    return " ".join([*filter(None, words), rule.verdict.value, *(["fully-random"] if random else [])])


def _address(family: Family, side: str, match: Match | None) -> str:
    return f"{family.nft} {side} {'!= ' if match.outside else ''}{match.network}" if match else ""
