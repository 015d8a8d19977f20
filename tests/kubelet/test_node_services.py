"""What a node does beside running containers: rotating logs, lifecycle hooks, host ports; with a real containerd."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from nodecore.kube.resource import EVENTS

from .conftest import Stage, first, state

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


async def told(stage: Stage, name: str, reason: str) -> str:
    """The message of an event about a pod, awaited."""
    async with asyncio.timeout(90):
        while True:
            found = await stage.client.list(EVENTS, "default", fields=f"involvedObject.name={name},reason={reason}")
            if found.items:
                return str(found.items[0]["message"])
            await asyncio.sleep(0.05)


async def end(stage: Stage, name: str) -> None:
    await stage.delete(name, grace=1)
    await stage.gone(name)


def logs_of(stage: Stage, name: str) -> list[str]:
    return sorted(path.name for path in (stage.cell.directory / "pods").glob(f"default_{name}_*/main/*"))


async def test_large_logs_are_rotated_and_a_follower_misses_no_line(stage: Stage) -> None:
    """The cell's kubelet keeps three files of 64 KiB; the container writes about 20 KiB a second."""
    count = 4500
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i of a log that grows and grows; i=$((i+1)); " \
             "[ $((i % 15)) = 0 ] && sleep 0.08; done; " + SLEEP
    await stage.run("writer", script)
    await stage.ready("writer")
    following = asyncio.create_task(stage.kubectl("logs", "-f", "writer", "--pod-running-timeout=90s"))
    last = f"line {count - 1} "
    async with asyncio.timeout(240):
        while last not in await stage.kubectl("logs", "writer", "--tail=1"):
            await asyncio.sleep(0.5)
    async with asyncio.timeout(90):  # one that is just being rotated has no name for a moment
        while len(kept := logs_of(stage, "writer")) != 3:
            await asyncio.sleep(0.1)
    assert all(re.fullmatch(r"0\.log(\.\d{8}-\d{6})?", name) for name in kept)
    await end(stage, "writer")
    seen = [int(line.split()[1]) for line in (await following).splitlines()]
    assert seen == list(range(count))


async def test_logs_of_runs_long_gone_are_removed(stage: Stage) -> None:
    await stage.run("again", "test $(cat /data/runs | wc -l) -ge 3 && { " + SLEEP + "; }; echo x >> /data/runs; exit 1", spec={
        "volumes": [{"name": "data", "hostPath": {"path": str(stage.cell.directory / "again"), "type": "DirectoryOrCreate"}}]},
        volumeMounts=[{"name": "data", "mountPath": "/data"}])
    (stage.cell.directory / "again").mkdir(exist_ok=True)
    (stage.cell.directory / "again/runs").write_text("x\n")
    await stage.until("again", lambda pod: first(pod).get("restartCount") == 2)
    async with asyncio.timeout(90):
        while logs_of(stage, "again") != ["1.log", "2.log"]:
            await asyncio.sleep(0.1)
    await end(stage, "again")


async def test_post_start_runs_in_the_container(stage: Stage) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo started > /tmp/mark"]}}}
    await stage.run("greeted", SLEEP, lifecycle=hook,
                    readinessProbe={"exec": {"command": ["test", "-e", "/tmp/mark"]}, "periodSeconds": 1})
    await stage.ready("greeted")
    await end(stage, "greeted")


async def test_a_failing_post_start_ends_the_container(stage: Stage) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo no good >&2; exit 5"]}}}
    await stage.run("spurned", SLEEP, lifecycle=hook, spec={"restartPolicy": "Never"})
    assert "no good" in await told(stage, "spurned", "FailedPostStartHook")
    await stage.until("spurned", lambda pod: "terminated" in state(pod))
    await end(stage, "spurned")


HOOKS = [{"httpGet": {"path": "/passwd", "port": "web"}}, {"sleep": {"seconds": 1}}]


