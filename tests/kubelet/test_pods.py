"""Pods in a real containerd: from the API's object to a process, and back."""

from __future__ import annotations

import asyncio
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from nodecore.kube.resource import CONFIG_MAPS, EVENTS, SECRETS

from .conftest import Stage, first, is_ready, phase, state

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def logged(stage: Stage, name: str) -> str:
    """What its container has said so far."""
    return "".join(path.read_text() for path in (stage.cell.directory / "pods").glob(f"default_{name}_*/main/0.log"))


async def said(stage: Stage, name: str, words: str) -> None:
    """Wait until its container has said that: one that runs need not have set its trap yet."""
    async with asyncio.timeout(90):
        while words not in logged(stage, name):
            await asyncio.sleep(0.05)


async def test_a_pod_runs_is_ready_and_goes(stage: Stage) -> None:
    await stage.run("plain", SLEEP, resources={"limits": {"cpu": "500m", "memory": "64Mi"}})
    pod = await stage.ready("plain")
    uid = pod["metadata"]["uid"]
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["qosClass"] == "Guaranteed"
    assert pod["status"]["podIP"].startswith("10.231.0.")
    assert first(pod)["containerID"].startswith("containerd://")
    groups = [path for root in stage.cell.cgroups() if (path := root / f"kubepods/pod{uid}").is_dir()]
    assert groups
    limits = [file.read_text().strip() for group in groups for pattern in ("*/memory.limit_in_bytes", "*/memory.max")
              for file in group.glob(pattern)]
    assert str(64 * 1024 * 1024) in limits
    await stage.delete("plain")
    await stage.gone("plain")
    assert not (stage.cell.directory / f"kubelet/pods/{uid}").exists()
    assert not [group for group in groups if group.exists()]
    assert not list((stage.cell.directory / "pods").glob("default_plain_*"))


async def test_restart_policies(stage: Stage) -> None:
    await stage.run("good", "exit 0", spec={"restartPolicy": "Never"})
    await stage.run("bad", "echo why > /dev/termination-log; exit 3", spec={"restartPolicy": "Never"})
    await stage.run("retry", 'test -e /data/second || { touch /data/second; exit 1; }', spec={
        "restartPolicy": "OnFailure", "volumes": [{"name": "data", "emptyDir": {}}]},
        volumeMounts=[{"name": "data", "mountPath": "/data"}])
    good = await stage.until("good", lambda pod: phase(pod) == "Succeeded")
    assert state(good)["terminated"]["reason"] == "Completed"
    bad = await stage.until("bad", lambda pod: phase(pod) == "Failed")
    assert state(bad)["terminated"] | {"exitCode": 3, "reason": "Error", "message": "why\n"} == state(bad)["terminated"]
    retry = await stage.until("retry", lambda pod: phase(pod) == "Succeeded")
    assert first(retry)["restartCount"] == 1
    for name in ("good", "bad", "retry"):
        await stage.delete(name)
        await stage.gone(name)


async def test_a_crash_loop_backs_off(stage: Stage) -> None:
    await stage.run("crash", "exit 7")
    pod = await stage.until("crash", lambda pod: state(pod).get("waiting", {}).get("reason") == "CrashLoopBackOff")
    assert first(pod)["restartCount"] == 1
    assert first(pod)["lastState"]["terminated"]["exitCode"] == 7
    assert "back-off 10s" in state(pod)["waiting"]["message"]
    await stage.delete("crash")
    await stage.gone("crash")


