"""What iptables holds of ours against what it should, in words, by Service.

iptables words rules its own way, so what should be there is given twice: as we word it, from which we know whose each rule is,
and as iptables does, having been loaded in a network namespace of its own. Both have the same order.

Pure. Must not know: how either is come by. Read next: `proxy/compare.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from .compare import NOBODY, SHARED
from .ledger import Chain, Ledger
from .names import PREFIX
from .render.leftovers import read_held

EVERYBODY = "all Services"
Rules = dict[str, list[str]]
PROBES = ("-d 127.0.0.1/32 ", "-d ::1/128 ")  # --verify-programming; no Service can have such an address


def read_rules(text: str) -> Rules:
    """The rules in our chains, and those that lead there, by `table chain`; of a script or a listing."""
    found: Rules = {}
    for section in text.split("*")[1:]:
        table = section.partition("\n")[0]
        jumps = set(read_held(section).jumps)
        for line in section.splitlines():
            verb, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            if verb == "-A" and (chain.startswith(PREFIX) or line in jumps):
                found.setdefault(f"{table} {chain}", []).append(rule)
    return found


def owners(ledger: Ledger) -> Mapping[tuple[str, str], str]:
    """Whose a rule is, by `table chain` and our words; where several need it, nobody's alone."""
    found: dict[tuple[str, str], str] = {}
    for owner, fragment in ledger.held():
        for item in (*fragment.elements, *fragment.shared):
            place, rules = (item.name, item.rules) if isinstance(item, Chain) else (item.container, item.value.split("\n"))
            for rule in rules:
                if found.setdefault((place, rule), owner) != owner:
                    found[(place, rule)] = SHARED
    return found


def chain_differences(ledger: Ledger, script: str, worded: str, kernel: str) -> list[str]:
    """One line for each rule that is missing or too many: `script` as we word it, the others as `iptables-save` does."""
    ours, wanted, there = read_rules(script), read_rules(worded), _without_probe(read_rules(kernel))
    whose, lines = owners(ledger), []
    for place in sorted(wanted.keys() | there.keys()):
        should, does = wanted.get(place, []), there.get(place, [])
        names = {worded: whose.get((place, rule), EVERYBODY) for rule, worded in zip(ours.get(place, []), should, strict=False)}
        lines += [f"{names.get(rule, EVERYBODY)}: {place} lacks {rule}" for rule in _more(should, does)]
        lines += [f"{NOBODY}: {place} has {rule}, which nobody asks for" for rule in _more(does, should)]
    return lines


def _more(some: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    return (Counter(some) - Counter(others)).elements()


def _without_probe(rules: Rules) -> Rules:
    """The rules without those of a probe, and without the ways that only lead there."""
    left = {place: [rule for rule in found if not rule.startswith(PROBES)] for place, found in rules.items()}
    emptied = {place for place, found in left.items() if not found}
    while emptied:
        targets = tuple(f"-j {place.partition(' ')[2]}" for place in emptied)
        left = {place: [rule for rule in found if not rule.endswith(targets)] for place, found in left.items() if found}
        emptied = {place for place, found in left.items() if not found}
    return left
