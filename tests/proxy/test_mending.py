"""A table that is there already: it is read back without a loss, and what differs is changed, in the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from proxy_net import balanced, endpoints, service
from test_rules import HERE, SETTINGS, TARGETS, THERE, V4, WEB, Model, listing, load, v6

from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.net import Family
from proxy.render.nftables import Layout
from proxy.render.nftread import changes
from proxy.render.settings import Settings
from proxy.writers.nftables import NftablesWriter, read_table
from proxy.writers.takeover import Takeover

pytestmark = pytest.mark.kernel
COUNTED = Settings(SETTINGS.locality, (ip_network("192.168.0.0/16"),), count_traffic=True)
OBJECTS = (
    service("web", "10.96.0.1", *WEB, type="NodePort"), endpoints("web", HERE, THERE, ports=TARGETS),
    balanced(service("near", "10.96.0.2", *WEB[:1], type="LoadBalancer", externalTrafficPolicy="Local",
                     loadBalancerSourceRanges=["10.0.0.0/8", "192.168.7.7/32"]), "10.96.250.1"),
    endpoints("near", HERE, THERE, ports=TARGETS),
    service("same", "10.96.0.3", *WEB[:2], type="NodePort", sessionAffinity="ClientIP"),
    endpoints("same", HERE, THERE, ports=TARGETS),
    service("nobody", "10.96.0.4", ("t", "TCP", 80, 30099), type="NodePort"),
    service("none", "10.96.0.5", ("t", "TCP", 80, 0), internalTrafficPolicy="Local"), endpoints("none", THERE, ports=TARGETS),
)
LAYOUTS = {"ipv4": V4, "ipv6": Layout(Family.IPV6, SETTINGS), "counted": Layout(Family.IPV4, COUNTED),
           "counted-ipv6": Layout(Family.IPV6, COUNTED)}
DAMAGE = """
delete element {t} services {{ {web} . tcp . 80 }}
add element {t} services {{ {web} . tcp . 81 : goto refuse }}
delete element {t} cluster-endpoints {{ {web} . tcp . 80 . 1:0 }}
add element {t} cluster-endpoints {{ {web} . tcp . 80 . 1:0 : {web} . 9 }}
delete element {t} protocols {{ udp }}
flush set {t} allowed
flush chain {t} unserved
add chain {t} more
add chain {t} theirs {{ type filter hook input priority 5; policy drop; }}
add rule {t} theirs jump more
add rule {t} services drop
add element {t} nodeports {{ tcp . 9 : jump more }}
"""


@pytest.fixture
def space() -> Iterator[Netns]:
    with Netns.create() as made:
        yield made


def filled(layout: Layout) -> Model:
    model = Model(layout)
    model.put(*(v6(item) for item in OBJECTS) if layout.family is Family.IPV6 else OBJECTS)
    assert len(model.ledger) >= 7
    return model


def replace(space: Netns, model: Model) -> None:
    with space.enter():
        writer = NftablesWriter(Nft(), Takeover(Nft(), Iptables()), [model.layout.family])
        asyncio.run(writer.replace(model.layout, model.ledger.everything()))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_was_written_is_read(space: Netns, kind: str) -> None:
    model = filled(LAYOUTS[kind])
    load(space, model.full())
    with space.enter():
        there = read_table(model.layout)
    assert there
    wanted = model.ledger.everything().added
    assert changes(wanted, there, ("allowed",)) == ([], [item for item in wanted if item.container == "allowed"])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_differs_is_mended(space: Netns, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    layout = LAYOUTS[kind]
    model, family = filled(layout), layout.family
    load(space, model.full())
    remembered = "{ 10.1.1.1 . 10.96.0.3 . tcp . 80 : 2:1 }" if family is Family.IPV4 else "{ 1 . 2 . 3 : 2:1 }"
    space.run(["nft", "add", "element", family.nft, "kube-proxy-py", "cluster-affinity", remembered])
    before = listing(space, family)
    web = next(item.key.split(" ")[0] for item in model.ledger.everything().added if item.container == "services")
    load(space, DAMAGE.format(t=layout.table, web=web))
    assert listing(space, family) != before
    handle = space.run(["nft", "-a", "list", "tables"]).stdout
    with caplog.at_level("INFO"):
        replace(space, model)
    assert not caplog.text
    assert listing(space, family) == before
    assert space.run(["nft", "-a", "list", "tables"]).stdout == handle, "another table"


def test_another_declaration_is_replaced(space: Netns) -> None:
    load(space, filled(LAYOUTS["counted"]).full())
    model = filled(V4)
    with space.enter():
        assert read_table(V4) is None
    replace(space, model)
    written = listing(space)
    load(space, f"delete table {V4.table}\n")
    load(space, model.full())
    assert listing(space) == written


def test_an_element_that_cannot_be_read_is_no_obstacle(space: Netns) -> None:
    """Somebody has put a map of another type in the place of ours."""
    model = filled(V4)
    load(space, model.full())
    before = listing(space)
    load(space, f"flush map {V4.table} services\nflush chain {V4.table} services\ndelete map {V4.table} services\n"
                f"add map {V4.table} services {{ type ipv4_addr : verdict; elements = {{ 10.1.1.1 : drop }}; }}\n")
    replace(space, model)
    assert listing(space) == before
