"""A daemon and its rules in all kinds: somebody flushes them, others live beside them, kinds change under traffic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from site_of_nodes import CONFIG, Node, Site, heals, ping_once, pinging, until

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow]

DAMAGE = [
    "iptables-{kind} -w -t nat -F FLANNEL-POSTRTG",
    "iptables-{kind} -w -t nat -F POSTROUTING",
    "iptables-{kind} -w -t nat -D FLANNEL-POSTRTG 3",
    "iptables-{kind} -w -F FORWARD",
    "iptables-{kind} -w -F",  # what a firewall's reload does: all chains of a table, then the empty ones go
    "iptables-{kind}-restore -w 5",
]


@pytest.fixture(scope="module")
def iptables_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An etcd whose network config says nothing of nftables."""
    made = Site(tmp_path_factory.mktemp("iptables"))
    try:
        made.etcd.start()
        made.configure({name: value for name, value in CONFIG.items() if name != "EnableNFTables"})
        yield made
    finally:
        made.close()


def started(site: Site, kind: str) -> Node:
    if not Path(f"/usr/sbin/iptables-{kind}").exists():
        pytest.skip(f"no iptables-{kind} here")
    node = site.add_node()
    for rule in ("-A INPUT -p tcp --dport 9 -j DROP", "-A FORWARD -p udp --dport 9 -j DROP"):
        node.ns.run([f"iptables-{kind}", "-w", *rule.split()])
    node.start("-ip-masq", "-iptables-resync=1")
    return node


def rules(node: Node, kind: str) -> str:
    text = node.ns.run([f"iptables-{kind}-save"]).stdout
    lines = [re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines() if "FLANNEL" in line]
    return "\n".join(sorted(lines))


@pytest.mark.parametrize(("kind", "seconds"), [("nft", 1.0), pytest.param("legacy", 3.0, marks=pytest.mark.slow)])
def test_flushed_rules_are_back(iptables_site: Site, kind: str, seconds: float) -> None:
    """By the monitor's news at once; legacy tables tell nobody, so with the resync period, here of 1 s."""
    node = started(iptables_site, kind)
    before = rules(node, kind)
    assert (before.count("-j FLANNEL-"), before.count("-j MASQUERADE")) == (2, 2)
    assert "flannel" not in node.ns.run(["nft", "list", "tables"]).stdout
    for damage in DAMAGE:
        stdin = "*filter\nCOMMIT\n*nat\nCOMMIT\n"
        harm = damage.format(kind=kind).split()
        took = heals(lambda: node.ns.run(harm, input=stdin), lambda: rules(node, kind) == before,  # noqa: B023
                     f"healed after {damage}", seconds)
        print(f"{kind}: {damage}: {took:.2f} s")
    node.stop()


def with_rules(node: Node, kind: str) -> Callable[[], bool]:
    """Whether the node has its rules in this kind and in no other."""
    def there() -> bool:
        found = {name for name in ("nft", "legacy") if "FLANNEL" in node.ns.run([f"iptables-{name}-save"]).stdout}
        if "flannel" in node.ns.run(["nft", "list", "tables"]).stdout:
            found.add("nftables")
        return found == {kind}

    return there


def test_kinds_change_with_the_network_config_and_no_packet_is_lost(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    one.start()
    two.start()
    site.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    outside = "192.168.77.254"
    with pinging(one.pod, two.pod_ip) as inside, pinging(one.pod, outside) as out:
        for nftables in (False, True):
            site.configure({**CONFIG, "EnableNFTables": nftables})
            one.stop()
            one.start()
            until(with_rules(one, "nftables" if nftables else "nft"), "one kind of rules")
    assert (inside.lost, out.lost) == (0, 0)


def test_what_a_rule_change_costs_nobody_notices(site: Site) -> None:
    """Somebody else's chains come and go in the same nft table: that is not our business, and we do not even look."""
    site.configure({**CONFIG, "EnableNFTables": False})
    node = started(site, "nft")
    before = node.log.read_text()
    for number in range(20):
        node.ns.run(["iptables-nft-restore", "--noflush"], input=f"*nat\n:KUBE-{number} - [0:0]\nCOMMIT\n")
    assert rules(node, "nft").count("-j MASQUERADE") == 2
    assert node.log.read_text() == before


def test_dry_run_names_the_kind(site: Site) -> None:
    site.configure({**CONFIG, "EnableNFTables": False})
    node = site.add_node()
    out = node.ns.run(node.arguments("-ip-masq", "--dry-run"), timeout=120).stdout
    assert "add iptables-nft rules in filter\nadd iptables-nft rules in nat\n" in out
    assert node.ns.run(["nft", "list", "ruleset"]).stdout == ""


def test_a_config_that_asks_for_neither_is_refused_by_name(site: Site) -> None:
    site.configure({**CONFIG, "EnableNFTables": "perhaps"})
    node = site.add_node()
    done = node.ns.run(node.arguments(), check=False, timeout=120)
    assert (done.returncode, 'EnableNFTables: "perhaps" is not true or false' in done.stderr) == (2, True), done.stderr
