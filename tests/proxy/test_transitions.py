"""The conformance table's transitions: who answers before and after, and that connections which are open go on.

Each in every mode, by all protocols, from a pod by the ClusterIP and from outside by the NodePort. Modes are switched in
`test_mode_switches.py`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
from asking import NOBODY, NODE_PORT, PATIENCE, VIP, await_state, gone, lines
from conformance_rows import LOCAL, ZONE, B, C, Object, leaving, made, member
from conftest import Agent
from proxy_api import Api
from proxy_net import FAR_POD, World, eventually, in_family, of

from nodecore.net import Family

pytestmark = pytest.mark.kernel
FLAGS = ("--cluster-cidr", "10.244.0.0/16,fd00::10:244:0:0/96")
EACH_FAMILY = pytest.mark.parametrize("family", [Family.IPV4, pytest.param(Family.IPV6, marks=pytest.mark.slow)])
State = tuple[tuple[str | Object, ...], dict[str, Any], set[str], set[str]]  # members, spec; who answers inside, and outside


def state(*members: str | Object, inside: str = "", outside: str = "", **spec: Any) -> State:
    """Who answers outside is as inside where nothing is said."""
    return members, spec, set(inside.split()), set((outside or inside).split())


TWO = state(B, C, inside="pod-b pod-c")
BOTH = state(B, FAR_POD, inside="pod-b far")
NONE = state(inside="refused")
ZONED = (member(B, zone=ZONE), member(FAR_POD, zone="zone-2"))
TRANSITIONS = (
    ("an endpoint is gone", TWO, state(C, inside="pod-c")),
    ("an endpoint comes", state(C, inside="pod-c"), TWO),
    ("an endpoint terminates", TWO, state(leaving(B), C, inside="pod-c")),
    ("all endpoints terminate", TWO, state(leaving(B), inside="pod-b")),
    ("an endpoint is not ready any more", TWO, state(member(B, ready=False), C, inside="pod-c")),
    ("nobody is left", TWO, NONE),
    ("the last terminates, then is gone", state(leaving(B), inside="pod-b"), NONE),
    ("the only one here terminates, Local", state(B, FAR_POD, inside="pod-b far", outside="pod-b", **LOCAL),
     state(leaving(B), FAR_POD, inside="far", outside="pod-b", **LOCAL)),
    ("externalTrafficPolicy becomes Local", BOTH, state(B, FAR_POD, inside="pod-b far", outside="pod-b", **LOCAL)),
    ("externalTrafficPolicy becomes Cluster", state(B, FAR_POD, inside="pod-b far", outside="pod-b", **LOCAL), BOTH),
    ("internalTrafficPolicy becomes Local", BOTH,
     state(B, FAR_POD, inside="pod-b", outside="pod-b far", internalTrafficPolicy="Local")),
    ("internalTrafficPolicy becomes Cluster",
     state(B, FAR_POD, inside="pod-b", outside="pod-b far", internalTrafficPolicy="Local"), BOTH),
    ("endpoints get hints", BOTH, state(*ZONED, inside="pod-b")),
    ("publishNotReadyAddresses is taken back", state(member(B, ready=False), inside="pod-b", publishNotReadyAddresses=True),
     state(member(B, ready=False), inside="refused")),
    ("it has no NodePort any more", TWO, state(B, C, inside="pod-b pod-c", outside="refused", type="ClusterIP")),
    ("it is another proxy's now", TWO, state(B, C, inside="nobody", outside="refused", labels="service-proxy-name")),
)
QUICK = ("an endpoint is gone", "nobody is left")


@pytest.fixture(scope="module")
def told(served: tuple[Api, int]) -> Api:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": ZONE}}}
    served[0].put(node)
    return served[0]


def moving(members: tuple[str | Object, ...], spec: dict[str, Any]) -> list[Object]:
    port = 0 if spec.get("type") == "ClusterIP" else NODE_PORT
    label = {key: value for key, value in spec.items() if key == "labels"}
    objects = made("moving", VIP, *members, node_port=port, **{key: spec[key] for key in spec.keys() - label.keys()})
    for item in objects if label else ():
        item["metadata"].setdefault("labels", {})[f"service.kubernetes.io/{label['labels']}"] = "other"
    return objects


@EACH_FAMILY
@pytest.mark.parametrize(("feature", "before", "after"), [
    pytest.param(f"transition: {row[0]}", *row[1:], id=row[0], marks=[] if row[0] in QUICK else pytest.mark.slow)
    for row in TRANSITIONS])
def test_of_a_service(
    net: World, told: Api, running: Agent, family: Family, feature: str, before: State, after: State,
) -> None:
    told.put(*(in_family(family, item) for item in moving(*before[:2])))
    await_state(net, family, *before[2:])
    with lines(net, family) if before[2] != {"refused"} else contextlib.nullcontext():
        told.put(*(in_family(family, item) for item in moving(*after[:2])))
        await_state(net, family, gone(running.mode) if after[2] == NOBODY else after[2], after[3])


@pytest.mark.slow
@EACH_FAMILY
@pytest.mark.parametrize("feature", ["transition: the Service is deleted and comes back"])
def test_deleted(net: World, told: Api, running: Agent, family: Family, feature: str) -> None:
    objects = [in_family(family, item) for item in moving(*TWO[:2])]
    told.put(*objects)
    await_state(net, family, *TWO[2:])
    with lines(net, family):
        for item in objects:
            told.delete(item["kind"], item["metadata"]["name"])
        await_state(net, family, gone(running.mode), {"refused"})
        told.put(*objects)
        await_state(net, family, *TWO[2:])


@EACH_FAMILY
@pytest.mark.parametrize("feature", ["transition: the agent is killed and comes back"])
def test_killed(net: World, told: Api, running: Agent, family: Family, feature: str) -> None:
    told.put(*(in_family(family, item) for item in moving(*TWO[:2])))
    await_state(net, family, *TWO[2:])
    with lines(net, family):
        running.kill()
        await_state(net, family, *TWO[2:])
        told.put(*(in_family(family, item) for item in moving(*state(C, FAR_POD)[:2])))
        running.start()
        await_state(net, family, {"pod-c", "far"}, {"pod-c", "far"})


def flows(net: World, family: Family, protocol: str, address: str, endpoint: str) -> int:
    """How many are remembered from a caller to this address, answered by that endpoint."""
    listed = ["conntrack", "-L", "-f", f"ipv{family.value}", "-p", protocol,
              "--orig-dst", of(family, address), "--reply-src", of(family, endpoint)]
    return len(net.spaces["node"].run(listed, check=False).stdout.splitlines())


@EACH_FAMILY
@pytest.mark.parametrize("feature", ["transition: flows to who is gone are forgotten, others are kept"])
def test_flows(net: World, told: Api, running: Agent, family: Family, feature: str) -> None:
    """A caller of UDP who goes on sending from one port finds who answers now; a call past the Service is left alone."""
    told.put(*(in_family(family, item) for item in moving(*state(B, leaving(C))[:2])))
    await_state(net, family, {"pod-b"}, {"pod-b"})
    sockets = []
    for address, port in ((VIP, 80), (B, 8080)):
        with net.spaces["pod-a"].enter():
            sockets.append(socket.socket(family.af, socket.SOCK_DGRAM))
        sockets[-1].settimeout(1)
        sockets[-1].connect((of(family, address), port))
    with sockets[0] as flow, sockets[1] as direct:
        assert {talk(flow), talk(direct)} == {"pod-b"}
        assert flows(net, family, "sctp", VIP, B) > 0
        told.put(*(in_family(family, item) for item in moving(*state(C)[:2])))
        eventually(lambda: talk(flow) == "pod-c", PATIENCE)
        eventually(lambda: flows(net, family, "udp", VIP, B) == flows(net, family, "sctp", VIP, B) == 0, PATIENCE)
        assert flows(net, family, "udp", B, B) == 1
        assert talk(direct) == "pod-b"


def talk(flow: socket.socket) -> str:
    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
        flow.send(b"?")
        return flow.recv(100).decode().split()[0]
    return ""
