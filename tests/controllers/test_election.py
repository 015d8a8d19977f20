"""Leader election on a real API, and what becomes of nodes and agents when something falls silent or is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from nodecore.errors import Conflict, Unreachable
from nodecore.kube import config
from nodecore.kube.client import STRATEGIC, KubeClient
from nodecore.kube.election import Election
from nodecore.kube.resource import LEASES, NODES, PODS
from tests.controllers.cluster import deployment, kubelets, node, now
from tests.plane import Plane, until

pytestmark = [pytest.mark.etcd, pytest.mark.slow]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane.start(tmp_path_factory.mktemp("plane")) as started:
        yield started


def election(client: KubeClient, name: str, identity: str) -> Election:
    return Election(client, name, identity, duration=1.0, renew=0.2, retry=0.1)


async def test_one_leads_and_the_other_waits_until_the_lease_runs_out(plane: Plane) -> None:
    async with KubeClient(config.load(str(plane.kubeconfig))) as client:
        first, second = election(client, "a", "one"), election(client, "a", "two")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1.5)
        assert not waiting.done()
        holding.cancel()
        begin = time.monotonic()
        await asyncio.wait_for(waiting, 5)
        assert 0.5 < time.monotonic() - begin < 3
        with pytest.raises(Conflict, match="two"):
            await asyncio.wait_for(first.hold(), 5)
        lease = await client.get(LEASES, "a", "kube-system")
        assert lease["spec"]["holderIdentity"] == "two"
        assert lease["spec"]["leaseTransitions"] == 1


async def test_our_own_identity_is_taken_over_at_once_and_the_older_life_ends(plane: Plane) -> None:
    async with KubeClient(config.load(str(plane.kubeconfig))) as client:
        old, new = election(client, "b", "same"), election(client, "b", "same")
        await old.acquire()
        holding = asyncio.create_task(old.hold())
        await asyncio.wait_for(new.acquire(), 0.5)
        with pytest.raises(Conflict):
            await asyncio.wait_for(holding, 5)


async def test_a_lease_given_back_is_free_at_once(plane: Plane) -> None:
    async with KubeClient(config.load(str(plane.kubeconfig))) as client:
        first, second = election(client, "c", "one"), election(client, "c", "two")
        await first.acquire()
        await first.release()
        await asyncio.wait_for(second.acquire(), 0.5)


async def test_who_cannot_renew_stops_leading_before_another_may_begin(plane: Plane) -> None:
    async with KubeClient(config.load(str(plane.kubeconfig))) as client:
        first = election(client, "d", "one")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        await client.close()
        begin = time.monotonic()
        with pytest.raises(Unreachable, match="could not be renewed"):
            await asyncio.wait_for(holding, 5)
        assert time.monotonic() - begin < 1.5


async def heartbeat(client: KubeClient, *names: str) -> None:
    for name in names:
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"{now()[:-1]}.{time.monotonic_ns() % 1000:03d}Z"}
        await client.patch(NODES, name, {"status": {"conditions": [condition]}}, kind=STRATEGIC, subresource="status")


async def test_a_silent_node_loses_its_pods_and_gets_new_ones_when_it_is_back(plane: Plane) -> None:
    agents = [plane.agent("controllers", "--node-monitor-grace-period", "1.5s"), plane.agent("scheduler")]
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
            pod = on(plane, "mute")[0]
            running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]}
            name = pod["metadata"]["name"]
            await client.patch(PODS, name, {"status": running}, "default", kind=STRATEGIC, subresource="status")
            beating.remove("mute")
            await asyncio.to_thread(until, lambda: status(plane, "mute") == "Unknown", "unknown")
            keys = await asyncio.to_thread(until, lambda: taints(plane, "mute"), "taints")
            assert {(key, effect) for key, effect in keys} == {
                ("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")}
            await asyncio.to_thread(until, lambda: not ready(plane, pod["metadata"]["name"]), "pod marked")
            await asyncio.to_thread(until, lambda: len(on(plane, "n1")) == 2, "both on the other node")
            beating.append("mute")
            await asyncio.to_thread(until, lambda: status(plane, "mute") == "True" and not taints(plane, "mute"), "healed")
            plane.kubectl("delete", "node", "mute")
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
        assert "successfully" in plane.kubectl("rollout", "status", "deployment/again", "--timeout=20s")
        server = next(each for each in plane.agents if each.name == "apiserver" and each.process.poll() is None)
        server.kill9()
        plane.apiserver()
        plane.kubectl("set", "image", "deployment/again", "web=web:2")
        assert "successfully" in plane.kubectl("rollout", "status", "deployment/again", "--timeout=20s")
        assert len(plane.get("pods", "-l", "app=again", "--field-selector", "status.phase=Running")["items"]) >= 3
    for agent in agents:
        assert agent.process.poll() is None
        assert agent.rss_mb() <= 60
        assert agent.stop() == 0
