"""A day's work of the real kubectl on a real node: our API server, controllers, scheduler, kubelet, and containerd."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.labs import until

from .conftest import BUSYBOX, Stage

kubernetes = pytest.importorskip("kubernetes", reason="the Python client is not installed")
pytest.importorskip("kubernetes.stream")
pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
SCRIPT = "echo hello from $(hostname); trap 'exit 0' TERM; while :; do sleep 0.1; done"
CONTAINER = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", SCRIPT]}


def workload(kind: str, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "day"}}, "spec": {"terminationGracePeriodSeconds": 3, "containers": [CONTAINER]}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "day"},
            "spec": {"selector": {"matchLabels": {"app": "day"}}, "template": template, **spec}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def day(stage: Stage) -> AsyncIterator[Stage]:
    agents = [stage.plane.agent("controllers"), stage.plane.agent("scheduler")]
    await stage.kubectl("apply", "-f", "-", body=workload("Deployment", replicas=1))
    await stage.kubectl("rollout", "status", "deployment/day", "--timeout=120s")
    yield stage
    await stage.kubectl("delete", "deployment/day", "--cascade=foreground", "--timeout=120s")
    for agent in agents:
        agent.stop()


async def comes(day: Stage, words: str, *argv: str) -> str:
    """What kubectl prints as soon as that is in it: events, and what a container that runs says, come when they come."""
    async with asyncio.timeout(90):
        while words not in (printed := await day.kubectl(*argv)):
            await asyncio.sleep(0.1)
    return printed


async def names(day: Stage) -> list[str]:
    return (await day.kubectl("get", "pods", "-l", "app=day", "-o", "name", "--sort-by=.metadata.creationTimestamp")).split()


async def test_it_is_seen(day: Stage) -> None:
    assert "1/1" in await day.kubectl("get", "deployments,pods", "-o", "wide")
    assert "cell-1" in await day.kubectl("get", "nodes")
    pod = (await names(day))[0]
    await comes(day, "Started container main", "describe", pod)
    assert "NewReplicaSetAvailable" in await day.kubectl("describe", "deployment/day")
    assert "kubepods" not in await day.kubectl("describe", "node/cell-1")
    assert (await day.kubectl("get", pod, "-o", "jsonpath={.status.phase}")) == "Running"
    await comes(day, "Created pod", "events")


async def test_logs_exec_attach_and_copies(day: Stage) -> None:
    pod = (await names(day))[0].removeprefix("pod/")
    assert await comes(day, "hello", "logs", pod) == f"hello from {pod}\n"
    assert await day.kubectl("logs", "deployment/day", "--tail=1", "--timestamps") != ""
    assert await day.kubectl("exec", pod, "--", "sh", "-c", "echo $((6 * 7))") == "42\n"
    assert "exit code 3" in await day.kubectl("exec", pod, "--", "sh", "-c", "exit 3", check=False)
    assert await day.kubectl("exec", "-i", pod, "--", "cat", body={"to": "cat"}) == '{"to": "cat"}'
    hosts = day.cell.directory / "hosts"
    await day.kubectl("cp", f"{pod}:/etc/hosts", str(hosts))
    assert pod in hosts.read_text()
    assert "not found" in await day.kubectl("logs", "nobody", check=False)
    assert f'previous terminated container "main" in pod "{pod}" not found' in await day.kubectl("logs", "-p", pod, check=False)


async def test_it_is_looked_into(day: Stage) -> None:
    """kubectl debug: a container beside the pod's, one that sees its processes, a copy of the pod, and a pod on the node."""
    pod = (await names(day))[0].removeprefix("pod/")
    quiet = ("--image", BUSYBOX, "--image-pull-policy=IfNotPresent", "--quiet", "--profile=general")
    await day.kubectl("debug", pod, *quiet, "-c", "beside", "--attach=false", "--", "sh", "-c", "echo seen; sleep 600")
    await day.kubectl("wait", f"pod/{pod}", "--timeout=120s",
                      "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}")
    assert await comes(day, "seen", "logs", pod, "-c", "beside") == "seen\n"
    assert pod in await day.kubectl("exec", pod, "-c", "beside", "--", "hostname")
    typed = await asyncio.create_subprocess_exec(
        "kubectl", "--kubeconfig", str(day.plane.kubeconfig), "debug", pod, *quiet, "-i", "-c", "inside", "--target=main", "--",
        "sh", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert typed.stdin is not None
    assert typed.stdout is not None
    typed.stdin.write(b"ps; exit\n")  # and stays open: at its end the runtime would let go of the output as well
    async with asyncio.timeout(90):
        assert b"trap 'exit 0' TERM" in await typed.stdout.read()
    typed.stdin.close()
    assert await typed.wait() == 0
    assert "Ephemeral Containers:" in await day.kubectl("describe", "pod", pod)
    shown = json.loads(await day.kubectl("get", "pod", pod, "-o", "json"))
    assert shown["status"]["phase"] == "Running"
    assert all(item["ready"] for item in shown["status"]["containerStatuses"])
    await day.kubectl("debug", pod, *quiet, "--copy-to=copied", "-c", "extra", "--attach=false", "--", "sleep", "600")
    await day.kubectl("wait", "pod/copied", "--for=condition=Ready", "--timeout=120s")
    assert len(json.loads(await day.kubectl("get", "pod", "copied", "-o", "json"))["spec"]["containers"]) == 2
    await day.kubectl("debug", "node/cell-1", *quiet, "--attach=false", "--", "ls", "/host/etc")
    pods = (await day.kubectl("get", "pods", "-o", "name")).split()
    onto = next(name for name in pods if "node-debugger" in name).removeprefix("pod/")
    await day.kubectl("wait", f"pod/{onto}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    assert "passwd" in await day.kubectl("logs", onto)
    await day.kubectl("delete", "pod", "copied", onto, "--grace-period=0", "--force")


async def test_the_kubelet_through_the_api(day: Stage) -> None:
    pod = (await names(day))[0].removeprefix("pod/")
    listed = json.loads(await day.kubectl("get", "--raw", "/api/v1/nodes/cell-1/proxy/pods"))
    assert pod in {item["metadata"]["name"] for item in listed["items"]}
    assert "kubelet_running_pods" in await day.kubectl("get", "--raw", "/api/v1/nodes/cell-1:10250/proxy/metrics")
    log = await day.kubectl("get", "--raw", f"/api/v1/nodes/cell-1/proxy/containerLogs/default/{pod}/main?tailLines=1")
    assert log == f"hello from {pod}\n"
    assert "NotFound" in await day.kubectl("get", "--raw", "/api/v1/nodes/cell-1/proxy/nowhere", check=False)


def streams_of_the_python_client(kubeconfig: str, pod: str) -> None:
    made = kubernetes.config.new_client_from_config(kubeconfig)
    core = kubernetes.client.CoreV1Api(made)
    assert core.read_namespaced_pod_log(pod, "default") == f"hello from {pod}\n"
    followed = kubernetes.watch.Watch().stream(core.read_namespaced_pod_log, pod, "default", follow=True)
    assert next(iter(followed)) == f"hello from {pod}"
    streams = {"stdin": True, "stdout": True, "stderr": True, "tty": False}
    command = ["sh", "-c", "read word; echo heard $word; echo bad >&2; exit 4"]
    talk = kubernetes.stream.stream(core.connect_get_namespaced_pod_exec, pod, "default", command=command, **streams,
                                    _preload_content=False)
    talk.write_stdin("hello\n")
    talk.run_forever(timeout=90)
    assert not talk.is_open(), "it has been told all, and should have ended"
    assert (talk.read_stdout(), talk.read_stderr(), talk.returncode) == ("heard hello\n", "bad\n", 4)
    serve = ["sh", "-c", "echo one > /tmp/one; httpd -p 8081 -h /tmp; httpd -p 8082 -h /etc"]
    kubernetes.stream.stream(core.connect_get_namespaced_pod_exec, pod, "default", command=serve, **streams)
    forwarded = kubernetes.stream.portforward(core.connect_get_namespaced_pod_portforward, pod, "default", ports="8081,8082,9")
    for port, path, content in ((8081, "one", b"one\n"), (8082, "hostname", pod.encode() + b"\n")):
        line = forwarded.socket(port)
        line.settimeout(90)
        line.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        said = b""
        while not said.endswith(b"\r\n\r\n" + content):
            said += line.recv(4096)
        assert forwarded.error(port) is None
    until(lambda: "refused" in str(forwarded.error(9)), what="that nobody listens is told")
    forwarded.close()


def copied_by_the_python_client(kubeconfig: str, pod: str, content: bytes) -> None:
    """A copy as it is done with this client: tar at the other end of exec."""
    core, packed = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(kubeconfig)), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("copied")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

    def run(*command: str, **more: Any) -> Any:
        return kubernetes.stream.stream(core.connect_get_namespaced_pod_exec, pod, "default", command=list(command), stdout=True,
                                        stderr=False, binary=True, **more)

    there = run("tar", "xf", "-", "-C", "/tmp", stdin=True, _preload_content=False)
    there.write_stdin(packed.getvalue())
    until(lambda: run("wc", "-c", "/tmp/copied").split()[:1] == [str(len(content)).encode()], what="the whole has arrived")
    there.close()
    assert run("cat", "/tmp/copied") == content


async def test_the_python_client_streams(day: Stage) -> None:
    pod = (await names(day))[0].removeprefix("pod/")
    await asyncio.to_thread(streams_of_the_python_client, str(day.plane.kubeconfig), pod)
    await asyncio.to_thread(copied_by_the_python_client, str(day.plane.kubeconfig), pod, bytes(range(256)) * 4000)


async def test_it_is_changed_in_every_way(day: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await day.kubectl("patch", "deployment/day", "-p", '{"metadata":{"labels":{"strategic":"yes"}}}')
    await day.kubectl("patch", "deployment/day", "--type=merge", "-p", '{"metadata":{"labels":{"merge":"yes"}}}')
    await day.kubectl("patch", "deployment/day", "--type=json", "-p",
                      '[{"op":"add","path":"/metadata/labels/json","value":"yes"}]')
    monkeypatch.setenv("KUBE_EDITOR", f"{shutil.which('sed')} -i s/strategic:/edited:/")
    assert "edited" in await day.kubectl("edit", "deployment/day")
    labels = json.loads(await day.kubectl("get", "deployment/day", "-o", "json"))["metadata"]["labels"]
    assert labels == {"edited": "yes", "merge": "yes", "json": "yes"}
    await day.kubectl("scale", "deployment/day", "--replicas=2")
    await day.kubectl("rollout", "status", "deployment/day", "--timeout=120s")
    await day.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=day", "--timeout=120s")
    assert len(await names(day)) == 2


async def test_it_is_rolled_forth_and_back(day: Stage) -> None:
    await day.kubectl("set", "env", "deployment/day", "WORD=two")
    await day.kubectl("rollout", "status", "deployment/day", "--timeout=120s")
    assert "WORD" in await day.kubectl("rollout", "history", "deployment/day", "--revision=2")
    await day.kubectl("rollout", "undo", "deployment/day")
    await day.kubectl("rollout", "status", "deployment/day", "--timeout=120s")
    shown = json.loads(await day.kubectl("get", "deployment/day", "-o", "json"))
    assert not shown["spec"]["template"]["spec"]["containers"][0].get("env")
    await day.kubectl("wait", "--for=condition=Available", "deployment/day", "--timeout=120s")


async def test_a_pod_is_waited_for_and_deleted(day: Stage) -> None:
    await day.kubectl("run", "once", f"--image={BUSYBOX}", "--image-pull-policy=IfNotPresent", "--restart=Never", "--",
                      "sh", "-c", "echo done")
    await day.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/once", "--timeout=120s")
    assert await day.kubectl("logs", "once") == "done\n"
    assert '"once" deleted' in await day.kubectl("delete", "pod", "once", "--timeout=120s")
    assert "not found" in await day.kubectl("get", "pod", "once", check=False)


async def test_what_there_is_and_is_not(day: Stage) -> None:
    assert "FIELD: containers" in (await day.kubectl("explain", "pod.spec.containers")).replace("\t", " ")
    assert "daemonsets" in await day.kubectl("api-resources")
    assert "Metrics API not available" in await day.kubectl("top", "nodes", check=False)
    assert "serverside-applied" in await day.kubectl("apply", "--server-side", "-f", "-", body=workload("Deployment"))
    assert (await day.kubectl("create", "token", "default")).count(".") == 2
