"""Told to write nftables, flanneld leaves the legacy tables as they were: python-iptables, which knows only those, looks.
And where the host uses those, it reads there what we have written.

The library loads C libraries and keeps tables open for its process: it runs in a child inside the node's namespace.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rule_hosts import RuleHost, wanted
from site_of_nodes import Node, Site

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow]

READER = """
import json, iptc
found = {}
for version, kind in ((4, iptc.Table), (6, iptc.Table6)):
    for name in ("filter", "nat"):
        table = kind(name)
        for chain in table.chains:
            found[f"{version} {name} {chain.name}"] = {
                "builtin": table.builtin_chain(chain),
                "rules": [[rule.src, rule.protocol, rule.target.name] for rule in chain.rules],
            }
print(json.dumps(found))
"""
BUILTIN = {
    f"{version} {table} {chain}"
    for version in (4, 6)
    for table, chains in (("filter", "INPUT FORWARD OUTPUT"), ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"))
    for chain in chains.split()
}


def legacy(node: Node) -> dict[str, dict]:
    return json.loads(node.ns.run([sys.executable, "-c", READER]).stdout)


def has_content(tables: dict[str, dict]) -> dict[str, dict]:
    return {name: chain for name, chain in tables.items() if chain["rules"] or not chain["builtin"]}


def node_of(site: Site) -> Node:
    node = site.add_node()
    if not Path("/usr/sbin/iptables-legacy").exists():
        pytest.skip("no iptables-legacy here to show that the reader sees something")
    return node


def test_the_legacy_tables_stay_empty(site: Site) -> None:
    node = node_of(site)
    node.start("-ip-masq")
    tables = node.ns.run(["nft", "list", "tables"]).stdout
    assert "flannel-ipv4" in tables, "flanneld has written its rules"
    found = legacy(node)
    assert set(found) == BUILTIN
    assert has_content(found) == {}


def test_a_rule_of_somebody_else_is_seen_and_stays(site: Site) -> None:
    node = node_of(site)
    for command in (
        "iptables-legacy -w -A INPUT -s 203.0.113.7/32 -p tcp -j DROP",
        "iptables-legacy -w -t nat -N SOMEBODYS",
        "ip6tables-legacy -w -A FORWARD -p udp -j ACCEPT",
    ):
        node.ns.run(command.split())
    before = legacy(node)
    assert has_content(before) == {
        "4 filter INPUT": {"builtin": True, "rules": [["203.0.113.7/255.255.255.255", "tcp", "DROP"]]},
        "4 nat SOMEBODYS": {"builtin": False, "rules": []},
        "6 filter FORWARD": {"builtin": True, "rules": [["::/0", "udp", "ACCEPT"]]},
    }
    node.start("-ip-masq")
    assert legacy(node) == before
    node.stop()
    assert legacy(node) == before


def test_rules_written_to_the_legacy_tables_are_read_by_somebody_else() -> None:
    """IPv4: the reader knows no masquerading for IPv6."""
    reader = READER.replace(", (6, iptc.Table6)", ",")
    host = RuleHost()
    try:
        host.use("legacy")
        host.apply(wanted(nftables=False))
        found = has_content(json.loads(host.ns.run([sys.executable, "-c", reader]).stdout))
    finally:
        host.close()
    assert found["4 filter FLANNEL-FWD"]["rules"] == [
        ["10.5.0.0/255.255.0.0", "ip", "ACCEPT"], ["0.0.0.0/0.0.0.0", "ip", "ACCEPT"]]
    assert [rule[2] for rule in found["4 nat FLANNEL-POSTRTG"]["rules"]] == ["RETURN"] * 4 + ["MASQUERADE"] * 2
    assert found["4 filter FORWARD"]["rules"][1:] == [["0.0.0.0/0.0.0.0", "ip", "FLANNEL-FWD"]]
