"""iptables mode as it lives: what it heals, whose rules it leaves alone, and how one mode takes over from another."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import VARIANTS, Agent, settled
from proxy_api import Api
from proxy_net import GATEWAY, NODE, OUTSIDE, PODS, STRANGERS, World, endpoints, eventually, service, sh

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
A, B, C = PODS.values()
VIP = "10.96.1.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080))
WEB = service("web", VIP, ("t", "TCP", 80, 30090), ("u", "UDP", 80, 0), type="NodePort")
STICKY = {**WEB, "spec": {**WEB["spec"], "sessionAffinity": "ClientIP"}}
GO = Path(__file__).with_name("go-kube-proxy-1.20.iptables")
EACH = ("iptables-nft", "iptables-legacy")


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


def saved(net: World, mode: str) -> str:
    """All rules of a variant, without counters and times."""
    text = net.spaces["node"].run([f"{mode}-save"]).stdout
    return "\n".join(re.sub(r" \[\d+:\d+\]", "", line) for line in text.splitlines() if not line.startswith("#"))


def ours(net: World, mode: str) -> list[str]:
    return sorted(line for line in saved(net, mode).splitlines() if "KPY-" in line)


@pytest.fixture
def up(net: World, api: Api, agent: Agent, request: pytest.FixtureRequest) -> Agent:
    agent.mode = request.param
    api.put(web(B, C), WEB)
    agent.start()
    settled(net, VIP, 80, mode=agent.mode)
    return agent


DAMAGES = {
    "chain flushed": "-t nat -F KPY-SERVICES",
    "jump removed": "-t nat -D PREROUTING -j KPY-SERVICES",
    "rule removed": "-t filter -D KPY-REFUSE -j REJECT",
    "rule added": "-t nat -A KPY-C -d 10.96.9.9 -j RETURN",
    "built-in chain flushed": "-t filter -F FORWARD",
    "table flushed": "-t nat -F",
}


@pytest.mark.parametrize("up", EACH, indirect=True)
def test_heals(net: World, up: Agent) -> None:
    good = ours(net, up.mode)
    for what, damage in DAMAGES.items():
        noticed = up.log.read_text().count("writing them anew")
        sh(net.spaces["node"], f"{up.mode} -w {damage}")
        eventually(lambda before=noticed: up.log.read_text().count("writing them anew") > before
                   and ours(net, up.mode) == good, what=what)
    if up.mode == "iptables-nft":
        sh(net.spaces["node"], "nft flush ruleset")
        eventually(lambda: ours(net, up.mode) == good, what="everything flushed")
    assert net.ask("pod-a", VIP, 80)[0] in ("pod-b", "pod-c")


@pytest.mark.parametrize("up", EACH, indirect=True)
def test_diff_names_the_service(net: World, up: Agent, api: Api) -> None:
    node, mode = net.spaces["node"], up.mode

    def told() -> tuple[int, list[str]]:
        argv = [sys.executable, "-m", "proxy", "diff", "--proxy-mode", "iptables", "--hostname-override", "node-1",
                "--kubeconfig", str(up.directory / "kubeconfig"), "--cluster-cidr", "10.244.0.0/16"]
        done = node.run(argv, check=False)
        return done.returncode, done.stdout.splitlines()

    api.put(service("sticky", "10.96.1.2", ("t", "TCP", 80, 0), sessionAffinity="ClientIP"),
            endpoints("sticky", A, ports=TARGETS))
    settled(net, "10.96.1.2", 80, mode=mode)
    assert told() == (0, ["the kernel has what it should"])
    up.kill()
    sh(node, f"{mode} -w -t nat -D KPY-C-2-1-tcp-80-101 -d {VIP} -p tcp -j DNAT --to-destination {C}:8080")
    sh(node, f"{mode} -w -t nat -A KPY-C -d 10.96.9.9 -j RETURN; {mode} -w -D FORWARD -j KPY-FORWARD")
    assert told() == (1, [
        "all Services: filter FORWARD lacks -j KPY-FORWARD",
        "no Service: nat KPY-C has -d 10.96.9.9/32 -j RETURN, which nobody asks for",
        f"default/web: nat KPY-C-2-1-tcp-80-101 lacks -d {VIP}/32 -p tcp -j DNAT --to-destination {C}:8080",
    ])
    node.run([sys.executable, "-m", "proxy", "--cleanup"])
    assert "there are no rules of ours" in told()[1][0]


def test_who_waited_for_the_lock_and_writes_just_after_us_is_noticed(
    net: World, api: Api, agent: Agent, tmp_path: Path,
) -> None:
    """Before the agent has seen that its own write is done, and with a table that was as it should be."""
    agent.mode = "iptables-legacy"
    api.put(web(B, C), WEB)
    real, once = shutil.which("iptables-legacy-restore"), tmp_path / "once"
    tool = tmp_path / "iptables-legacy-restore"
    tool.write_text(f"#!/bin/sh\n{real} \"$@\" || exit\n"
                    f"if [ -e {once} ]; then iptables-legacy -w -t nat -D OUTPUT -j KPY-SERVICES; rm {once}; fi\n")
    tool.chmod(0o700)
    agent.environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    once.touch()
    agent.start()
    eventually(lambda: "-A OUTPUT -j KPY-SERVICES" in saved(net, agent.mode))
    settled(net, VIP, 80, mode=agent.mode)
    time.sleep(0.5)
    said = agent.log.read_text().count("changed by somebody else")
    once.touch()
    api.put(web(B))
    eventually(lambda: not once.exists())
    eventually(lambda: "-A OUTPUT -j KPY-SERVICES" in saved(net, agent.mode))
    assert agent.log.read_text().count("changed by somebody else") == said + 1
    api.put(web(C))
    eventually(lambda: net.ask("pod-a", VIP, 80)[0] == "pod-c")
    time.sleep(0.6)
    assert agent.log.read_text().count("changed by somebody else") == said + 1, "and nothing is seen where nothing was"


def metrics(net: World) -> str:
    with net.spaces["node"].enter():
        return urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=60).read().decode()


def value(net: World, name: str) -> float:
    found = re.search(rf"^kubeproxy_{re.escape(name)} (\S+)$", metrics(net), re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.mark.parametrize("mode", EACH)
def test_tells_how_many_rules_there_are(net: World, api: Api, agent: Agent, mode: str) -> None:
    agent.mode = mode
    api.put(web(B, C), WEB)
    agent.start()
    lines = saved(net, mode).splitlines()
    nat = lines[lines.index("*nat") : lines.index("COMMIT", lines.index("*nat"))]
    there = sum(line.startswith("-A KPY-") for line in nat)
    assert value(net, 'sync_proxy_rules_iptables_total{table="nat"}') == there
    assert value(net, 'sync_proxy_rules_iptables_last{table="nat"}') == there
    api.put(web(B))
    eventually(lambda: value(net, 'sync_proxy_rules_iptables_total{table="nat"}') < there)
    assert 0 < value(net, 'sync_proxy_rules_iptables_last{table="nat"}') < there / 2
    assert value(net, "sync_proxy_rules_iptables_restore_failures_total") == 0
    assert value(net, "iptables_ct_state_invalid_dropped_packets_total") == 0


@pytest.mark.parametrize("mode", EACH)
def test_counts_connections(net: World, api: Api, agent: Agent, mode: str) -> None:
    agent.mode, agent.flags = mode, ("--traffic-metrics",)
    api.put(web(B, C), WEB, service("many", "10.96.1.2", ("t", "TCP", 80, 0), sessionAffinity="ClientIP"),
            {**endpoints("many", B, ports=TARGETS)})
    agent.start()

    def counted() -> dict[str, float]:
        found = re.findall(r'^kubeproxy_service_connections_total\{(.*)\} (\S+)$', metrics(net), re.MULTILINE)
        return {labels: float(count) for labels, count in found if float(count)}

    def series(name: str, way: str, endpoint: str = "") -> str:
        return f'endpoint="{endpoint}",namespace="default",service="{name}",way="{way}"'

    answered = [net.ask("pod-a", VIP, 80)[0] for _ in range(12)]
    wanted = {series("web", f"{VIP} tcp 80", f"{address}:8080"): float(answered.count(who))
              for who, address in (("pod-b", B), ("pod-c", C)) if who in answered}
    assert counted() == wanted
    wanted[series("web", "tcp 30090", f"{(net.ask('outside', NODE, 30090)[0] == 'pod-b' and B) or C}:8080")] = 1
    assert net.ask("pod-a", "10.96.1.2", 80)[0] == "pod-b"
    wanted[series("many", "10.96.1.2 tcp 80")] = 1
    assert counted() == wanted
    good = ours(net, mode)
    sh(net.spaces["node"], f"{mode} -w -t nat -F")
    eventually(lambda: ours(net, mode) == good)
    assert net.ask("pod-a", VIP, 80)[0] in ("pod-b", "pod-c")
    assert sum(counted().values()) == sum(wanted.values()) + 1, "what was counted before all was written anew"


@pytest.mark.parametrize("up", EACH, indirect=True)
def test_rules_of_others_are_no_business_of_ours(net: World, up: Agent) -> None:
    node = net.spaces["node"]
    told = up.log.read_text()
    for words in ("-N OTHERS", "-A OTHERS -j RETURN", "-I PREROUTING -j OTHERS"):
        sh(node, f"{up.mode} -w -t nat {words}")
    sh(node, f"{up.mode} -w -A FORWARD -s 203.0.113.0/24 -j DROP")
    time.sleep(1.5)
    assert "changed by somebody else" not in up.log.read_text().removeprefix(told)
    before = [line for line in saved(net, up.mode).splitlines() if "KPY-" not in line]
    up.kill()
    up.start()
    up.kill()
    node.run([sys.executable, "-m", "proxy", "--cleanup"])
    after = [line for line in saved(net, up.mode).splitlines() if "KPY-" not in line]
    assert after == before
    assert ours(net, up.mode) == []


@pytest.mark.parametrize("up", EACH, indirect=True)
def test_a_single_change_is_written_at_once_and_what_is_gone_leaves_nothing(net: World, up: Agent, api: Api) -> None:
    before = ours(net, up.mode)
    api.put(web(C))
    eventually(lambda: {net.ask("pod-a", VIP, 80)[0] for _ in range(5)} == {"pod-c"})
    api.put(web())
    eventually(lambda: net.ask("pod-a", VIP, 80)[0] == "refused")
    api.delete("EndpointSlice", "web-1")
    api.delete("Service", "web")
    eventually(lambda: not [line for line in ours(net, up.mode) if VIP in line])
    api.put(web(B, C), WEB)
    eventually(lambda: ours(net, up.mode) == before)
    up.kill()
    api.put(web(C))
    up.start()
    eventually(lambda: f"{B}:8080" not in saved(net, up.mode))
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(10)} == {"pod-c"}


@pytest.mark.parametrize("mode", EACH)
def test_sticky_clients_stay_and_move_when_they_must(net: World, api: Api, agent: Agent, mode: str) -> None:
    agent.mode = mode
    api.put(web(A, B, C), STICKY)
    agent.start()
    (first,) = {net.ask("outside", address, port)[0] for _ in range(6) for address, port in ((VIP, 80), (NODE, 30090))}
    agent.kill()
    agent.start()
    assert {net.ask("outside", VIP, 80)[0] for _ in range(12)} == {first}, "after a restart"
    api.put(web(*(set(PODS.values()) - {PODS[first]})))
    eventually(lambda: net.ask("outside", VIP, 80)[0] != first)
    (second,) = {net.ask("outside", VIP, 80)[0] for _ in range(12)}
    api.put(web(A, B, C))
    eventually(lambda: f"{PODS[first]}:8080" in saved(net, mode))
    assert {net.ask("outside", VIP, 80)[0] for _ in range(12)} == {second}, "the old one is back: no reason to move"


@pytest.fixture
def forward_drops(net: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """A node that forwards nothing of itself, as Docker leaves one behind."""
    for policy in ("DROP", "ACCEPT"):
        net.spaces["node"].run([request.param, "-w", "-P", "FORWARD", policy])
        if policy == "DROP":
            yield request.param


@pytest.mark.parametrize("forward_drops", EACH, indirect=True)
def test_what_was_masqueraded_is_forwarded_whatever_the_policy(net: World, api: Api, agent: Agent, forward_drops: str) -> None:
    agent.mode = forward_drops
    api.put(web(B, C), WEB)
    sh(net.spaces["outside"], f"ip route add 10.244.1.0/24 via {NODE}")
    try:
        assert net.ask("outside", B, 8080, timeout=0.5)[0] == "timeout"
        agent.start()
        for _ in range(4):
            with net.connect("outside", NODE, 30090) as line:
                assert line.recv(100).decode() in (f"pod-b {GATEWAY}", f"pod-c {GATEWAY}")
                line.sendall(b"x" * 3000)  # and what follows the first packet
                assert line.recv(1)
        assert net.ask("outside", B, 8080, timeout=0.5)[0] == "timeout", "what is no Service's is left to the policy"
    finally:
        sh(net.spaces["outside"], f"ip route del 10.244.1.0/24 via {NODE}")


def knock(net: World, port: int) -> None:
    """Send a datagram to 127.0.0.1 from outside, as a neighbour can who cares for no routes."""
    source, target = (socket.inet_aton(address) for address in (OUTSIDE, "127.0.0.1"))
    datagram = struct.pack("!HHHH", 4000, port, 9, 0) + b"!"  # without a checksum
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0) + source + target
    total = sum(struct.unpack("!10H", header))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    frame = bytes.fromhex("020000000002") + bytes.fromhex("020000000099") + b"\x08\x00"
    with net.spaces["outside"].enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind(("eth0", 0))
        sock.send(frame + header[:10] + struct.pack("!H", total) + header[12:] + datagram)


@pytest.mark.parametrize("mode", EACH)
def test_node_ports_on_loopback_and_nobody_elses_packets_there(net: World, api: Api, agent: Agent, mode: str) -> None:
    node = net.spaces["node"]
    agent.mode = mode
    api.put(web(B, C), WEB)
    agent.start()
    try:
        eventually(lambda: net.ask("node", "127.0.0.1", 30090) in (("pod-b", GATEWAY), ("pod-c", GATEWAY)))
        with node.enter():
            private = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with private:
            private.bind(("127.0.0.1", 0))
            private.settimeout(0.5)
            knock(net, private.getsockname()[1])
            with pytest.raises(TimeoutError):
                private.recv(10)
            accepted = value(net, "iptables_localhost_nodeports_accepted_packets_total")
            assert accepted > 0
            sh(node, f"{mode} -w -F KPY-UNSERVED")
            eventually(lambda: "ctorigdst" in saved(net, mode))
            assert value(net, "iptables_localhost_nodeports_accepted_packets_total") == accepted
            net.ask("node", "127.0.0.1", 30090)
            assert value(net, "iptables_localhost_nodeports_accepted_packets_total") == accepted + 1
            agent.kill()
            sh(node, f"{mode} -w -F KPY-LOOPBACK")
            knock(net, private.getsockname()[1])
            private.settimeout(15)
            assert private.recv(10) == b"!", "or else the test above says nothing"
        agent.flags = ("--iptables-localhost-nodeports=false",)
        agent.start()
        assert net.ask("node", "127.0.0.1", 30090)[0] == "refused"
        assert net.ask("node", NODE, 30090)[0] in ("pod-b", "pod-c")
    finally:
        sh(node, "sysctl -qw net.ipv4.conf.all.route_localnet=0")


@pytest.mark.parametrize("mode", VARIANTS)
def test_affinity_times_out(net: World, api: Api, agent: Agent, mode: str) -> None:
    agent.mode = mode
    config = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
    api.put(web(A, B, C), {**WEB, "spec": {**WEB["spec"], **config}})
    agent.start()
    seen = {(caller, net.ask(caller, VIP, 80)[0]) for caller in STRANGERS}

    def moved() -> bool:
        time.sleep(2.1)
        seen.update((caller, net.ask(caller, VIP, 80)[0]) for caller in STRANGERS)
        return len(seen) > len(STRANGERS)

    eventually(moved, within=30)


class Traffic:
    """Two things at once that nothing may disturb: a connection that echoes without a rest, and new ones all the time."""

    def __init__(self, net: World, address: str, port: int) -> None:
        self.net, self.address, self.port = net, address, port
        self.stop = threading.Event()
        self.made = self.sent = 0
        self.failures: list[str] = []
        self.line = net.connect("pod-a", address, port)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.echo, self.connect)]
        self.line.recv(100)
        for thread in self.threads:
            thread.start()

    def echo(self) -> None:
        while not self.stop.is_set():
            self.line.sendall(b"x" * 1000)
            left = 1000
            while left:
                try:
                    data = self.line.recv(left)
                except OSError as error:
                    data = b""
                    self.failures.append(f"echo: {error}")
                if not data:
                    self.failures.append("echo ended")
                    return
                left -= len(data)
            self.sent += 1

    def connect(self) -> None:
        while not self.stop.is_set():
            try:
                who = self.net.ask("pod-a", self.address, self.port, timeout=15)[0]
            except OSError as error:
                who = str(error)
            if not who.startswith("pod-"):
                self.failures.append(who)
            self.made += 1

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        self.line.close()


@contextlib.contextmanager
def traffic(net: World, address: str, port: int) -> Iterator[Callable[[], None]]:
    """Yields a call that waits until some more has gone through."""
    made = Traffic(net, address, port)

    def more() -> None:
        connections, echoes = made.made, made.sent
        eventually(lambda: made.failures or (made.made > connections + 20 and made.sent > echoes + 20))

    try:
        more()
        yield more
        more()
    finally:
        made.end()
    assert made.failures == []


def test_modes_are_switched_without_a_moment_without_rules(net: World, api: Api, agent: Agent) -> None:
    node = net.spaces["node"]
    api.put(web(B, C), WEB)
    agent.start()
    with traffic(net, VIP, 80) as more:
        for mode in ("iptables-nft", "nftables", "iptables-legacy", "iptables-nft", "iptables-legacy", "nftables"):
            agent.kill()
            for variant in VARIANTS:
                node.run([variant, "-w", "-t", "mangle", "-X", "KUBE-IPTABLES-HINT"], check=False)
            agent.mode = mode
            agent.start()
            more()
            for variant in VARIANTS:
                assert ("KPY-" in saved(net, variant)) is (variant == mode), (mode, variant)
            assert (agent.table() != "") is (mode == "nftables")


def as_go(text: str) -> str:
    """Go kube-proxy's rules for our Service, from those it wrote for its own."""
    return text.replace("10.96.1.3", VIP).replace("30080", "30090").replace("10.244.1.10", B).replace("10.244.2.20", C)