@pytest.mark.parametrize("hook", HOOKS, ids=["httpGet", "sleep"])
async def test_other_hooks(stage: Stage, hook: dict[str, Any]) -> None:
    name = f"hooked-{next(iter(hook)).lower()}"
    begin = time.monotonic()
    await stage.run(name, "httpd -f -p 80 -h /etc & " + SLEEP, lifecycle={"preStop": hook},
                    ports=[{"name": "web", "containerPort": 80}], readinessProbe={"tcpSocket": {"port": 80}, "periodSeconds": 1})
    await stage.ready(name)
    begin = time.monotonic()
    await stage.delete(name, grace=10)
    await stage.gone(name)
    assert ("sleep" in hook) <= (time.monotonic() - begin >= 1)
    found = await stage.client.list(EVENTS, "default", fields=f"involvedObject.name={name},reason=FailedPreStopHook")
    assert not found.items


async def test_a_pre_stop_that_fails_is_told_and_one_that_hangs_is_cut_short(stage: Stage) -> None:
    await stage.run("refusing", SLEEP, lifecycle={"preStop": {"exec": {"command": ["false"]}}})
    await stage.run("hanging", SLEEP, lifecycle={"preStop": {"exec": {"command": ["sleep", "1000"]}}})
    for name in ("refusing", "hanging"):
        await stage.ready(name)
    begin = time.monotonic()
    await stage.delete("hanging", grace=2)
    await stage.delete("refusing")
    await told(stage, "refusing", "FailedPreStopHook")
    for name in ("refusing", "hanging"):
        await stage.gone(name)
    assert 2 <= time.monotonic() - begin < 120


async def test_a_pod_whose_post_start_hangs_can_be_deleted(stage: Stage) -> None:
    trace = stage.cell.directory / "hanging"
    trace.mkdir()
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "touch /trace/on; exec sleep 1000"]}}}
    await stage.run("stuck", SLEEP, lifecycle=hook, volumeMounts=[{"name": "trace", "mountPath": "/trace"}],
                    spec={"volumes": [{"name": "trace", "hostPath": {"path": str(trace)}}]})
    async with asyncio.timeout(90):
        while not (trace / "on").exists():
            await asyncio.sleep(0.05)
    begin = time.monotonic()
    await stage.delete("stuck", grace=2)
    await stage.gone("stuck")
    assert time.monotonic() - begin < 120


def fetch(stage: Stage, port: int) -> str:
    with stage.cell.connect(port, "10.231.0.1") as sock:
        sock.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).decode()


def conflist(stage: Stage) -> Path:
    return stage.cell.directory / "etc-cni/10-cell.conflist"


WEB = {"command": "httpd -f -p 80 -h /etc & " + SLEEP, "ports": [{"containerPort": 80, "hostPort": 8088}],
       "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}}


async def test_a_host_port_leads_to_the_pod_and_is_free_again_after_it(stage: Stage) -> None:
    await stage.run("ported", **WEB)  # type: ignore[arg-type]
    await stage.ready("ported")
    assert "nobody" in fetch(stage, 8088)
    await end(stage, "ported")
    with pytest.raises(OSError, match="refused"):
        fetch(stage, 8088)


async def test_a_host_port_is_refused_by_name_where_the_network_maps_none(stage: Stage) -> None:
    whole = conflist(stage).read_text()
    config = json.loads(whole)
    config["plugins"] = [each for each in config["plugins"] if each["type"] != "portmap"]
    conflist(stage).write_text(json.dumps(config))
    try:
        async with asyncio.timeout(90):
            while await stage.maps_ports():
                await asyncio.sleep(0.05)
        await stage.run("portless", **WEB)  # type: ignore[arg-type]
        message = await told(stage, "portless", "FailedCreatePodSandBox")
        assert "hostPort 8088" in message
        assert "portMappings" in message
    finally:
        conflist(stage).write_text(whole)
    await stage.ready("portless")
    assert "nobody" in fetch(stage, 8088)
    await end(stage, "portless")
