"""What an operator asks of the proxy: who talks to whom and how much, are the rules in force, are dead connections gone."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import MODES, VARIANTS, Agent, settled
from proxy_api import Api
from proxy_net import FAR_POD, NODE, PODS, World, endpoints, eventually, service, sh

from nodecore.kernel.ipvs import Ipvs
from nodecore.kernel.virtualserver import Destination, Server, ServerKey
from tests.kernelmodules import need_ipvs

pytestmark = pytest.mark.kernel
A, B, C = PODS.values()
VIP = "10.96.3.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080), ("s", "SCTP", 9999))
WEB = service("web", VIP, ("t", "TCP", 80, 30095), ("u", "UDP", 80, 30095), ("s", "SCTP", 132, 0), type="NodePort",
              externalIPs=["10.96.3.9"])


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


def get(net: World, path: str) -> str:
    with net.spaces["node"].enter():
        return urllib.request.urlopen(f"http://127.0.0.1:10249{path}", timeout=60).read().decode()


def metric(net: World, name: str, **labels: str) -> float:
    """The sum over all series with these labels."""
    lines = [line for line in get(net, "/metrics").splitlines() if line.startswith(f"kubeproxy_{name}")
             and all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def start(agent: Agent, *flags: str) -> None:
    agent.flags = flags
    agent.start()
    settled(agent.net, VIP, 80, mode=agent.mode)


DAMAGE = "nft delete table ip kube-proxy-py"
DAMAGES = {mode: f"{mode} -w -t nat -F; nft delete table ip kube-proxy-py-traffic" for mode in VARIANTS}


@pytest.mark.parametrize("mode", MODES)
def test_counts_packets_and_bytes(net: World, api: Api, agent: Agent, mode: str) -> None:
    if mode == "ipvs":
        need_ipvs()
    agent.mode = mode
    api.put(web(B, FAR_POD), WEB)
    start(agent, "--traffic-metrics")
    for caller, address, port in (("pod-a", VIP, 80), ("outside", NODE, 30095), ("node", VIP, 80), ("outside", "10.96.3.9", 80)):
        if address == NODE and mode == "ipvs":
            continue  # conntrack takes such connections past IPVS's counters
        way = f"tcp {port}" if address == NODE else f"{address} tcp {port}"
        answered = [net.ask(caller, address, port)[0] for _ in range(10)]
        for direction in ("to", "from"):  # SYN, ACK, FIN, ...: the last of them may be on their way yet
            eventually(lambda way=way, direction=direction: metric(
                net, "service_packets_total", service="web", way=way, direction=direction) >= 3 * 10,
                what=f"{caller} {way} {direction} {answered}")
        for who, place in (("pod-b", f"{B}:8080"), ("far", f"{FAR_POD}:8080")):
            assert bool(metric(net, "service_bytes_total", way=way, endpoint=place)) is (who in answered)
    for _ in range(5):
        assert net.ask("pod-a", VIP, 80, "udp")[0] in ("pod-b", "far")
    for direction in ("to", "from"):  # IPVS sums its counts up every two seconds
        eventually(lambda direction=direction: metric(
            net, "service_packets_total", way=f"{VIP} udp 80", direction=direction) == 5, what=f"five datagrams {direction}")
    good = agent.rules()
    sh(net.spaces["node"], DAMAGES.get(mode, DAMAGE))
    eventually(lambda: agent.rules() == good)
    eventually(lambda: "kube-proxy" in sh(net.spaces["node"], "nft list tables ip"))
    assert net.ask("pod-a", VIP, 80, "udp")[0] in ("pod-b", "far")
    eventually(lambda: metric(net, "service_packets_total", way=f"{VIP} udp 80", direction="to") == 6, what="no count is lost")
    api.put(web(B))
    eventually(lambda: {net.ask("pod-a", VIP, 80)[0] for _ in range(20)} == {"pod-b"})  # six are by chance, once in 64
    before = metric(net, "service_packets_total", way=f"{VIP} tcp 80", endpoint=f"{B}:8080", direction="to")
    assert net.ask("pod-a", VIP, 80)[0] == "pod-b"
    eventually(lambda: metric(
        net, "service_packets_total", way=f"{VIP} tcp 80", endpoint=f"{B}:8080", direction="to") >= before + 3)
    agent.kill()
    start(agent)
    eventually(lambda: "kube-proxy-py-traffic" not in sh(net.spaces["node"], "nft list tables"))


def test_diff_in_ipvs_mode(net: World, api: Api, agent: Agent) -> None:
    need_ipvs()
    agent.mode = "ipvs"
    api.put(web(B, FAR_POD), WEB)
    start(agent)
    node = net.spaces["node"]

    def told() -> tuple[int, list[str]]:
        argv = [sys.executable, "-m", "proxy", "diff", "--proxy-mode", "ipvs", "--hostname-override", "node-1",
                "--kubeconfig", str(agent.directory / "kubeconfig"), "--cluster-cidr", "10.244.0.0/16"]
        done = node.run(argv, check=False)
        return done.returncode, done.stdout.splitlines()

    assert told() == (0, ["the kernel has what it should"])
    agent.kill()
    with contextlib.closing(Ipvs(node.path)) as kernel:
        server = ServerKey(VIP, "tcp", 80)
        assert not any(kernel.remove_destinations([Destination(server, B, 8080)]))
        assert not any(kernel.put_destinations([Destination(server, C, 8080)]))
        assert not any(kernel.put_servers([Server(ServerKey("10.96.9.9", "tcp", 80))]))
    sh(node, f"ip addr del 10.96.3.9/32 dev kube-ipvs0; nft delete element ip kube-proxy-py services '{{ {VIP} . udp . 80 }}'")
    assert told() == (1, [
        "default/web: ipvs address lacks 10.96.3.9",
        "default/web: ipvs destination lacks 10.96.3.1 tcp 80 10.244.1.3 8080",
        "default/web: services lacks 10.96.3.1 . udp . 80 -> goto cluster",
        "no Service: ipvs destination has 10.96.3.1 tcp 80 10.244.1.4 8080, which nobody asks for",
        "no Service: ipvs server has 10.96.9.9 tcp 80 -> rr 0, which nobody asks for",
    ])


@pytest.mark.slow
def test_a_packet_tells_whether_the_rules_are_in_force(net: World, api: Api, agent: Agent) -> None:
    began = time.monotonic()
    api.put(web(B), WEB)
    start(agent, "--verify-programming")
    count = metric(net, "verified_programming_duration_seconds_count")
    assert count >= 1
    api.put(web(C))
    eventually(lambda: metric(net, "verified_programming_duration_seconds_count") == count + 1)
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(10)} == {"pod-c"}
    assert metric(net, "verified_programming_duration_seconds_sum") < time.monotonic() - began
    # somebody in front of us takes every packet: the kernel took our rules all the same, and only a packet can tell
    sh(net.spaces["node"], "nft add table ip thief; nft 'add chain ip thief c { type nat hook output priority -150; }';"
                           "nft add rule ip thief c udp dport != 53 dnat to 127.0.0.1:9")
    api.put(web(B))
    eventually(lambda: metric(net, "sync_proxy_rules_nftables_sync_failures_total") >= 1)
    assert "did not go where they should lead now" in agent.log.read_text()
    sh(net.spaces["node"], "nft delete table ip thief")
    eventually(lambda: metric(net, "verified_programming_duration_seconds_count") == count + 2)


def line_to(net: World, address: str = VIP, port: int = 80) -> socket.socket:
    with net.spaces["pod-a"].enter():
        line = socket.socket(type=socket.SOCK_DGRAM)
    line.settimeout(15)
    line.connect((address, port))
    return line


def talk(line: socket.socket) -> str:
    line.send(b"?")
    return line.recv(100).decode().split()[0]


def flows(net: World, protocol: str, address: str, endpoint: str) -> int:
    listed = ["conntrack", "-L", "-p", protocol, "--orig-dst", address, "--reply-src", endpoint]
    return len(net.spaces["node"].run(listed, check=False).stdout.splitlines())


def leaving(address: str, *, serving: bool) -> dict:
    return {"addresses": [address], "conditions": {"ready": False, "serving": serving, "terminating": True}, "nodeName": "node-1"}


def test_flows_stay_as_long_as_their_endpoint_serves(net: World, api: Api, agent: Agent) -> None:
    """By the ClusterIP, an external address and a NodePort alike; what has nothing to do with it is never touched."""
    api.put(web(B), WEB, service("other", "10.96.3.2", ("u", "UDP", 80, 0)), endpoints("other", B, ports=TARGETS))
    start(agent)
    settled(net, "10.96.3.2", 80, "udp")
    places = [(VIP, 80), ("10.96.3.9", 80), (NODE, 30095)]
    lines = [line_to(net, *place) for place in places]
    other, direct = line_to(net, "10.96.3.2"), line_to(net, B, 8080)
    try:
        assert {talk(line) for line in (*lines, other, direct)} == {"pod-b"}
        api.put(web(C, leaving(B, serving=True)))
        eventually(lambda: net.ask("pod-a", VIP, 80, "udp")[0] == "pod-c")
        assert {talk(line) for line in lines} == {"pod-b"}  # it said it still serves
        agent.kill()
        agent.start()
        assert {talk(line) for line in lines} == {"pod-b"}  # nor does a restart cut them
        api.put(web(C, leaving(B, serving=False)))
        eventually(lambda: not any(flows(net, "udp", address, B) for address, _ in places))
        assert {talk(line) for line in lines} == {"pod-c"}
        assert flows(net, "udp", "10.96.3.2", B) == flows(net, "udp", B, B) == 1
    finally:
        for line in (*lines, other, direct):
            line.close()


def sctp_init(net: World, address: str, port: int) -> None:
    """The first packet of an association, as the kernel here cannot make one: INIT, from a socket of raw packets."""
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack("!HHI", 40000, port, 0)
    packet = head + struct.pack("<I", crc32c(head + bytes(4) + init)) + init
    with net.spaces["pod-a"].enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
    with sock:
        sock.sendto(packet, (address, 0))


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_sctp_flows_to_an_endpoint_that_is_gone_are_forgotten(net: World, api: Api, agent: Agent) -> None:
    if not Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists():
        pytest.skip("nf_conntrack does not know SCTP in this kernel (CONFIG_NF_CT_PROTO_SCTP)")
    api.put(web(B), WEB)
    start(agent)
    settled(net, VIP, 132, "sctp")
    sctp_init(net, VIP, 132)
    eventually(lambda: flows(net, "sctp", VIP, B) == 1)
    api.put(web(B, C))
    eventually(lambda: "10.244.1.4 . 9999" in agent.table())
    assert flows(net, "sctp", VIP, B) == 1
    api.put(web(C))
    eventually(lambda: flows(net, "sctp", VIP, B) == 0)
    sctp_init(net, VIP, 132)
    eventually(lambda: flows(net, "sctp", VIP, C) == 1)


@pytest.mark.parametrize("flags", [(), ("--conntrack-forget-removed-tcp",)])
def test_tcp_to_an_endpoint_that_is_gone_is_reset_if_asked_for(
    net: World, api: Api, agent: Agent, flags: tuple[str, ...],
) -> None:
    api.put(web(B), WEB)
    start(agent, *flags)
    with net.connect("pod-a", VIP, 80) as line, net.connect("pod-a", B, 8080) as direct:
        assert line.recv(100).startswith(b"pod-b")
        assert direct.recv(100).startswith(b"pod-b")
        api.put(web(C, leaving(B, serving=False)))
        eventually(lambda: net.ask("pod-a", VIP, 80)[0] == "pod-c")
        line.sendall(b"ping")
        assert line.recv(100) == b"ping"  # on its way out, but there
        api.put(web(C))
        api.put(web(C, FAR_POD))
        eventually(lambda: "far" in {net.ask("pod-a", VIP, 80)[0] for _ in range(20)})
        if flags:
            eventually(lambda: flows(net, "tcp", VIP, B) == 0)
            line.sendall(b"ping")
            with pytest.raises(ConnectionResetError):
                line.recv(100)
        else:
            line.sendall(b"ping")
            assert line.recv(100) == b"ping"
        direct.sendall(b"ping")
        assert direct.recv(100) == b"ping"


def test_rules_say_whose_they_are(net: World, api: Api, agent: Agent) -> None:
    api.put(web(B), WEB)
    start(agent)
    ways = json.loads(get(net, "/rules"))["services"]["default/web"]["IPv4"]
    assert set(ways) == {f"{address} . {protocol} . {port}" for address in (VIP, "10.96.3.9") for protocol, port in (
        ("tcp", 80), ("udp", 80), ("sctp", 132))} | {"tcp . 30095", "udp . 30095"}
