"""ipvs mode over its transitions, with real connections. Needs ip_vs: else skipped, and run in the virtual machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from conftest import Agent
from proxy_api import Api
from proxy_net import FAR_POD, NODE, PODS, World, endpoints, eventually, service, sh
from test_rules import HERE, SETTINGS, Model, carries, v6

from nodecore.kernel.iptables import Iptables
from nodecore.kernel.ipvs import Ipvs
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kernel.virtualserver import Destination, ServerKey
from nodecore.net import Family
from proxy.render.ipvs import Layout
from proxy.writers.ipvs import IpvsWriter
from proxy.writers.takeover import Takeover
from tests.kernelmodules import need_ipvs

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(300)]
A, B, C = PODS.values()
VIP = "10.96.1.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080))
WEB = service("web", VIP, ("t", "TCP", 80, 30090), ("u", "UDP", 80, 0), type="NodePort")
PATIENCE = 60.0


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


@pytest.fixture
def up(net: World, api: Api, agent: Agent) -> Agent:
    need_ipvs()
    api.put(web(B, FAR_POD), WEB)
    agent.mode = "ipvs"
    agent.start()
    yield agent
    agent.kill()
    agent.flags, agent.mode = ("--cleanup",), "ipvs"
    agent.start(wait=False)
    assert agent.process
    agent.process.wait(PATIENCE)


def destinations(net: World) -> dict[str, tuple[int, int]]:
    """Weight and connections of those of the Service's TCP port."""
    with contextlib.closing(Ipvs(net.spaces["node"].path)) as kernel:
        found: list[Destination] = kernel.destinations([ServerKey(VIP, "tcp", 80)])
    return {item.address: (item.weight, item.connections) for item in found}


def alive(line: socket.socket) -> None:
    line.sendall(b"still there?")
    assert line.recv(100) == b"still there?"


def one_to(net: World, name: str) -> socket.socket:
    """A connection that this endpoint answers."""
    for _ in range(10):
        line = net.connect("outside", VIP, 80, 10)
        if line.recv(100).startswith(name.encode()):
            return line
        line.close()
    raise AssertionError(f"never {name}")


@pytest.mark.usefixtures("up")
def test_an_endpoint_that_goes_keeps_its_connections_only(net: World, api: Api) -> None:
    with one_to(net, "pod-b") as line:
        api.put(web(FAR_POD))
        eventually(lambda: destinations(net).get(B, (1, 0))[0] == 0, PATIENCE)
        assert {net.ask("outside", VIP, 80, timeout=10)[0] for _ in range(6)} == {"far"}
        alive(line)
        api.put(web(B, FAR_POD))
        eventually(lambda: destinations(net)[B][0] == 1, PATIENCE)
        alive(line)


@pytest.mark.usefixtures("up")
def test_udp_moves_at_once(net: World, api: Api) -> None:
    api.put(web(B))
    eventually(lambda: set(destinations(net)) == {B}, PATIENCE)
    with net.spaces["far"].enter():
        sock = socket.socket(type=socket.SOCK_DGRAM)
    sh(net.spaces["far"], f"ip route replace {VIP}/32 via {NODE}")

    def asked() -> str:
        sock.send(b"?")
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            return sock.recv(100).decode().split()[0]
        return ""

    with sock:
        sock.settimeout(2)
        sock.connect((VIP, 80))
        eventually(lambda: asked() == "pod-b", PATIENCE)
        api.put(web(C))
        eventually(lambda: asked() == "pod-c", PATIENCE)


@pytest.mark.usefixtures("up")
def test_clients_stay(net: World, api: Api) -> None:
    api.put(WEB | {"spec": WEB["spec"] | {"sessionAffinity": "ClientIP"}})
    with contextlib.closing(Ipvs(net.spaces["node"].path)) as kernel:
        eventually(lambda: {item.persistence for item in kernel.servers()} == {10800}, PATIENCE)
    first = net.ask("outside", VIP, 80, timeout=10)[0]
    assert {net.ask("outside", VIP, 80, timeout=10)[0] for _ in range(8)} == {first}
    left, other = (FAR_POD, "far") if first == "pod-b" else (B, "pod-b")
    api.put(web(left))
    eventually(lambda: net.ask("outside", VIP, 80, timeout=10)[0] == other, PATIENCE)


