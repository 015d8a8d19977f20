"""Killing the kubelet, containerd or the API leaves the pods alone, and what is wanted happens afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from nodecore.kube.resource import CONFIG_MAPS, LEASES, NODES, PODS

from .cell import NODE
from .conftest import Stage, first, is_ready, node_ready

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


async def test_a_killed_kubelet_adopts_what_runs(stage: Stage) -> None:
    await stage.run("stays", SLEEP, readinessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 60})
    await stage.run("leaves", SLEEP)
    await stage.run("forced", SLEEP)
    before = await stage.ready("stays")
    for name in ("leaves", "forced"):
        await stage.ready(name)
    stage.cell.kill("kubelet")
    await stage.delete("leaves")
    forced = await stage.pod("forced")
    assert forced
    await stage.client.delete(PODS, "forced", "default", grace=0)
    seen = await stage.version()
    stage.cell.start_kubelet(stage.kubeconfig)
    await stage.gone("leaves")
    logs = stage.cell.directory / "pods"
    await stage.until("stays", lambda _pod: not list(logs.glob("default_forced_*")))
    after = await stage.ready("stays")
    assert first(after)["containerID"] == first(before)["containerID"]
    assert first(after)["restartCount"] == 0
    assert all(is_ready(obj) for obj in await stage.told(PODS, "stays", seen))
    await stage.delete("stays")
    await stage.gone("stays")


async def test_a_killed_containerd_comes_back_to_the_same_pods(stage: Stage) -> None:
    await stage.run("through", SLEEP)
    before = await stage.ready("through")
    seen = await stage.version()
    stage.cell.kill("containerd")
    stage.cell.start_containerd()
    await stage.run("next", SLEEP)
    await stage.ready("next")
    after = await stage.ready("through")
    assert first(after)["containerID"] == first(before)["containerID"]
    told = [*await stage.told(PODS, "through", seen), *await stage.told(NODES, NODE, seen)]
    assert all(is_ready(obj) for obj in told)
    for name in ("through", "next"):
        await stage.delete(name)
        await stage.gone(name)


async def test_a_container_killed_from_outside_is_started_again(stage: Stage) -> None:
    await stage.run("victim", "exec sleep 100000")
    pod = await stage.ready("victim")
    uid = pod["metadata"]["uid"]
    procs = {int(text) for root in stage.cell.cgroups() for file in (root / f"kubepods/pod{uid}").glob("*/cgroup.procs")
             for text in file.read_text().split()}
    victims = [pid for pid in procs if b"100000" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(victims[0], signal.SIGKILL)
    after = await stage.until("victim", lambda pod: first(pod)["restartCount"] == 1 and is_ready(pod))
    assert first(after)["lastState"]["terminated"]["exitCode"] == 137
    await stage.delete("victim")
    await stage.gone("victim")


async def test_the_node_registers_and_keeps_what_others_set(stage: Stage) -> None:
    node = await node_ready(stage)
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "cell-1"
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://1")
    assert {item["type"] for item in node["status"]["conditions"]} == {"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"}
    lease = await stage.client.get(LEASES, NODE, "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == NODE


async def appears(directory: Path, pattern: str) -> None:
    async with asyncio.timeout(90):
        while not list(directory.glob(pattern)):
            await asyncio.sleep(0.05)


async def test_pods_go_on_without_the_api(stage: Stage) -> None:
    """What it restarts with, a ConfigMap and the ServiceAccount's token, is what was read before."""
    await stage.client.create(CONFIG_MAPS, {"metadata": {"name": "alone"}, "data": {"color": "blue"}}, "default")
    color = {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "alone", "key": "color"}}}
    command = ("test $COLOR = blue && test -s $TOKEN || exit 3; "
               "test -e /data/again && { trap 'exit 0' TERM; while :; do sleep 0.1; done; }; "
               "touch /data/again; while test -e /data/again; do sleep 0.1; done; touch /data/again; exit 1")
    await stage.run("alone", command, spec={"volumes": [{"name": "data", "emptyDir": {}}]},
                    volumeMounts=[{"name": "data", "mountPath": "/data"}],
                    env=[color, {"name": "TOKEN", "value": "/var/run/secrets/kubernetes.io/serviceaccount/token"}])
    pod = await stage.ready("alone")
    marker = stage.cell.directory / f"kubelet/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~empty-dir/data/again"
    await appears(marker.parent, marker.name)
    stage.way.cut()
    try:
        marker.unlink()
        await appears(stage.cell.directory / "pods", "default_alone_*/main/1.log")
    finally:
        stage.way.mend()
    after = await stage.until("alone", lambda pod: first(pod)["restartCount"] == 1 and is_ready(pod))
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    await stage.client.delete(CONFIG_MAPS, "alone", "default")
    await stage.delete("alone")
    await stage.gone("alone")


async def test_cleaned_up_nothing_of_a_pod_is_left(stage: Stage) -> None:
    """Without the API; twice is as once, and a kubelet that comes back makes the pod anew."""
    spec = {"volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    await stage.run("swept", SLEEP, spec=spec, volumeMounts=[{"name": "memory", "mountPath": "/memory"}])
    before = await stage.ready("swept")
    stage.cell.kill("kubelet")
    for _ in range(2):
        done = await asyncio.to_thread(stage.cell.clean_up)
        assert done.returncode == 0, done.stdout
    assert before["metadata"]["uid"] not in done.stdout
    assert not list((stage.cell.directory / "pods").iterdir())
    assert not list((stage.cell.directory / "kubelet").iterdir())
    stage.cell.start_kubelet(stage.kubeconfig)
    await stage.until("swept", lambda pod: is_ready(pod) and first(pod)["containerID"] != first(before)["containerID"])
    await stage.delete("swept")
    await stage.gone("swept")
