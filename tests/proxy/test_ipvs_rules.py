"""IPVS mode without IPVS: what it comes to as text; that many small changes come to one large one; how things drain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_net import balanced, endpoints, service, shape
from test_rules import HERE, SETTINGS, TARGETS, THERE, WEB, Model, as_golden, final, steps, v6

from nodecore.errors import Busy, UserError
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.diff import DeleteLink
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.fakeipvs import FakeIpvs
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kernel.virtualserver import Destination, Server, ServerKey
from nodecore.net import Family
from proxy.config import IpvsOptions, build, to_document
from proxy.render.ipvs import Layout
from proxy.snapshot import Snapshot
from proxy.target import Actual, Rules
from proxy.writers.ipvs import IpvsWriter
from proxy.writers.takeover import Takeover
from proxy.writers.virtual_servers import clear, lives
from tests.kernelmodules import lacks_ipvs

V4, V6 = Layout(Family.IPV4, SETTINGS), Layout(Family.IPV6, SETTINGS, "sh")
LOCAL_WEB = service("web", "10.96.0.1", *WEB, type="LoadBalancer", externalTrafficPolicy="Local", sessionAffinity="ClientIP")
SCENES = {
    "everything": (V4, (balanced(LOCAL_WEB, "10.96.250.1"), endpoints("web", HERE, THERE, ports=TARGETS),
                        balanced(service("open", "10.96.0.2", *WEB[:1], type="LoadBalancer",
                                         loadBalancerSourceRanges=["192.0.2.0/24"]), "10.96.250.2"),
                        endpoints("open", THERE, ports=TARGETS), service("nobody", "10.96.0.3", ("t", "TCP", 80, 0)))),
    "ipv6": (V6, (v6(service("web", "10.96.0.1", *WEB, type="NodePort")), v6(endpoints("web", HERE, THERE, ports=TARGETS)))),
}


@pytest.mark.parametrize("scene", SCENES)
def test_whole(scene: str) -> None:
    layout, objects = SCENES[scene]
    model = Model(layout)
    model.put(*objects)
    as_golden(f"{scene}.ipvs", model.full())


@pytest.fixture(scope="module")
def space() -> Iterator[Netns]:
    with Netns.create() as made:
        yield made


@dataclass
class Node:
    """A node whose nftables are real and whose IPVS and addresses are not."""

    space: Netns
    layout: Layout = V4
    ipvs: FakeIpvs = field(default_factory=FakeIpvs)
    network: FakeNetwork = field(default_factory=FakeNetwork)

    def __post_init__(self) -> None:
        nft = Nft(command=("nsenter", f"--net={self.space.path}", "nft"))
        excluded = [ip_network("192.0.2.0/24")]
        self.writer = IpvsWriter(nft, Takeover(nft, Iptables()), [self.layout.family], self.ipvs, self.network, excluded)

    def replace(self, model: Model) -> None:
        asyncio.run(self.writer.replace(self.layout, model.ledger.everything()))
        model.ledger.settle()

    def update(self, model: Model) -> None:
        delta = model.ledger.pending()
        if delta:
            asyncio.run(self.writer.update(self.layout, delta))
        model.ledger.settle()

    def look_later(self) -> bool:
        self.writer._looked.clear()
        return asyncio.run(self.writer.intact(self.layout))

    def state(self) -> tuple[list[Server], list[Destination], str, list[str]]:
        listing = self.space.run(["nft", "-s", "list", "table", self.layout.family.nft, "kube-proxy-py"]).stdout
        return sorted(self.ipvs.made.values()), sorted(self.ipvs.behind.values()), self.network.dump(), shape(listing)


@pytest.mark.kernel
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=25), busy=st.sets(st.sampled_from(["10.244.1.5", "10.244.2.6", "10.244.1.7"])))
def test_many_small_changes_come_to_one_large_one(space: Netns, history: list[tuple[str, object]], busy: set[str]) -> None:
    model, node = Model(V4), Node(space)
    node.replace(model)
    for verb, value in [*history, ("write", None)]:
        if verb == "write":
            node.ipvs.connections = {key: 1 for key in node.ipvs.behind if key[1] in busy}
            node.update(model)
        else:
            getattr(model, verb)(value)
    node.ipvs.connections = {}
    assert node.look_later()
    step_by_step = node.state()
    fresh, other = Model(V4), Node(space)
    for verb, value in final(history):
        getattr(fresh, verb)(value)
    other.replace(fresh)
    assert other.state() == step_by_step
    again = Node(space, ipvs=node.ipvs, network=node.network)
    again.replace(fresh)
    assert again.state() == step_by_step, "a restart finds what it wants"


WEB_SERVICE = service("web", "10.96.0.1", ("t", "TCP", 80, 0), ("u", "UDP", 53, 0))
KEY, UDP_KEY = ServerKey("10.96.0.1", "tcp", 80), ServerKey("10.96.0.1", "udp", 53)


def two(space: Netns) -> tuple[Model, Node]:
    model, node = Model(V4), Node(space)
    model.put(WEB_SERVICE, endpoints("web", HERE, THERE, ports=TARGETS))
    node.replace(model)
    return model, node


@pytest.mark.kernel
def test_an_endpoint_that_is_gone_keeps_its_connections(space: Netns) -> None:
    model, node = two(space)
    node.ipvs.connections = {(KEY, THERE, 8080): 1, (UDP_KEY, THERE, 5353): 1}
    model.put(endpoints("web", HERE, ports=TARGETS))
    node.update(model)
    assert node.ipvs.behind[KEY, THERE, 8080].weight == 0
    assert (UDP_KEY, THERE, 5353) not in node.ipvs.behind, "UDP knows no end"
    assert node.look_later()
    assert (KEY, THERE, 8080) in node.ipvs.behind
    node.ipvs.connections = {}
    assert node.look_later()
    assert sorted(node.ipvs.behind) == [(KEY, HERE, 8080), (UDP_KEY, HERE, 5353)]


@pytest.mark.kernel
def test_an_endpoint_that_comes_back_is_given_connections_again(space: Netns) -> None:
    model, node = two(space)
    node.ipvs.connections = {(KEY, THERE, 8080): 1}
    model.put(endpoints("web", HERE, ports=TARGETS))
    node.update(model)
    model.put(endpoints("web", HERE, THERE, ports=TARGETS))
    node.update(model)
    node.ipvs.connections = {}
    assert node.look_later()
    assert node.ipvs.behind[KEY, THERE, 8080].weight == 1


@pytest.mark.kernel
def test_a_service_that_is_gone_lets_its_connections_end(space: Netns) -> None:
    """Also when the proxy was restarted meanwhile."""
    model, node = two(space)
    node.ipvs.connections = {(KEY, THERE, 8080): 1}
    model.drop_service("web")
    node.update(model)
    for seen in (node, Node(space, ipvs=node.ipvs, network=node.network)):
        seen.replace(model)
        assert (list(node.ipvs.made), [item.weight for item in node.ipvs.behind.values()]) == ([KEY], [0])
        assert "10.96.0.1/32" in node.network.dump()
    node.ipvs.connections = {}
    assert seen.look_later()
    assert (node.ipvs.made, node.ipvs.behind) == ({}, {})
    assert "10.96.0.1" not in node.network.dump()


@pytest.mark.kernel
def test_what_others_do_is_seen(space: Netns) -> None:
    model, node = two(space)
    assert node.look_later()
    node.ipvs.remove_servers([KEY])
    assert not node.look_later()
    node.replace(model)
    assert node.look_later()
    asyncio.run(node.network.apply([DeleteLink("kube-ipvs0")]))
    assert not node.look_later()
    node.replace(model)
    assert "10.96.0.1/32" in node.network.dump()
    node.ipvs.put_servers([Server(ServerKey("192.0.2.7", "tcp", 80))])
    assert node.look_later(), "excluded: somebody else's"
    node.ipvs.put_servers([Server(ServerKey("192.168.50.1", "tcp", 30080))])
    assert not node.look_later()
    node.replace(model)
    assert sorted(key.address for key in node.ipvs.made) == ["10.96.0.1", "10.96.0.1", "192.0.2.7"]


@pytest.mark.kernel
def test_clearing(space: Netns) -> None:
    _, node = two(space)
    node.ipvs.connections = {(KEY, THERE, 8080): 1}
    foreign = Server(ServerKey("192.0.2.7", "tcp", 80))
    node.ipvs.put_servers([foreign])
    asyncio.run(clear(node.ipvs, node.network, [ip_network("192.0.2.0/24")]))
    assert (list(node.ipvs.made), node.network.dump()) == ([foreign.key], "")
    node.ipvs.remove_servers([foreign.key])
    node.ipvs.put_servers([Server(KEY)])
    asyncio.run(clear(node.ipvs, node.network))
    assert node.ipvs.made, "there is no kube-ipvs0: not a proxy's"


@pytest.mark.kernel
def test_another_mode_takes_over_and_cuts_nothing(space: Netns) -> None:
    """What came to a NodePort is no longer carried by IPVS, whatever it still counts."""
    model, node = two(space)
    model.put(service("open", "10.96.0.2", ("t", "TCP", 80, 30080), ("s", "SCTP", 80, 30080), type="NodePort"),
              endpoints("open", THERE, ports=(("t", "TCP", 8080), ("s", "SCTP", 8080))))
    node.replace(model)
    node.ipvs.connections = {key: 1 for key in node.ipvs.behind if key[0].address != "10.96.0.2"}
    for _ in range(2):
        left = asyncio.run(clear(node.ipvs, node.network, spared=lives))
        assert {item.describe() for item in left} == {f"{HERE}:8080", f"{THERE}:8080"}
        assert list(node.ipvs.made) == [KEY]
        assert {item.weight for item in node.ipvs.behind.values()} == {0}
        assert "10.96.0.1/32" in node.network.dump()
    node.ipvs.connections = {}
    assert asyncio.run(clear(node.ipvs, node.network, spared=lives)) == []
    assert (node.ipvs.made, node.network.dump()) == ({}, "")


class Waiting:
    """A writer that cannot remove what others have left."""

    at_once = False

    def __init__(self) -> None:
        self.now = 0.0
        self.looks: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sweep(self) -> None:
        self.looks.append(self.now)
        raise Busy("a connection of a week")


def test_what_has_to_wait_is_looked_at_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Waiting()
    monkeypatch.setattr("proxy.target.time", writer)
    rules = Rules(Snapshot("node-1"), [], writer, Conntrack())

    async def a_day() -> None:
        for writer.now in range(30, 24 * 3600, 30):
            await rules.apply(rules.plan(Actual(frozenset(), ()), {}))

    asyncio.run(a_day())
    assert writer.looks[:4] == [30, 60, 90, 120]
    assert 24 * 6 <= len(writer.looks) < 24 * 6 + 30, "in a day"


@pytest.mark.kernel
def test_a_change_costs_what_changed(space: Netns) -> None:
    model, node = Model(V4), Node(space)
    for number in range(300):
        model.put(service(f"s{number}", f"10.97.{number >> 8}.{number & 255}", ("t", "TCP", 80, 0)),
                  endpoints(f"s{number}", HERE, THERE, ports=TARGETS))
    node.replace(model)
    model.put(endpoints("s7", HERE, "10.244.2.9", ports=TARGETS))
    delta = model.ledger.pending()
    assert len(delta) == 2
    assert V4.delta_script(delta) == "", "nothing for nft"


def test_flags_and_fields() -> None:
    """What the ipvs section does not say is that of iptables, as with kube-proxy."""
    document = {"mode": "ipvs", "iptables": {"masqueradeAll": True, "syncPeriod": "7s"},
                "ipvs": {"scheduler": "sh", "excludeCIDRs": ["192.0.2.0/24"], "strictARP": True, "udpTimeout": "30s",
                         "syncPeriod": "20s"}}
    config = build({}, document)
    assert config.ipvs == IpvsOptions("sh", (ip_network("192.0.2.0/24"),), strict_arp=True, udp=30.0)
    assert (config.masquerade_all, config.sync_period, config.unused) == (True, 20.0, ())
    written = to_document(config)
    assert (written["ipvs"]["scheduler"], written["iptables"]["masqueradeAll"]) == ("sh", True)
    assert build({}, written) == config
    assert build({"proxy-mode": "ipvs"}).ipvs == IpvsOptions()
    with pytest.raises(UserError, match="--ipvs-scheduler: 'best' is none of rr, "):
        build({"ipvs-scheduler": "best"})


@pytest.mark.kernel
def test_a_kernel_without_it_is_named() -> None:
    if not lacks_ipvs():
        pytest.skip("this kernel has ip_vs")
    done = subprocess.run([sys.executable, "-m", "proxy", "--proxy-mode", "ipvs", "--init-only"], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, (
        "kube-proxy-py: --proxy-mode: ipvs: this kernel has no module ip_vs, and none can be loaded; use nftables or iptables\n"))
