"""What goes wrong around the proxy, in each mode: connections that are open go on, and the end state is right.

`FAULT_SECONDS=600` has the API away for as long as an upgrade of it may take.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_rows import made
from conftest import MODES, READY_SECONDS, VARIANTS, Agent, clear_rules, listen
from proxy_api import PATHS, Api
from proxy_net import NODE, PATIENT, PODS, World, endpoints, eventually, heals, service, sh

from nodecore.kube.client import KEEPALIVE
from tests.kernelmodules import need_ipvs

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1200)]
SECONDS = float(os.environ.get("FAULT_SECONDS", "5"))
A, B, C = PODS.values()
VIP, SECOND = "10.96.4.1", "10.96.4.2"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080))
WEB = service("web", VIP, ("t", "TCP", 80, 30099), ("u", "UDP", 80, 0), type="NodePort")
NOTICED = {"nftables": 1.0, "iptables-nft": 2.0, "iptables-legacy": 2.0, "ipvs": 20.0}  # seconds; ipvs runs in a slow machine
PATIENCE = {"ipvs": 60.0}
FLUSHES = {"iptables-legacy": "iptables-legacy -w -t nat -F; iptables-legacy -w -F"}
LOG_LINES_AT_REST = 40
IMPATIENT = """
from nodecore.kube import client
client.KEEPALIVE = tuple((option, 2 if option == client.socket.TCP_KEEPIDLE else 1) for option, _ in client.KEEPALIVE)
from proxy.__main__ import main
main()
"""


def row(feature: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("feature", [f"fault: {feature}"])


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


def answers(net: World, count: int = 16) -> set[str]:
    return {net.ask("pod-a", VIP, 80)[0] for _ in range(count)}


def await_answers(net: World, agent: Agent, expected: set[str], what: str = "") -> float:
    return eventually(lambda: answers(net) == expected, PATIENCE.get(agent.mode, PATIENT), what)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, agent: Agent) -> str:
    if request.param == "ipvs":
        need_ipvs()
    agent.mode = request.param
    return agent.mode


@pytest.fixture
def line(net: World, api: Api, agent: Agent, mode: str) -> Iterator[socket.socket]:
    """A running proxy, and a connection through it that is to live."""
    api.put(web(B), WEB)
    agent.start()
    await_answers(net, agent, {"pod-b"})
    with net.connect("outside", NODE, 30099) as made:
        assert made.recv(100)
        yield made


def lives(line: socket.socket) -> bool:
    line.sendall(b"ping")
    return line.recv(100) == b"ping"


def is_ready(agent: Agent) -> bool:
    try:
        return agent.ready.recv(100) == b"READY=1"
    except TimeoutError:
        return False


def attempt(agent: Agent, told: Path, step: int, when: str) -> bool:
    """Start one that kills itself at this step; whether it did, or else came to its end."""
    told.unlink(missing_ok=True)
    agent.program = (str(Path(__file__).with_name("dying.py")), str(step), when)
    agent.environment = {"DYING_LOG": str(told)}
    agent.start(wait=False)
    agent.ready.settimeout(0.1)
    process = agent.process
    assert process
    eventually(lambda: process.poll() is not None or is_ready(agent), within=60)
    agent.program = ("-m", "proxy")
    agent.ready.settimeout(READY_SECONDS)
    return process.poll() is not None


@pytest.mark.slow
@row("killed at every step of a sync")
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_killed_at_every_step_of_a_sync(
    net: World, api: Api, agent: Agent, line: socket.socket, when: str, tmp_path: Path, feature: str,
) -> None:
    """The steps are those of the first sync of a new life, which takes over what an earlier one wrote."""
    told, good = tmp_path / "steps", agent.rules()
    agent.kill()
    steps = died = 0
    while True:
        members, expected = ((C,), {"pod-c"}) if steps % 2 else ((B,), {"pod-b"})
        api.put(web(*members))
        sh(net.spaces["node"], "sysctl -qw net.ipv4.ip_forward=1")
        ended = attempt(agent, told, steps, when)
        assert lives(line), steps
        assert answers(net) <= {"pod-b", "pod-c"}, steps
        agent.kill()
        agent.start()
        await_answers(net, agent, expected, f"after step {steps}")
        assert lives(line), steps
        agent.kill()
        if not ended and steps >= len(told.read_text().splitlines()):
            break
        died += ended
        steps += 1
    assert died >= (1 if when == "during" else steps), told.read_text()
    api.put(web(B))
    agent.start()
    eventually(lambda: agent.rules() == good, PATIENCE.get(agent.mode, PATIENT))


@pytest.mark.slow
@row("flushed every second")
def test_rules_that_are_flushed_every_second(
    net: World, api: Api, agent: Agent, line: socket.socket, mode: str, feature: str,
) -> None:
    good, healed = agent.rules(), []
    for _ in range(5):
        healed.append(heals(lambda: sh(net.spaces["node"], FLUSHES.get(mode, "nft flush ruleset")),
                            lambda: agent.rules() == good, NOTICED[mode]))
        assert lives(line)
        assert answers(net, 4) == {"pod-b"}
        time.sleep(1)
    print(f"{mode}: healed within {max(healed):.2f} s, {min(healed):.2f} at best")
    api.put(web(B, C))
    await_answers(net, agent, {"pod-b", "pod-c"})
    assert lives(line)


FAILURES = {
    "says no": "cat >/dev/null; exit 1",
    "crashes": "cat >/dev/null; kill -SEGV $$",
    "is killed before it reads": "exec 0</dev/null; kill -KILL $$",
    "hangs, then dies": "sleep 1; kill -KILL $$",
    "dies between two tables": "sed '/^COMMIT/q' | {real} \"$@\"; kill -KILL $$",
}


@row("nft or iptables fails in the middle")
@pytest.mark.parametrize("how", [
    pytest.param(how, marks=[] if how == "crashes" else pytest.mark.slow) for how in FAILURES])
def test_tools_that_fail_in_the_middle(
    net: World, api: Api, agent: Agent, mode: str, how: str, tmp_path: Path, feature: str,
) -> None:
    if "tables" in how and mode not in VARIANTS:
        how = "crashes"  # nft has one transaction for all
    broken, tools = tmp_path / "broken", tmp_path / "bin"
    tools.mkdir()
    for name in ("iptables-restore", *(f"{variant}-restore" for variant in VARIANTS)) if mode in VARIANTS else ("nft",):
        real = shutil.which(name)
        (tools / name).write_text(f"#!/bin/sh\nif [ -e {broken} ]; then {FAILURES[how].format(real=real)}; fi\n"
                                  f"exec {real} \"$@\"\n")
        (tools / name).chmod(stat.S_IRWXU)
    api.put(web(B), WEB)
    agent.environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    agent.start()
    await_answers(net, agent, {"pod-b"})
    with net.connect("outside", NODE, 30099) as line:
        assert line.recv(100)
        broken.touch()
        api.put(web(C), *made("second", SECOND, C))
        eventually(lambda: "pass failed" in agent.log.read_text(), PATIENCE.get(mode, PATIENT))
        assert answers(net, 4) <= {"pod-b", *(() if mode == "nftables" else ("pod-c",))}  # there: all or nothing
        assert lives(line)
        broken.unlink()
        await_answers(net, agent, {"pod-c"})
        for protocol in ("tcp", "udp"):
            eventually(lambda protocol=protocol: net.ask("pod-a", SECOND, 80, protocol)[0] == "pod-c")
        assert lives(line)


@row("an API that replays old versions")
def test_an_api_that_replays_old_versions(
    net: World, api: Api, agent: Agent, line: socket.socket, served: tuple[Api, int], feature: str,
) -> None:
    """After a restore the API may show the past, and then everything that happened since: what came last counts."""
    past = len(api.log)
    api.put(web(C))
    await_answers(net, agent, {"pod-c"})
    api.put(web(B, C))
    await_answers(net, agent, {"pod-b", "pod-c"})
    api.stop()
    api.rewind(past)
    api.start(listen(net, served[1]))
    await_answers(net, agent, {"pod-b"}, "it shows the past")
    assert lives(line)
    api.catch_up()
    await_answers(net, agent, {"pod-b", "pod-c"}, "it has caught up")
    assert lives(line)


@pytest.mark.slow
def test_an_api_that_vanishes_without_a_word(net: World, api: Api, agent: Agent, served: tuple[Api, int]) -> None:
    """Its machine has lost power: no packet says that the watches are dead, and whoever answers now knows nothing of them."""
    keepalive = dict(KEEPALIVE)
    assert keepalive[socket.TCP_KEEPIDLE] + keepalive[socket.TCP_KEEPINTVL] * keepalive[socket.TCP_KEEPCNT] <= 25
    agent.program = ("-c", IMPATIENT)
    others = set(api.watches)
    api.put(web(B), WEB)
    agent.start()
    await_answers(net, agent, {"pod-b"})
    eventually(lambda: {kind for kind, _ in api.watches - others} == set(PATHS.values()))
    old = ", ".join(str(sock.getpeername()[1]) for _, sock in api.watches - others)
    sh(net.spaces["node"], "nft add table ip dark; nft 'add chain ip dark out { type filter hook output priority -300; }';"
                           f"nft add rule ip dark out tcp sport {served[1]} tcp dport '{{ {old} }}' drop;"
                           f"nft add rule ip dark out tcp dport {served[1]} tcp sport '{{ {old} }}' drop")
    api.put(web(C))
    took = eventually(lambda: answers(net) == {"pod-c"}, within=60)
    assert took > 1, "nothing was cut"


def resident(agent: Agent) -> int:
    """kB."""
    assert agent.process
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
@row("the API is away for long, and has forgotten what was")
def test_an_api_that_is_away_for_long(
    net: World, api: Api, agent: Agent, line: socket.socket, served: tuple[Api, int], mode: str, feature: str,
) -> None:
    """Healing, new connections and old ones need none; when it is back, what was missed is made up for."""
    good, memory, said = agent.rules(), resident(agent), len(agent.log.read_text().splitlines())
    with net.spaces["pod-a"].enter():
        flow = socket.socket(type=socket.SOCK_DGRAM)
    with flow:
        flow.settimeout(5)
        flow.connect((VIP, 80))
        api.stop()
        harm = "iptables-nft -t nat -F" if mode == "iptables-nft" else FLUSHES.get(mode, "nft delete table ip kube-proxy-py")
        end, healed = time.monotonic() + SECONDS, [0.0]
        while time.monotonic() < end:
            healed.append(heals(lambda: sh(net.spaces["node"], harm), lambda: agent.rules() == good, NOTICED[mode]))
            assert lives(line)
            assert answers(net, 4) == {talk(flow)} == {"pod-b"}
            time.sleep(max(0.5, SECONDS / 60))
        assert resident(agent) < memory + 8192
        assert len(agent.log.read_text().splitlines()) < said + 3 * len(healed) + LOG_LINES_AT_REST
        api.put(web(B, C))
        api.put(web(C))
        api.compact()
        api.start(listen(net, served[1]))
        took = await_answers(net, agent, {"pod-c"})
        print(f"{mode}: away for {SECONDS:.0f} s; {len(healed) - 1} times damaged, healed within {max(healed):.2f} s; "
              f"caught up {took:.1f} s after it was back")
        eventually(lambda: talk(flow) == "pod-c", PATIENCE.get(mode, PATIENT), "a flow to who is gone is forgotten")
    assert lives(line)
    agent.kill(signal.SIGTERM)
    assert lives(line)
    clear_rules(net)


def talk(flow: socket.socket) -> str:
    flow.send(b"?")
    try:
        return flow.recv(100).decode().split()[0]
    except (TimeoutError, ConnectionRefusedError):
        return ""
