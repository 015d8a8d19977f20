"""What goes wrong around the proxy: connections that are open go on, and the end state is right."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Agent, clear_rules, listen, settled
from proxy_api import Api
from proxy_net import NODE, PODS, World, endpoints, eventually, service, sh, shape

pytestmark = pytest.mark.kernel
A, B, C = PODS.values()
VIP = "10.96.4.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080))
WEB = service("web", VIP, ("t", "TCP", 80, 30099), ("u", "UDP", 80, 0), type="NodePort")


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


def answers(net: World, count: int = 24) -> set[str]:
    return {net.ask("pod-a", VIP, 80)[0] for _ in range(count)}


@pytest.fixture
def line(net: World, api: Api, agent: Agent) -> Iterator[socket.socket]:
    """A running proxy, and a connection through it that is to live."""
    api.put(web(B), WEB)
    agent.start()
    settled(net, VIP, 80)
    with net.connect("outside", NODE, 30099) as made:
        assert made.recv(100)
        yield made


def lives(line: socket.socket) -> bool:
    line.sendall(b"ping")
    return line.recv(100) == b"ping"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_killed_at_every_step_of_a_sync(
    net: World, api: Api, agent: Agent, line: socket.socket, when: str, tmp_path: Path,
) -> None:
    """The steps are those of the first sync of a new life, which takes over what an earlier one wrote."""
    told = tmp_path / "steps"
    good = shape(agent.table())
    agent.kill()
    dying = Path(__file__).with_name("dying.py")
    steps = died = 0
    while True:
        told.unlink(missing_ok=True)
        members, expected = ((C,), {"pod-c"}) if steps % 2 else ((B,), {"pod-b"})
        earlier = {"pod-b", "pod-c"} - expected
        api.put(web(*members))
        sh(net.spaces["node"], "sysctl -qw net.ipv4.ip_forward=1")
        agent.program = (str(dying), str(steps), when)
        agent.environment = {"DYING_LOG": str(told)}
        agent.start(wait=False)
        agent.ready.settimeout(0.1)
        process = agent.process
        assert process
        eventually(lambda process=process: process.poll() is not None or is_ready(agent), within=20)
        assert lives(line), steps
        assert answers(net) <= expected | earlier, steps
        ended = process.poll() is not None
        agent.kill()
        agent.program = ("-m", "proxy")
        agent.ready.settimeout(20)
        agent.start()
        eventually(lambda expected=expected: answers(net) == expected, what=f"after step {steps}")
        assert lives(line), steps
        agent.kill()
        if not ended and steps >= len(told.read_text().splitlines()):
            break
        died += ended
        steps += 1
    assert died >= (1 if when == "during" else steps), told.read_text()
    api.put(web(B))
    agent.start()
    eventually(lambda: shape(agent.table()) == good)


def is_ready(agent: Agent) -> bool:
    try:
        return agent.ready.recv(100) == b"READY=1"
    except TimeoutError:
        return False


@pytest.mark.slow
def test_a_table_that_is_flushed_every_second(net: World, api: Api, agent: Agent, line: socket.socket) -> None:
    settled(net, VIP, 80)
    good = shape(agent.table())
    end = time.monotonic() + 6
    while time.monotonic() < end:
        sh(net.spaces["node"], "nft flush ruleset")
        took = eventually(lambda: shape(agent.table()) == good)
        assert took < 1
        assert lives(line)
        assert answers(net, 4) == {"pod-b"}
        time.sleep(1)
    api.put(web(B, C))
    eventually(lambda: answers(net) == {"pod-b", "pod-c"})


@pytest.mark.parametrize("how", ["exit 1", "kill -SEGV $$", "exec 0</dev/null; kill -KILL $$"])
def test_nft_that_fails_in_the_middle(net: World, api: Api, agent: Agent, how: str, tmp_path: Path) -> None:
    """It takes its input, and dies of it; then it works again."""
    broken, tools = tmp_path / "broken", tmp_path / "bin"
    tools.mkdir()
    (tools / "nft").write_text(f"#!/bin/sh\nif [ -e {broken} ]; then cat >/dev/null; {how}; fi\nexec /usr/sbin/nft \"$@\"\n")
    (tools / "nft").chmod(stat.S_IRWXU)
    api.put(web(B), WEB)
    agent.environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    agent.start()
    settled(net, VIP, 80)
    with net.connect("outside", NODE, 30099) as line:
        assert line.recv(100)
        broken.touch()
        api.put(web(C))
        eventually(lambda: "pass failed" in agent.log.read_text())
        assert answers(net, 4) == {"pod-b"}  # all or nothing
        assert lives(line)
        broken.unlink()
        eventually(lambda: answers(net) == {"pod-c"})
        assert lives(line)


def test_an_api_that_replays_old_versions(net: World, api: Api, line: socket.socket, served: tuple[Api, int]) -> None:
    """After a restore the API may show the past, and then everything that happened since: what came last counts."""
    past = len(api.log)
    api.put(web(C))
    eventually(lambda: answers(net) == {"pod-c"})
    api.put(web(B, C))
    eventually(lambda: answers(net) == {"pod-b", "pod-c"})
    api.stop()
    api.rewind(past)
    api.start(listen(net, served[1]))
    eventually(lambda: answers(net) == {"pod-b"}, what="it shows the past", within=20)
    assert lives(line)
    api.catch_up()
    eventually(lambda: answers(net) == {"pod-b", "pod-c"}, what="it has caught up")
    assert lives(line)


@pytest.mark.slow
def test_an_api_that_is_away_for_long(net: World, api: Api, agent: Agent, line: socket.socket, served: tuple[Api, int]) -> None:
    """Healing, new connections and old ones need none; when it is back, what was missed is made up for."""
    good = shape(agent.table())
    api.stop()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        sh(net.spaces["node"], "nft delete table ip kube-proxy")
        eventually(lambda: shape(agent.table()) == good)
        assert lives(line)
        assert answers(net, 4) == {"pod-b"}
        time.sleep(0.5)
    api.put(web(C))
    api.start(listen(net, served[1]))
    eventually(lambda: answers(net) == {"pod-c"}, within=20)
    assert lives(line)
    agent.kill(signal.SIGTERM)
    assert lives(line)
    clear_rules(net)
