"""The rules as text, whole; and that many small changes come to the same table as one large one."""

from __future__ import annotations

import asyncio
import select
import socket
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_net import endpoints, service, shape

from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kube.objects import EndpointSlice, Service
from nodecore.net import Family
from proxy.config import Locality
from proxy.ledger import Ledger
from proxy.render.nftables import Layout
from proxy.render.settings import Settings
from proxy.snapshot import Snapshot

GOLDENS = Path(__file__).with_name("goldens")
SETTINGS = Settings(Locality((ip_network("10.244.0.0/16"), ip_network("fd44::/48"))))
V4 = Layout(Family.IPV4, SETTINGS)


class Model:
    """A snapshot and its ledger, as the agent keeps them."""

    def __init__(self, layout: Layout = V4) -> None:
        self.layout, self.snapshot, self.ledger = layout, Snapshot("node-1"), Ledger()

    def put(self, *objects: dict) -> None:
        for item in objects:
            key = f"default/{item['metadata']['name']}"
            if item["kind"] == "Service":
                self.snapshot.put_service(key, msgspec.convert(item, Service))
            else:
                self.snapshot.put_slice(key, msgspec.convert(item, EndpointSlice))
        self.fold()

    def drop_service(self, name: str) -> None:
        self.snapshot.put_service(f"default/{name}", None)
        self.fold()

    def drop_slice(self, name: str) -> None:
        self.snapshot.put_slice(f"default/{name}", None)
        self.fold()

    def fold(self) -> None:
        for key in self.snapshot.dirty:
            routes, _ = self.snapshot.routes(key, self.layout.family)
            self.ledger.put(key, [part for route in routes for part in self.layout.fragments(route)])
        self.snapshot.dirty = set()

    def full(self) -> str:
        return self.layout.full_script(self.ledger.everything())


WEB = (("t", "TCP", 80, 30080), ("u", "UDP", 53, 30053), ("s", "SCTP", 132, 0))
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 5353), ("s", "SCTP", 9132))
HERE, THERE = "10.244.1.5", "10.244.2.6"


def v6(item: dict) -> dict:
    """The same in IPv6."""
    moved = msgspec.json.decode(msgspec.json.encode(item).replace(b"10.244.", b"fd44::").replace(b"10.96.", b"fd96::")
                                .replace(b".1.", b":1:").replace(b"IPv4", b"IPv6"))
    for member in moved.get("endpoints", []):
        member["addresses"] = [member["addresses"][0].replace(".", ":")]
    if "spec" in moved:
        moved["spec"]["clusterIP"] = moved["spec"]["clusterIP"].replace(".", ":")
    return moved


SCENES = {
    "empty": (V4, ()),
    "cluster-ip": (V4, (service("web", "10.96.0.1", *WEB), endpoints("web", HERE, THERE, ports=TARGETS))),
    "node-port": (V4, (service("web", "10.96.0.1", *WEB, type="NodePort"), endpoints("web", HERE, THERE, ports=TARGETS))),
    "node-port-local": (V4, (service("web", "10.96.0.1", *WEB, type="NodePort", externalTrafficPolicy="Local"),
                             endpoints("web", HERE, THERE, ports=TARGETS))),
    "sticky": (V4, (service("web", "10.96.0.1", *WEB[:1], type="NodePort", sessionAffinity="ClientIP"),
                    endpoints("web", HERE, THERE, ports=TARGETS))),
    "nobody": (V4, (service("web", "10.96.0.1", *WEB, type="NodePort"),)),
    "masquerade-all": (Layout(Family.IPV4, Settings(Locality(), (ip_network("192.168.0.0/16"),), masquerade_all=True)),
                       (service("web", "10.96.0.1", *WEB), endpoints("web", HERE, ports=TARGETS))),
    "counted": (Layout(Family.IPV4, Settings(count_traffic=True)), (
        service("web", "10.96.0.1", *WEB, type="NodePort"), endpoints("web", HERE, THERE, ports=TARGETS))),
    "ipv6": (Layout(Family.IPV6, SETTINGS), (v6(service("web", "10.96.0.1", *WEB, type="NodePort")),
                                             v6(endpoints("web", HERE, THERE, ports=TARGETS)))),
}


def as_golden(name: str, text: str) -> None:
    golden = GOLDENS / name
    if not golden.exists():
        golden.write_text(text)
        pytest.fail(f"{name} written: read it, then run again")
    assert text == golden.read_text()


