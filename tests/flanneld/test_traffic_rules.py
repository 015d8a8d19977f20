"""Traffic rules in nftables and both iptables: their words, who they replace, whom they leave alone."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from rule_hosts import KINDS, PLANS, V4, V6, Plan, RuleHost, needs_iptables, wanted

from flanneld_py.masq import Wanted, desired_rules
from flanneld_py.render import iptables, nftables
from flanneld_py.rules import concerns
from nodecore.errors import Busy, Fault, Invalid, NotFound, leaves
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.ports import Variant
from nodecore.net import Family

NOTHING = wanted(nftables=True, plans=())


def text_of(family: Family, network: str, subnet: str, **switches: bool) -> str:
    given = {"masquerade": True, "forward": True, "fully_random": True} | switches
    return nftables.table_script(desired_rules(family, ip_network(network), ip_network(subnet), **given), {})


def test_what_is_switched_off_leaves_nothing() -> None:
    assert text_of(Family.IPV4, "10.5.0.0/16", "10.5.1.0/24", masquerade=False, forward=False) == ""
    assert "postrtg" not in text_of(Family.IPV4, "10.5.0.0/16", "10.5.1.0/24", masquerade=False)
    rules = desired_rules(Family.IPV6, None, None, masquerade=True, forward=True, fully_random=True)
    assert (nftables.table_script(rules, {}), iptables.chain_rules(rules, "nat")) == ("", ())


def test_ipv6_table_golden() -> None:
    assert text_of(Family.IPV6, "fd00:5::/48", "fd00:5:0:1::/64", forward=False, fully_random=False) == """\
add table ip6 flannel-ipv6
delete table ip6 flannel-ipv6
table ip6 flannel-ipv6 {
	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x4000 == 0x4000 return
		ip6 saddr fd00:5:0:1::/64 ip6 daddr fd00:5::/48 return
		ip6 saddr fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return
		ip6 saddr != fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return
		ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade
		ip6 saddr != fd00:5::/48 ip6 daddr fd00:5::/48 masquerade
	}
}
"""


def test_an_iptables_script_adds_what_is_missing_and_takes_away_what_is_old() -> None:
    held = iptables.Held(
        {"FLANNEL-POSTRTG": ("-A FLANNEL-POSTRTG -j RETURN",), "FLANNEL-FWD": ()},
        ('-A POSTROUTING -s 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE', iptables.TABLES["nat"].jump,
         iptables.TABLES["nat"].jump),
    )
    assert iptables.table_script("nat", ["-A FLANNEL-POSTRTG -j ACCEPT"], held) == """*nat