@pytest.mark.parametrize("mode", ["nftables", *VARIANTS])
@pytest.mark.parametrize("theirs", VARIANTS)
def test_takes_over_from_go_kube_proxy(net: World, api: Api, agent: Agent, mode: str, theirs: str) -> None:
    node = net.spaces["node"]
    sh(node, f"{theirs} -w -N FLANNEL-FWD; {theirs} -w -A FORWARD -j FLANNEL-FWD")
    sh(node, f"{theirs} -w -t nat -A POSTROUTING -s 203.0.113.1 -j RETURN")
    before = saved(net, theirs)
    script = agent.directory / "go.iptables"
    script.write_text(as_go(GO.read_text()))
    sh(node, f"{theirs}-restore -w --noflush < {script}")
    assert net.ask("pod-a", VIP, 80)[0] in ("pod-b", "pod-c")
    api.put(web(B, C), WEB)
    agent.mode = mode
    with traffic(net, VIP, 80) as more:
        agent.start()
        more()
        assert [line for line in saved(net, theirs).splitlines() if "KUBE-" in line and "HINT" not in line] == []
        assert {net.ask("outside", NODE, 30090)[0] for _ in range(30)} == {"pod-b", "pod-c"}
    kept = [line for line in saved(net, theirs).splitlines() if not re.search("KPY-|HINT|mangle|^:|COMMIT", line)]
    assert kept == [line for line in before.splitlines() if not re.search("mangle|^:|COMMIT", line)]