@pytest.mark.parametrize("scene", SCENES)
def test_whole_script(scene: str) -> None:
    layout, objects = SCENES[scene]
    model = Model(layout)
    model.put(*objects)
    as_golden(f"{scene}.nft", model.full())


@pytest.fixture(scope="module")
def space() -> Netns:
    with Netns.create() as made:
        yield made


def load(space: Netns, script: str) -> None:
    asyncio.run(Nft(command=("nsenter", f"--net={space.path}", "nft")).load(script))


def listing(space: Netns, family: Family = Family.IPV4) -> list[str]:
    return shape(space.run(["nft", "-s", "list", "table", family.nft, "kube-proxy-py"]).stdout)


@pytest.mark.kernel
def test_a_first_table_is_written_in_pieces_that_no_packet_meets(space: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    for number in range(20):
        model.put(service(f"s{number}", f"10.96.0.{number}", *WEB), endpoints(f"s{number}", HERE, THERE, ports=TARGETS))
    load(space, model.full())
    at_once = listing(space)
    monkeypatch.setattr("proxy.render.nftables.PER_TRANSACTION", 1000)
    monkeypatch.setattr("proxy.render.nftwords.PER_COMMAND", 10)
    load(space, f"delete table {V4.table}\n")
    *pieces, last = V4.first_scripts(model.ledger.everything())
    assert len(pieces) > 3
    for piece in pieces:
        load(space, piece)
        assert "hook" not in space.run(["nft", "list", "chains"]).stdout
    load(space, last)
    assert listing(space) == at_once
    load(space, f"delete table {V4.table}\n")


@pytest.mark.kernel
@pytest.mark.parametrize("scene", SCENES)
def test_the_kernel_takes_it(space: Netns, scene: str) -> None:
    layout, objects = SCENES[scene]
    model = Model(layout)
    model.put(*objects)
    load(space, model.full())
    load(space, model.full())
    load(space, f"delete table {layout.table}\n")


NAMES = ("a", "b", "c")
SPECS = ({}, {"sessionAffinity": "ClientIP"}, {"externalTrafficPolicy": "Local"}, {"internalTrafficPolicy": "Local"})
ports = st.sampled_from([(80, 0), (80, 30080), (81, 30081), (80, 30082)])
steps = st.one_of(
    st.builds(lambda name, vip, port, protocol, spec: ("put", service(
        name, f"10.96.0.{vip}", ("t", protocol, *port), ("u", "UDP", 53, 0),
        type="NodePort" if port[1] else "ClusterIP", **spec)),
        st.sampled_from(NAMES), st.integers(1, 3), ports, st.sampled_from(["TCP", "SCTP"]), st.sampled_from(SPECS)),
    st.builds(lambda name, members: ("put", endpoints(name, *members, ports=TARGETS)),
              st.sampled_from(NAMES), st.lists(st.sampled_from([HERE, THERE, "10.244.1.7", "10.244.2.8"]), unique=True)),
    st.tuples(st.just("drop_service"), st.sampled_from(NAMES)),
    st.tuples(st.just("drop_slice"), st.sampled_from([f"{name}-1" for name in NAMES])),
    st.just(("write", None)),
)


@pytest.mark.kernel
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=25))
def test_many_small_changes_come_to_one_large_one(space: Netns, history: list[tuple[str, object]]) -> None:
    model, fresh = Model(), Model()
    load(space, model.full())
    for verb, value in [*history, ("write", None)]:
        if verb == "write":
            if delta := model.ledger.pending():
                load(space, V4.delta_script(delta))
            model.ledger.settle()
        else:
            getattr(model, verb)(value)
    step_by_step = listing(space)
    for verb, value in final(history):
        getattr(fresh, verb)(value)
    assert fresh.ledger.everything() == model.ledger.everything()
    load(space, fresh.full())
    assert listing(space) == step_by_step