:FLANNEL-POSTRTG - [0:0]
:FLANNEL-FWD - [0:0]
-A FLANNEL-POSTRTG -j ACCEPT
-D POSTROUTING -s 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE
-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-X FLANNEL-FWD
COMMIT
"""
    assert iptables.table_script("nat", [], iptables.Held({}, ())) == "*nat\nCOMMIT\n"


def test_a_listing_with_a_rule_less_is_not_whole() -> None:
    """Somebody may have flushed a chain between our writing and our looking: that is not to be taken for our writing."""
    script = text_of(Family.IPV4, "10.5.0.0/16", "10.5.1.0/24")
    listing = script.split("\n", 2)[2].replace("& 0x4000 == 0x4000", "& 0x00004000 == 0x00004000")
    assert nftables.is_whole(script, listing)
    assert not nftables.is_whole(script, listing.replace("\t\tip saddr 10.5.0.0/16 accept\n", ""))
    assert not nftables.is_whole(script, "")
    chain, jump = ("-A FLANNEL-FWD -j ACCEPT",), (iptables.TABLES["filter"].jump,)
    assert iptables.is_whole("filter", chain, iptables.Held({"FLANNEL-FWD": chain}, jump))
    assert not iptables.is_whole("filter", chain, iptables.Held({"FLANNEL-FWD": ()}, jump))
    assert not iptables.is_whole("filter", chain, iptables.Held({"FLANNEL-FWD": chain}, ()))


@pytest.mark.parametrize(("line", "another"), [
    ("-A FLANNEL-POSTRTG -s 10.9.1.0/24 -d 10.9.0.0/16 -j RETURN", True),
    ("-A FLANNEL-POSTRTG ! -s 10.9.0.0/16 -d 10.9.1.0/24 -j RETURN", True),
    ("-A FLANNEL-POSTRTG -s 10.5.9.0/24 -d 10.5.0.0/16 -j RETURN", False),  # our network's, with a subnet we had before
    ("-A FLANNEL-POSTRTG ! -s 10.9.0.0/16 ! -d 10.9.0.0/16 -j RETURN", False),  # says nothing of another network
    ("-A FLANNEL-POSTRTG -s 10.9.0.0/16 ! -d 0.0.0.0/0 -j RETURN", False),
    ("-A FLANNEL-POSTRTG -s 10.9.0.0/16 -j RETURN", False),  # not as flannel writes them
    ("-A FLANNEL-POSTRTG -j RETURN", False),
])
def test_whose_a_rule_is(line: str, another: bool) -> None:
    rules = wanted(nftables=False).sets[0]
    held = iptables.read_chains("nat", {"FLANNEL-POSTRTG": (line,)}, (), rules, alone=False)
    assert held.others == ((line,) if another else ())
    assert iptables.read_chains("nat", {"FLANNEL-POSTRTG": (line,)}, (), rules, alone=True).others == ()


@pytest.mark.parametrize(("change", "ours"), [
    ("ip flannel-ipv4", True), ("ip6 flannel-ipv6 postrtg", True), ("ip nat", True), ("ip nat POSTROUTING", True),
    ("ip6 filter FLANNEL-FWD", True), ("ip nat KUBE-SERVICES", False), ("ip kube-proxy", False), ("inet filter FORWARD", False),
    ("? x", False), ("ip", False),
])
def test_which_news_concern_us(change: str, ours: bool) -> None:
    assert concerns(change) is ours


# --- in a namespace ----------------------------------------------------------------------------------------------

kernel = pytest.mark.kernel


@pytest.fixture
def host() -> Iterator[RuleHost]:
    needs_iptables()
    made = RuleHost()
    yield made
    made.close()


def exact(plan: Plan) -> dict[str, list[str]]:
    """What facts/flannel.md 1.5 says, in the words of iptables -S."""
    n, p, chain = plan.network, plan.subnet, "-A FLANNEL-POSTRTG"
    masq, forward = '-m comment --comment "flanneld masq"', '-m comment --comment "flanneld forward"'
    return {
        "filter FORWARD": [f"-A FORWARD {forward} -j FLANNEL-FWD"],
        "filter FLANNEL-FWD": [f"-A FLANNEL-FWD -s {n} {forward} -j ACCEPT", f"-A FLANNEL-FWD -d {n} {forward} -j ACCEPT"],
        "nat POSTROUTING": [f"-A POSTROUTING {masq} -j FLANNEL-POSTRTG"],
        "nat FLANNEL-POSTRTG": [
            f"{chain} -m mark --mark 0x4000/0x4000 {masq} -j RETURN", f"{chain} -s {p} -d {n} {masq} -j RETURN",
            f"{chain} -s {n} -d {p} {masq} -j RETURN", f"{chain} ! -s {n} -d {p} {masq} -j RETURN",
            f"{chain} -s {n} ! -d {plan.family.multicast} {masq} -j MASQUERADE --random-fully",
            f"{chain} ! -s {n} -d {n} {masq} -j MASQUERADE --random-fully",
        ],
    }


def listed(host: RuleHost, kind: str, plan: Plan) -> dict[str, list[str]]:
    found = {}
    for where in exact(plan):
        table, chain = where.split()
        lines = host.sh(f"{plan.program}-{kind} -w 5 -t {table} -S {chain}").splitlines()
        found[where] = [line for line in lines if line.startswith("-A") and "flanneld" in line]
    return found


@kernel
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("go", [True, False])
def test_the_words_are_flannels_whoever_was_there_before(host: RuleHost, kind: str, go: bool) -> None:
    host.use(kind)
    before = host.save()
    if go:
        for plan in PLANS:
            host.go_flanneld(kind, plan)
    done = [op.describe() for op in host.apply(wanted(nftables=False))]
    verb = "replace" if go else "add"
    assert done == [f"{verb} {ip}tables-{kind} rules in {table}" for ip in ("ip", "ip6") for table in ("filter", "nat")]
    for plan in PLANS:
        assert listed(host, kind, plan) == exact(plan)
    assert host.save(ours=False) == before, "nobody else's rule was touched"
    assert host.apply(wanted(nftables=False)) == [], "and then there is nothing to do"
    host.fresh()
    host.apply(NOTHING)
    assert host.save() == before, "it goes without a trace"
    assert host.sh("nft list tables").count("flannel") == 0


@kernel
@pytest.mark.parametrize("kind", KINDS)
def test_two_networks_share_a_host(host: RuleHost, kind: str) -> None:
    """The second comes and takes all for its own, as Go's does; then each keeps what is the other's, and there is peace."""
    if kind != "nftables":
        host.use(kind)
    other = replace(V4, network="10.9.0.0/16", subnet="10.9.1.0/24")
    first, second = wanted(nftables=kind == "nftables"), wanted(nftables=kind == "nftables", plans=(V4,))
    mine = desired_rules(Family.IPV4, ip_network(other.network), ip_network(other.subnet), masquerade=True, forward=False,
                         fully_random=True, untracked_ports=(8473,))
    second = Wanted((mine, second.sets[1]), second.nftables)
    host.apply(first)
    one, two = host.target, host.fresh()
    assert host.apply(second)
    for _ in range(2):
        host.target = one
        one.forget()
        host.apply(first)
        host.target = two
        two.hear("*")
        host.apply(second)
    for target, asked in ((one, first), (two, second)):
        host.target = target
        target.hear("*")
        assert host.apply(asked) == []
    rules = host.save() + host.sh("nft list ruleset")
    assert all(network in rules for network in (V4.network, other.network, V6.network))
    two.forget()
    host.apply(wanted(nftables=kind == "nftables", plans=()))  # the second is told to have none
    rules = host.save() + host.sh("nft list ruleset")
    assert V4.network in rules


@kernel
def test_one_family_off_and_one_part_off(host: RuleHost) -> None:
    host.use("nft")
    before = host.save()
    host.apply(wanted(nftables=False, plans=(V4,)))
    assert "fd00" not in host.save()
    host.apply(wanted(nftables=False, masquerade=False))
    assert ("FLANNEL-POSTRTG" in host.save(), host.save().count("-j FLANNEL-FWD")) == (False, 2)
    host.apply(wanted(nftables=False, forward=False))
    assert ("FLANNEL-FWD" in host.save(), host.save().count("-j FLANNEL-POSTRTG")) == (False, 2)
    host.apply(wanted(nftables=False, forward=False, masquerade=False))
    assert host.save() == before


@kernel
def test_what_other_versions_left_goes(host: RuleHost) -> None:
    """Rules straight in POSTROUTING (before 0.20), a FLANNEL-FWD in nat, a doubled jump, a later version's nft table."""
    host.use("legacy")
    before = host.save()
    for plan in PLANS:
        host.go_flanneld("legacy", plan)
        for rule in (f"-s {plan.network} -d {plan.network} -m comment --comment 'flanneld masq' -j RETURN",
                     "-m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG"):
            host.ns.run(["sh", "-c", f"{plan.program}-legacy -w 5 -t nat -A POSTROUTING {rule}"])
        host.sh(f"{plan.program}-legacy -w 5 -t nat -N FLANNEL-FWD")
        table = f"{plan.family.nft} flannel-ipv{plan.family.value}"
        host.sh("nft -f -", f"table {table} {{\nchain postrtg {{ type nat hook postrouting priority srcnat;\n"
                            f"meta mark 0x4000 return\n}}\n}}\n")
    host.apply(wanted(nftables=False))
    for plan in PLANS:
        assert listed(host, "legacy", plan) == exact(plan)
    assert host.save(ours=False) == before
    assert "flannel" not in host.sh("nft list tables")


