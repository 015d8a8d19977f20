"""Leader election on a real API, and what becomes of nodes and agents when something falls silent or is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from nodecore.errors import Conflict, Unreachable, UserError
from nodecore.kube import config
from nodecore.kube.client import STRATEGIC, KubeClient
from nodecore.kube.election import Election, lease_duration
from nodecore.kube.resource import LEASES, NODES, PODS
from tests.controllers.cluster import deployment, kubelets, node, now
from tests.plane import Plane, until
from tests.promised import at_some_pace

pytestmark = [pytest.mark.etcd, pytest.mark.slow]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane.start(tmp_path_factory.mktemp("plane")) as started:
        yield started


def test_a_lease_that_would_lapse_between_renewals_is_refused() -> None:
    assert lease_duration("2m") == 120
    for text in ("9s", "0", "-1s", "soon"):
        with pytest.raises(UserError, match="--leader-elect-lease-duration"):
            lease_duration(text)


def election(client: KubeClient, name: str, identity: str, pace: float) -> Election:
    return Election(client, f"{name}{pace:g}", identity, duration=1.0 * pace, renew=0.2 * pace, retry=0.1 * pace)


def paced(test: Callable[[KubeClient, float], Awaitable[None]]) -> Callable[[Plane], Awaitable[None]]:
    """A test with a client, at a pace that this machine can keep up with."""
    async def run(plane: Plane) -> None:
        async def attempt(pace: float) -> None:
            async with KubeClient(config.load(str(plane.kubeconfig))) as client:
                await test(client, pace)

        await at_some_pace(attempt)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@paced
async def test_one_leads_and_the_other_waits_until_the_lease_runs_out(client: KubeClient, pace: float) -> None:
    first, second = election(client, "a", "one", pace), election(client, "a", "two", pace)
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(1.5 * pace)
    assert not waiting.done()
    holding.cancel()
    begin = time.monotonic()
    await asyncio.wait_for(waiting, 5 * pace)
    assert 0.5 * pace < time.monotonic() - begin < 3 * pace
    with pytest.raises(Conflict, match="two"):
        await asyncio.wait_for(first.hold(), 5 * pace)
    lease = await client.get(LEASES, first.name, "kube-system")
    assert lease["spec"]["holderIdentity"] == "two"
    assert lease["spec"]["leaseTransitions"] == 1


@paced
async def test_our_own_identity_is_taken_over_at_once_and_the_older_life_ends(client: KubeClient, pace: float) -> None:
    old, new = election(client, "b", "same", pace), election(client, "b", "same", pace)
    await old.acquire()
    holding = asyncio.create_task(old.hold())
    await asyncio.wait_for(new.acquire(), 0.5 * pace)
    with pytest.raises(Conflict):
        await asyncio.wait_for(holding, 5 * pace)


@paced
async def test_a_lease_given_back_is_free_at_once(client: KubeClient, pace: float) -> None:
    first, second = election(client, "c", "one", pace), election(client, "c", "two", pace)
    await first.acquire()
    await first.release()
    await asyncio.wait_for(second.acquire(), 0.5 * pace)


@paced
async def test_who_cannot_renew_stops_leading_before_another_may_begin(client: KubeClient, pace: float) -> None:
    first = election(client, "d", "one", pace)
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    await client.close()
    begin = time.monotonic()
    with pytest.raises(Unreachable, match="could not be renewed"):
        await asyncio.wait_for(holding, 5 * pace)
    assert time.monotonic() - begin < 1.5 * pace


async def heartbeat(client: KubeClient, *names: str) -> None:
    for name in names:
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"{now()[:-1]}.{time.monotonic_ns() % 1000:03d}Z"}
        await client.patch(NODES, name, {"status": {"conditions": [condition]}}, kind=STRATEGIC, subresource="status")


async def test_a_silent_node_loses_its_pods_and_gets_new_ones_when_it_is_back(plane: Plane) -> None:
    agents = [plane.agent("controllers", "--node-monitor-grace-period", "3s"), plane.agent("scheduler")]
    async with KubeClient(config.load(str(plane.kubeconfig))) as client:
        for name in ("n1", "mute"):
            await client.create(NODES, node(name))
        beating = ["n1", "mute"]

        async def beat() -> None:
            while True:
                await heartbeat(client, *beating)
                await asyncio.sleep(0.3)

        task = asyncio.create_task(beat())
        with kubelets(plane):
            body = deployment(replicas=2)
            body["spec"]["template"]["spec"]["tolerations"] = [
                {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
                for what in ("unreachable", "not-ready")]
            await asyncio.to_thread(plane.apply, body)
            await asyncio.to_thread(until, lambda: len(on(plane, "mute")) == 1, "a pod there")
            (pod,) = await asyncio.to_thread(on, plane, "mute")
            running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]}
            name = pod["metadata"]["name"]
            await client.patch(PODS, name, {"status": running}, "default", kind=STRATEGIC, subresource="status")
            beating.remove("mute")
            await asyncio.to_thread(until, lambda: status(plane, "mute") == "Unknown", "unknown")
            wanted = {("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")}
            await asyncio.to_thread(until, lambda: set(taints(plane, "mute")) == wanted, "taints")
            await asyncio.to_thread(until, lambda: not ready(plane, pod["metadata"]["name"]), "pod marked")
            await asyncio.to_thread(until, lambda: len(on(plane, "n1")) == 2, "both on the other node")
            beating.append("mute")
            await asyncio.to_thread(until, lambda: status(plane, "mute") == "True" and not taints(plane, "mute"), "healed")
            await asyncio.to_thread(plane.kubectl, "delete", "node", "mute")
            await asyncio.to_thread(until, lambda: not on(plane, "mute"), "pods of the node gone")
        task.cancel()
    for agent in agents:
        assert agent.stop() == 0


def on(plane: Plane, name: str) -> list[dict[str, dict[str, str]]]:
    found: list[dict[str, dict[str, str]]] = plane.get("pods", "--field-selector", f"spec.nodeName={name}")["items"]
    return found


def status(plane: Plane, name: str) -> str:
    return next(str(each["status"]) for each in plane.get("node", name)["status"]["conditions"] if each["type"] == "Ready")


def taints(plane: Plane, name: str) -> list[tuple[str, str]]:
    return [(each["key"], each["effect"]) for each in plane.get("node", name)["spec"].get("taints", [])]


def ready(plane: Plane, name: str) -> bool:
    pods = [each for each in plane.get("pods")["items"] if each["metadata"]["name"] == name]
    return any(cond["type"] == "Ready" and cond["status"] == "True" for pod in pods for cond in pod["status"]["conditions"])


def test_an_apiserver_killed_in_between_is_only_a_pause(plane: Plane) -> None:
    plane.kubectl("create", "--validate=false", "-f", "-", body=node("n2"))
    agents = [plane.agent("controllers", "--node-monitor-grace-period", "1h"), plane.agent("scheduler")]
    with kubelets(plane):
        plane.apply(deployment("again", 3))
        assert "successfully" in plane.kubectl("rollout", "status", "deployment/again", "--timeout=120s")
        server = next(each for each in plane.agents if each.name == "apiserver" and each.process.poll() is None)
        server.kill9()
        plane.apiserver()
        plane.kubectl("set", "image", "deployment/again", "web=web:2")
        assert "successfully" in plane.kubectl("rollout", "status", "deployment/again", "--timeout=120s")
        assert len(plane.get("pods", "-l", "app=again", "--field-selector", "status.phase=Running")["items"]) >= 3
    for agent in agents:
        assert agent.process.poll() is None
        until(lambda: agent.rss_mb() <= 60, "it is small")  # noqa: B023
        assert agent.stop() == 0