def final(history: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Only what is there in the end, in another order."""
    last: dict[tuple[str, str], tuple[str, object]] = {}
    for verb, value in history:
        if verb != "write":
            kind = value["kind"] if isinstance(value, dict) else {"drop_service": "Service"}.get(verb, "EndpointSlice")
            name = value["metadata"]["name"] if isinstance(value, dict) else str(value)
            last[(kind, name)] = (verb, value)
    return [step for key, step in sorted(last.items(), reverse=True) if step[0] == "put"]


def test_a_change_costs_what_changed() -> None:
    model = Model()
    for number in range(500):
        model.put(service(f"s{number}", f"10.96.{number >> 8}.{number & 255}", ("t", "TCP", 80, 0)),
                  endpoints(f"s{number}", HERE, THERE, ports=TARGETS))
    model.ledger.settle()
    assert not model.ledger.pending()
    model.put(endpoints("s7", HERE, "10.244.2.9", ports=TARGETS))
    delta = model.ledger.pending()
    assert [(item.container, item.key, item.value) for item in delta.added] == [
        ("cluster-endpoints", "10.96.0.7 . tcp . 80 . 1:1", "10.244.2.9 . 8080")]
    assert [item.value for item in delta.removed] == ["10.244.2.6 . 8080"]
    assert len(delta) == 2


def carries(space: Netns, kind: socket.SocketKind, address: str, port: int, seconds: float = 30) -> None:
    """What is sent to that address arrives at the endpoint HERE in IPv6."""
    with space.enter():
        server, caller = socket.socket(socket.AF_INET6, kind), socket.socket(socket.AF_INET6, kind)
    with server, caller:
        server.bind(("fd44::1:5", 8080))
        server.settimeout(seconds)
        caller.settimeout(seconds)
        if kind is socket.SOCK_STREAM:
            server.listen()
        caller.connect((address, port))
        caller.send(b"hello")
        if kind is socket.SOCK_STREAM:
            server, _ = server.accept()
        with server:
            assert server.recv(10) == b"hello"


@pytest.mark.kernel
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("address", "port"), [("fd96::1", 80), ("fd77::1", 30080)])
def test_ipv6_carries(kind: socket.SocketKind, address: str, port: int) -> None:
    """A node's own call by ClusterIP and by NodePort, to an endpoint it can reach."""
    both = (("t", "TCP", 80, 30080), ("u", "UDP", 80, 30080))
    model = Model(Layout(Family.IPV6, SETTINGS))
    model.put(v6(service("web", "10.96.0.1", *both, type="NodePort")),
              v6(endpoints("web", HERE, ports=(("t", "TCP", 8080), ("u", "UDP", 8080)))))
    with Netns.create() as space:
        for command in ("addr add fd44::1:5/128 dev lo", "addr add fd77::1/128 dev lo", "route add fd96::/64 dev lo"):
            space.run(["ip", "-6", *command.split()])
        load(space, model.full())
        carries(space, kind, address, port)


@pytest.mark.kernel
def test_ipv6_clients_stay() -> None:
    """Each of many clients stays at its endpoint, and not all at the same; when that is gone they move, and stay again."""
    web = v6(service("web", "10.96.0.1", ("t", "TCP", 80, 0), sessionAffinity="ClientIP"))
    model = Model(Layout(Family.IPV6, SETTINGS))
    model.put(web, v6(endpoints("web", HERE, THERE, ports=TARGETS)))
    clients = [f"fd44::9:{number:x}" for number in range(1, 25)]
    with Netns.create() as space:
        space.run(["ip", "link", "set", "lo", "up"])
        for address in (*clients, "fd44::1:5", "fd44::2:6"):
            space.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"])
        space.run(["ip", "-6", "route", "add", "fd96::/64", "dev", "lo"])
        load(space, model.full())
        model.ledger.settle()
        with space.enter():
            servers = {name: socket.create_server((name, 8080), family=socket.AF_INET6) for name in ("fd44::1:5", "fd44::2:6")}

        def answers(client: str) -> str:
            with space.enter():
                caller = socket.socket(socket.AF_INET6)
            with caller:
                caller.settimeout(15)
                caller.bind((client, 0))
                caller.connect(("fd96::1", 80))
                (server,), _, _ = select.select(servers.values(), [], [], 30)
                server.accept()[0].close()
            return next(name for name, each in servers.items() if each is server)

        first = {client: answers(client) for client in clients}
        assert set(first.values()) == set(servers)
        assert [{client: answers(client) for client in clients} for _ in range(3)] == [first] * 3
        model.put(v6(endpoints("web", HERE, ports=TARGETS)))
        load(space, model.layout.delta_script(model.ledger.pending()))
        model.ledger.settle()
        assert {answers(client) for client in clients} == {"fd44::1:5"}
        model.put(v6(endpoints("web", HERE, THERE, ports=TARGETS)))
        load(space, model.layout.delta_script(model.ledger.pending()))
        assert {answers(client) for client in clients} == {"fd44::1:5"}, "the other is back: no reason to move"
        for server in servers.values():
            server.close()