@kernel
def test_looking_makes_no_legacy_table(host: RuleHost) -> None:
    host.apply(wanted(nftables=True))
    host.use("nft")
    host.fresh()
    host.apply(wanted(nftables=False))
    host.apply(wanted(nftables=True))
    assert host.sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names") == ""


@kernel
@pytest.mark.parametrize(("theirs", "chosen"), [
    ((), Variant.NFT), (("legacy",), Variant.LEGACY), (("nft",), Variant.NFT), (("nft", "legacy"), Variant.NFT),
])
def test_the_variant_is_the_hosts(host: RuleHost, theirs: tuple[str, ...], chosen: Variant) -> None:
    """Where both weigh the same it is the one the plain `iptables` runs: nft on this machine."""
    for kind in theirs:
        host.use(kind)
    with host.ns.enter():
        assert asyncio.run(Iptables().chosen()) is chosen
        if theirs == ("nft",):
            host.sh("iptables-legacy -w 5 -t mangle -N KUBE-IPTABLES-HINT")
            assert asyncio.run(Iptables().chosen()) is Variant.LEGACY, "the kubelet knows"


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@kernel
def test_a_held_lock_is_told_and_waited_for(host: RuleHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    chains = Iptables(wait=1)
    script = "*nat\n:FLANNEL-POSTRTG - [0:0]\nCOMMIT\n"

    async def write() -> None:
        await chains.restore(Variant.LEGACY, Family.IPV4, script)

    told = "another program has held the xtables lock for more than 1 s"
    with host.ns.enter(), holding(lock), pytest.raises(Busy, match=told):
        asyncio.run(write())
    with host.ns.enter():
        asyncio.run(write())
        with pytest.raises(Invalid, match=r"iptables: .*--nosuch"):
            asyncio.run(chains.restore(Variant.NFT, Family.IPV4, "*nat\n-A POSTROUTING -j ACCEPT --nosuch\nCOMMIT\n"))


@kernel
def test_where_the_new_cannot_be_written_the_old_stays(host: RuleHost) -> None:
    host.use("nft")
    host.apply(wanted(nftables=True))
    host.sh("nft add chain ip nat FLANNEL-POSTRTG { type nat hook output priority 0; }")  # no chain to be jumped to
    before = host.sh("nft list table ip flannel-ipv4")
    with pytest.raises(ExceptionGroup) as caught:
        host.apply(wanted(nftables=False))
    assert all(isinstance(leaf, Fault) for leaf in leaves(caught.value))
    assert host.sh("nft list table ip flannel-ipv4") == before
    assert "ip6 flannel-ipv6" not in host.sh("nft list tables"), "the other family goes on"


@kernel
def test_a_host_without_iptables(host: RuleHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nft").symlink_to("/usr/sbin/nft")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(NotFound, match="EnableNFTables"):
            host.apply(wanted(nftables=False))
        assert [op.describe() for op in host.apply(wanted(nftables=True))] == [
            "add nft table ip flannel-ipv4", "add nft table ip6 flannel-ipv6"]
        host.fresh()
        assert len(host.apply(wanted(nftables=False, plans=()))) == 2, "no rules can be had without iptables"