async def test_init_containers_run_one_after_another(stage: Stage) -> None:
    mount = [{"name": "data", "mountPath": "/data"}]
    init = [{"name": f"init-{n}", "image": "lab.local/busybox:1", "command": ["sh", "-c", f"echo {n} >> /data/steps"],
             "volumeMounts": mount} for n in (1, 2)]
    await stage.run("staged", "test \"$(cat /data/steps | tr -d '\\n')\" = 12 || exit 1; " + SLEEP,
                    spec={"initContainers": init, "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}]},
                    volumeMounts=mount)
    pod = await stage.ready("staged")
    assert [item["state"]["terminated"]["exitCode"] for item in pod["status"]["initContainerStatuses"]] == [0, 0]
    await stage.delete("staged")
    await stage.gone("staged")


async def test_readiness_flips_and_liveness_kills(stage: Stage, tmp_path: Path) -> None:
    switch = stage.cell.directory / "switch"
    switch.mkdir()
    (switch / "ready").touch()
    (switch / "alive").touch()
    probe = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60}
    await stage.run("probed", f"httpd -f -p 80 -h /switch & {SLEEP}",
                    spec={"volumes": [{"name": "switch", "hostPath": {"path": str(switch), "type": "Directory"}}]},
                    volumeMounts=[{"name": "switch", "mountPath": "/switch"}], ports=[{"name": "web", "containerPort": 80}],
                    readinessProbe={"httpGet": {"path": "/ready", "port": "web"}, **probe},
                    startupProbe={"tcpSocket": {"port": 80}, **probe, "failureThreshold": 120},
                    livenessProbe={"exec": {"command": ["test", "-e", "/switch/alive"]}, **probe})
    await stage.ready("probed")
    (switch / "ready").unlink()
    pod = await stage.until("probed", lambda pod: not is_ready(pod))
    assert first(pod)["started"] is True
    (switch / "ready").touch()
    pod = await stage.ready("probed")
    (switch / "alive").unlink()
    await stage.until("probed", lambda pod: first(pod)["restartCount"] == 1)
    (switch / "alive").touch()
    await stage.delete("probed", grace=1)
    await stage.gone("probed")


async def test_deletion_runs_pre_stop_within_the_grace(stage: Stage) -> None:
    trace = stage.cell.directory / "trace"
    trace.mkdir()
    hook = "echo stop >> /trace/steps; while test ! -e /trace/seen; do sleep 0.1; done"
    await stage.run("graceful", "trap 'echo term >> /trace/steps; exit 0' TERM; echo trapped; while :; do sleep 0.1; done",
                    spec={"volumes": [{"name": "trace", "hostPath": {"path": str(trace)}}], "terminationGracePeriodSeconds": 60},
                    volumeMounts=[{"name": "trace", "mountPath": "/trace"}],
                    lifecycle={"preStop": {"exec": {"command": ["sh", "-c", hook]}}})
    await stage.ready("graceful")
    await said(stage, "graceful", "trapped")
    await stage.delete("graceful")
    pod = await stage.pod("graceful")
    assert pod
    assert is_ready(pod)
    (trace / "seen").touch()
    await stage.gone("graceful")
    assert (trace / "steps").read_text() == "stop\nterm\n"


async def test_a_second_deletion_shortens_the_grace(stage: Stage) -> None:
    await stage.run("stubborn", "trap '' TERM; echo trapped; while :; do sleep 0.1; done",
                    spec={"terminationGracePeriodSeconds": 600})
    await stage.ready("stubborn")
    await said(stage, "stubborn", "trapped")
    await stage.delete("stubborn")
    async with asyncio.timeout(90):
        while not (await stage.client.list(EVENTS, "default", fields="involvedObject.name=stubborn,reason=Killing")).items:
            await asyncio.sleep(0.05)
    begin = time.monotonic()
    await stage.delete("stubborn", grace=1)
    await stage.gone("stubborn")
    assert time.monotonic() - begin < 120


