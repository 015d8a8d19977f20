"""The conformance table. Each row asks as somebody, and says who may answer and which caller's address it must see."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import stray_segment
from asking import QUIET, ask_until_all
from conformance_rows import DROPPED, NO_RULES, PROTOCOLS, ROWS, SERVICES, STAY, ZONE, B, Row, dual
from conftest import Agent
from proxy_api import Api
from proxy_net import FAMILIES, FAR_POD, NODE, World, eventually, in_family, of

from nodecore.kernel.ipvs import Ipvs
from nodecore.kernel.virtualserver import ServerKey
from nodecore.net import Family

pytestmark = pytest.mark.kernel
FLAGS = ("--cluster-cidr", "10.244.0.0/16,fd00::10:244:0:0/96", "--iptables-localhost-nodeports=false")
EACH_FAMILY = pytest.mark.parametrize("family", [Family.IPV4, pytest.param(Family.IPV6, marks=pytest.mark.slow)])
EACH_PROTOCOL = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def programmed(net: World, served: tuple[Api, int], running: Agent) -> None:
    api = served[0]
    api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": ZONE}}})
    api.put(*(in_family(family, item) for family in FAMILIES for objects in SERVICES for item in objects))
    api.put(*dual("dual", "10.96.0.62", B, FAR_POD, node_port=30095, balancer="10.96.250.12"))
    for family in FAMILIES:
        last = of(family, "10.96.0.99")
        eventually(lambda at=last: net.ask("pod-a", at, 80, timeout=0.3)[0] == "far", within=30)


@pytest.fixture(scope="module")
def dropped(net: World, programmed: None) -> Callable[[Family], dict[tuple[str, str], str]]:
    """What came of every question that nobody is to answer, by feature and protocol: they are waited for together."""
    questions = [(row, protocol) for row in ROWS if row.answers == DROPPED for protocol in PROTOCOLS]

    @functools.cache
    def asked(family: Family) -> dict[tuple[str, str], str]:
        def ask(question: tuple[Row, str]) -> str:
            row, protocol = question
            return net.ask(row.caller, of(family, row.address), row.port, protocol, QUIET)[0]

        with ThreadPoolExecutor(len(questions)) as pool:
            found = zip(questions, pool.map(ask, questions), strict=True)
            return {(row.feature, protocol): who for (row, protocol), who in found}

    return asked


@EACH_PROTOCOL
@EACH_FAMILY
@pytest.mark.parametrize(("feature", "row"), [(row.feature, row) for row in ROWS], ids=[row.feature for row in ROWS])
def test_reaches(
    net: World, dropped: Callable[[Family], dict[tuple[str, str], str]], family: Family, protocol: str, feature: str, row: Row,
) -> None:
    if row.answers == DROPPED:
        assert dropped(family)[feature, protocol] == "timeout"
    else:
        ask_until_all(net, row, family, protocol)


@pytest.mark.usefixtures("programmed")
@EACH_PROTOCOL
@EACH_FAMILY
@pytest.mark.parametrize(("feature", "caller", "address", "port"), STAY, ids=[row[0] for row in STAY])
def test_stays(net: World, family: Family, protocol: str, feature: str, caller: str, address: str, port: int) -> None:
    seen = {net.ask(caller, of(family, address), port, protocol)[0] for _ in range(8)}
    assert len(seen) == 1
    assert seen < {"pod-b", "pod-c", "far"}


@pytest.fixture(scope="module")
def answered(net: World, programmed: None, running: Agent) -> dict[tuple[Family, str], set[str]]:
    """Who answered a client that asked now and then, by family and protocol, until somebody else did: all wait together."""
    questions = list(itertools.product(FAMILIES, PROTOCOLS))

    def ask(question: tuple[Family, str]) -> set[str]:
        family, protocol = question
        seen: set[str] = set()
        end = time.monotonic() + 40
        while len(seen) < 2 and time.monotonic() < end:
            seen.add(net.ask("outside", of(family, "10.96.0.59"), 80, protocol)[0])
            time.sleep(1.1)  # iptables counts in whole seconds, and the client is to be forgotten: nobody asks
        return seen

    with ThreadPoolExecutor(len(questions)) as pool:
        return dict(zip(questions, pool.map(ask, questions), strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("programmed")
@EACH_PROTOCOL
@EACH_FAMILY
@pytest.mark.parametrize("feature", ["sessionAffinity ClientIP: times out"])
def test_moves_when_affinity_has_timed_out(
    net: World, running: Agent, request: pytest.FixtureRequest, family: Family, protocol: str, feature: str,
) -> None:
    """Of four endpoints the same is found again by chance, but not for long."""
    if running.mode == "ipvs":  # keeps a client for as long as it remembers a connection of it, which is minutes
        with contextlib.closing(Ipvs(net.spaces["node"].path)) as kernel:
            key = ServerKey(of(family, "10.96.0.59"), protocol, 80)
            assert [server.persistence for server in kernel.servers() if server.key == key] == [1]
        found = {net.ask("outside", of(family, "10.96.0.59"), 80, protocol)[0] for _ in range(8)}
        assert len(found) == 1
    else:
        found = request.getfixturevalue("answered")[family, protocol]
        assert len(found) > 1
    assert found <= {"pod-a", "pod-b", "pod-c", "far"}


@pytest.mark.usefixtures("programmed")
@EACH_FAMILY
@pytest.mark.parametrize("feature", ["spread evenly"])
def test_spreads_fairly(net: World, family: Family, feature: str) -> None:
    seen = [net.ask("pod-a", of(family, "10.96.0.10"), 80)[0] for _ in range(200)]
    assert 60 < seen.count("pod-b") < 140


@pytest.mark.usefixtures("programmed")
@EACH_FAMILY
@pytest.mark.parametrize(("feature", "port", "code"), [
    ("healthCheckNodePort: somebody here", 31901, 200), ("healthCheckNodePort: nobody here", 31902, 503)])
def test_health_check(net: World, family: Family, feature: str, port: int, code: int) -> None:
    with net.connect("outside", of(family, NODE), port + (10 if family is Family.IPV6 else 0)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
        assert sock.recv(4096).split()[1] == str(code).encode()


@pytest.mark.usefixtures("programmed")
@pytest.mark.parametrize("feature", ["headless, ExternalName, other proxies': nothing programmed"])
def test_has_no_rules(net: World, feature: str) -> None:
    with net.spaces["node"].enter():
        told = urllib.request.urlopen("http://127.0.0.1:10249/rules", timeout=60).read().decode()
    assert '"default/near"' in told
    assert not [name for name in NO_RULES if f'"default/{name}"' in told]


@pytest.mark.usefixtures("programmed")
@EACH_FAMILY
@pytest.mark.parametrize("feature", ["conntrack: a stray segment cuts no connection"])
def test_stray_segment(net: World, family: Family, feature: str) -> None:
    far = net.spaces["far"]
    with net.connect("pod-a", of(family, "10.96.0.11"), 80) as line, stray_segment.listening(far) as heard:
        assert line.recv(100)
        line.sendall(b"the last")
        assert line.recv(100) == b"the last"
        stray_segment.send(far, family, stray_segment.last_of(heard, family, 8080, b"the last"))
        for _ in range(5):
            line.sendall(b"ping")
            assert line.recv(100) == b"ping"
            time.sleep(0.05)  # a reset would be on its way