def test_outlives_its_agent(net: World, up: Agent) -> None:
    with one_to(net, "pod-b") as line, net.connect("outside", NODE, 30090, 10) as other:
        assert other.recv(100)
        up.kill()
        alive(line)
        assert net.ask("outside", VIP, 80, timeout=10)[0] in ("pod-b", "far")
        up.start()
        alive(line)
        alive(other)


@pytest.mark.parametrize("mode", ["nftables", "iptables-nft"])
def test_switching_cuts_nothing_and_leaves_nothing(net: World, up: Agent, mode: str) -> None:
    """From ipvs to another mode and back: connections of each go on in the other."""
    node = net.spaces["node"]
    with one_to(net, "pod-b") as line:
        up.kill()
        up.mode = mode
        up.start()
        eventually(lambda: destinations(net).get(B, (1, 0))[0] == 0, PATIENCE)
        alive(line)
        assert net.ask("outside", VIP, 80, timeout=10)[0] in ("pod-b", "far")
        with net.connect("outside", VIP, 80, 10) as second:
            assert second.recv(100)
            up.kill()
            up.mode = "ipvs"
            up.start()
            alive(line)
            alive(second)
            assert net.ask("outside", VIP, 80, timeout=10)[0] in ("pod-b", "far")
            eventually(lambda: "KPY-" not in node.run(["iptables-nft-save"]).stdout, PATIENCE)


def cleaned_up(up: Agent) -> int:
    up.kill()
    up.flags = ("--cleanup",)
    up.start(wait=False)
    assert up.process
    return up.process.wait(PATIENCE)


def test_cleanup_leaves_nothing(net: World, up: Agent) -> None:
    """But what Go kube-proxy works by, once its sets tell that it has taken over again."""
    node = net.spaces["node"]
    sh(node, "ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create KUBE-SRC-SOMEBODYELSE hash:ip")
    assert cleaned_up(up) == 0
    assert "kube-proxy" not in sh(node, "nft list tables")
    assert destinations(net).keys() == {B, FAR_POD}
    sh(node, "ipset destroy KUBE-CLUSTER-IP")
    assert cleaned_up(up) == 0
    assert "kube-ipvs0" not in sh(node, "ip -br link")
    assert sh(node, "ipset list -n").split() == ["KUBE-SRC-SOMEBODYELSE"]
    sh(node, "ipset destroy")
    with contextlib.closing(Ipvs(node.path)) as kernel:
        assert kernel.servers() == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("address", "port"), [("fd96::1", 80), ("fd77::1", 30080)])
def test_ipv6_carries(kind: socket.SocketKind, address: str, port: int) -> None:
    """A node's own call by ClusterIP and by NodePort, to an endpoint it can reach."""
    need_ipvs()
    both = (("t", "TCP", 80, 30080), ("u", "UDP", 80, 30080))
    model = Model(Layout(Family.IPV6, SETTINGS))
    model.put(v6(service("web", "10.96.0.1", *both, type="NodePort")), v6(endpoints("web", HERE, ports=TARGETS)))
    with Netns.create() as space:
        for command in ("link set lo up", "addr add fd44::1:5/128 dev lo nodad", "addr add fd77::1/128 dev lo nodad"):
            space.run(["ip", "-6", *command.split()])
        sh(space, "sysctl -qw net.ipv4.vs.conntrack=1")
        with contextlib.closing(Ipvs(space.path)) as kernel, contextlib.closing(KernelNetwork(space.path)) as network:
            nft = Nft(command=("nsenter", f"--net={space.path}", "nft"))
            writer = IpvsWriter(nft, Takeover(nft, Iptables()), [Family.IPV6], kernel, network)
            asyncio.run(writer.replace(model.layout, model.ledger.everything()))
        carries(space, kind, address, port, 10)