async def test_config_maps_and_secrets(stage: Stage) -> None:
    items = [{"key": "a", "path": "deep/a"}]
    spec: dict[str, Any] = {"volumes": [{"name": "config", "configMap": {"name": "late", "items": items}},
                                        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
                                        {"name": "both", "projected": {"sources": [{"secret": {"name": "keys"}}]}},
                                        {"name": "me", "downwardAPI": {"items": [
                                            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}
    env = [{"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "b"}}},
           {"name": "TWICE", "value": "$(WORD)$(WORD)"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    kinds = "$(stat -f -c %T /keys) $(stat -f -c %T /both)"
    script = f'echo "$TWICE $IP $(cat /config/deep/a) $(cat /keys/k) $(cat /me/name) {kinds}"; {SLEEP}'
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": {"k": "czNjcmV0"}}
    await stage.client.create(SECRETS, secret, "default")
    await stage.run("configured", script, spec=spec, env=env, volumeMounts=[
        {"name": "config", "mountPath": "/config"}, {"name": "keys", "mountPath": "/keys"},
        {"name": "both", "mountPath": "/both"}, {"name": "me", "mountPath": "/me"}])
    await stage.until("configured", lambda pod: "late" in state(pod).get("waiting", {}).get("message", ""))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"a": "file", "b": "ho"}}
    await stage.client.create(CONFIG_MAPS, config, "default")
    pod = await stage.ready("configured")
    await said(stage, "configured", f"hoho {pod['status']['podIP']} file s3cret configured tmpfs tmpfs")
    await stage.delete("configured")
    await stage.gone("configured")


async def test_what_is_not_supported_is_refused_by_name(stage: Stage) -> None:
    await stage.run("claims", SLEEP, spec={"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "x"}}]})
    pod = await stage.until("claims", lambda pod: state(pod))
    assert state(pod)["waiting"]["reason"] == "Unsupported"
    assert "volume data of type persistentVolumeClaim" in state(pod)["waiting"]["message"]
    async with asyncio.timeout(90):
        while not (await stage.client.list(EVENTS, "default", fields="involvedObject.name=claims,reason=Unsupported")).items:
            await asyncio.sleep(0.05)
    await stage.delete("claims")
    await stage.gone("claims")


async def test_images_that_cannot_be_had(stage: Stage) -> None:
    await stage.run("absent", SLEEP, image="lab.local/none:1", imagePullPolicy="Never")
    await stage.run("far", SLEEP, image="127.0.0.1:9/none:1")
    pod = await stage.until("absent", lambda pod: state(pod).get("waiting", {}).get("message"))
    assert state(pod)["waiting"]["reason"] == "ErrImageNeverPull"
    pod = await stage.until("far", lambda pod: state(pod).get("waiting", {}).get("reason") == "ImagePullBackOff")
    assert state(pod)["waiting"]["message"].startswith('Back-off pulling image "127.0.0.1:9/none:1": ')
    for name in ("absent", "far"):
        await stage.delete(name)
        await stage.gone(name)


async def test_identity_and_capabilities(stage: Stage) -> None:
    await stage.run("user", "id -u; id -g; touch /x 2>/dev/null || echo read-only; touch /data/x && echo writes; " + SLEEP,
                    spec={"securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000},
                          "volumes": [{"name": "data", "emptyDir": {}}], "hostname": "someone"},
                    volumeMounts=[{"name": "data", "mountPath": "/data"}],
                    securityContext={"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}})
    await stage.ready("user")
    await said(stage, "user", "writes")
    assert [line.rsplit(" ", 1)[1] for line in logged(stage, "user").splitlines()] == ["1000", "2000", "read-only", "writes"]
    await stage.run("root", SLEEP, spec={"securityContext": {"runAsNonRoot": True}})
    pod = await stage.until("root", lambda pod: state(pod).get("waiting", {}).get("reason") == "CreateContainerConfigError")
    assert "will run as root" in state(pod)["waiting"]["message"]
    for name in ("user", "root"):
        await stage.delete(name)
        await stage.gone(name)


async def test_a_pod_in_the_nodes_network(stage: Stage) -> None:
    await stage.run("host", SLEEP, spec={"hostNetwork": True})
    pod = await stage.ready("host")
    assert pod["status"]["podIP"] == pod["status"]["hostIP"]
    await stage.delete("host")
    await stage.gone("host")


async def test_an_image_is_pulled_from_a_registry(stage: Stage) -> None:
    inner = stage.cell.listen()
    name = f"127.0.0.1:{inner.getsockname()[1]}/tools:7"
    with tarfile.open(stage.cell.directory / "images.tar") as tar:
        files = {member.name: file.read() for member in tar.getmembers() if (file := tar.extractfile(member))}
    manifests = json.loads(files["index.json"])["manifests"]
    manifest = next(entry for entry in manifests if "lab.local/busybox:1" in entry["annotations"].values())

    async def serve(request: web.Request) -> web.Response:
        kind, reference = request.match_info["kind"], request.match_info["reference"]
        digest = manifest["digest"] if kind == "manifests" else reference
        media = manifest["mediaType"] if kind == "manifests" else "application/octet-stream"
        body = files["blobs/" + digest.replace(":", "/")]
        return web.Response(body=body, content_type=media, headers={"Docker-Content-Digest": digest})

    app = web.Application()
    app.router.add_get("/v2/tools/{kind}/{reference}", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, inner).start()
    try:
        await stage.run("pulled", SLEEP, image=name, imagePullPolicy="Always")
        pod = await stage.ready("pulled")
        assert first(pod)["image"] == name
    finally:
        await runner.cleanup()
    await stage.delete("pulled")
    await stage.gone("pulled")
