"""The container runtime, over CRI v1: the only module that speaks gRPC.

Foreign errors become `nodecore.errors`: UNAVAILABLE and DEADLINE_EXCEEDED Unreachable, NOT_FOUND NotFound, the rest Fault
with the runtime's own words. `observe` turns what containerd holds for a pod into `records.Actual`, asking for the details
of a container only when its state is one it has not seen.

Must not know: what a pod is meant to be. Read next: `minik8s/kubelet/records.py`, `minik8s/kubelet/pleg.py`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodecore import errors, wire
from nodecore.rpc.channel import Channel
from nodecore.rpc.errors import RpcError

from . import names
from .records import CREATED, EXITED, RUNNING, UNKNOWN, Actual, Container, Sandbox

CALL, STARTING = 30.0, 120.0
MESSAGE_LIMIT = 16 * 1024 * 1024
STATES = {0: CREATED, 1: RUNNING, 2: EXITED, 3: UNKNOWN}
KINDS = {
    "UNAVAILABLE": errors.Unreachable, "DEADLINE_EXCEEDED": errors.Unreachable, "CANCELLED": errors.Unreachable,
    "NOT_FOUND": errors.NotFound, "ALREADY_EXISTS": errors.AlreadyExists, "INVALID_ARGUMENT": errors.Invalid,
}
Fingerprint = frozenset[tuple[str, int]]


async def _call(what: str, call: Awaitable[Any]) -> Any:
    try:
        return await call
    except RpcError as error:
        kind = KINDS.get(error.code, errors.Fault)
        raise kind(f"{what}: {error.details or error.code}") from None


class Runtime:
    """One runtime behind a unix socket; reconnects by itself."""

    def __init__(self, endpoint: str) -> None:
        self._api = wire.load(Path(__file__).with_name("cri.proto"))
        self._channel = Channel(endpoint, largest=MESSAGE_LIMIT, pings=False)  # containerd takes pings every 5 minutes only
        self._runtime = self._api.stub(self._channel, "RuntimeService")
        self._images = self._api.stub(self._channel, "ImageService")
        self._known: dict[str, tuple[int, Container]] = {}
        self._ips: dict[str, tuple[str, ...]] = {}

    async def close(self) -> None:
        """Close the connection; what runs goes on."""
        await self._channel.close()

    async def _run(self, method: str, request: Any, *, timeout: float = CALL) -> Any:
        return await _call(method, getattr(self._runtime, method)(request, timeout=timeout))

    async def version(self) -> str:
        """Like `containerd://1.6.20`."""
        reply = await self._run("Version", self._api.VersionRequest())
        return f"{reply.runtime_name}://{reply.runtime_version.lstrip('v')}"

    async def conditions(self) -> dict[str, tuple[bool, str]]:
        """`RuntimeReady` and `NetworkReady`: whether, and why not."""
        reply = await self._run("Status", self._api.StatusRequest())
        return {item.type: (item.status, item.message or item.reason) for item in reply.status.conditions}

    async def maps_ports(self) -> bool:
        """Whether the network as configured has a plugin that maps ports of the host; True where the runtime does not tell."""
        reply = await self._run("Status", self._api.StatusRequest(verbose=True))
        try:
            networks = json.loads(reply.info["cniconfig"])["Networks"]
            plugins = [each["Network"] for network in networks for each in network["Config"]["Plugins"]]
        except (KeyError, TypeError, ValueError):
            return True
        return any((plugin.get("capabilities") or {}).get("portMappings") for plugin in plugins)

    async def listing(self) -> dict[str, Fingerprint]:
        """Every pod uid the runtime holds anything for, with a value that changes when the pod's state does."""
        sandboxes, containers = await self._lists({})
        found: dict[str, set[tuple[str, int]]] = {}
        for item in (*sandboxes, *containers):
            uid = item.labels.get(names.UID, "")
            if uid:
                found.setdefault(uid, set()).add((item.id, item.state))
        self._forget({item.id for item in (*sandboxes, *containers)})
        return {uid: frozenset(states) for uid, states in found.items()}

    async def pod_labels(self, uid: str) -> dict[str, str]:
        """The labels that name the pod a sandbox or container belongs to; empty when there is none."""
        sandboxes, containers = await self._lists({names.UID: uid})
        return next((dict(item.labels) for item in (*sandboxes, *containers)), {})

    def _forget(self, alive: set[str]) -> None:
        for gone in self._known.keys() - alive:
            del self._known[gone]
        for gone in self._ips.keys() - alive:
            del self._ips[gone]

    async def _lists(self, labels: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
        chosen = {"label_selector": dict(labels)} if labels else None
        sandboxes = await self._run("ListPodSandbox", self._api.ListPodSandboxRequest(filter=chosen))
        containers = await self._run("ListContainers", self._api.ListContainersRequest(filter=chosen))
        return list(sandboxes.items), list(containers.containers)

    async def observe(self, uid: str) -> tuple[Actual, Fingerprint]:
        """All the runtime holds for one pod, and the fingerprint `listing` would give for it."""
        sandboxes, containers = await self._lists({names.UID: uid})
        boxes = [await self._sandbox(item) for item in sandboxes]
        runs = [await self._container(item) for item in containers]
        actual = Actual(
            tuple(sorted(boxes, key=lambda box: (-box.attempt, -box.created))),
            tuple(sorted((run for run in runs if run), key=lambda run: (-run.attempt, -run.created))),
        )
        return actual, frozenset((item.id, item.state) for item in (*sandboxes, *containers))

    async def _sandbox(self, item: Any) -> Sandbox:
        ready = item.state == self._api.SANDBOX_READY
        if ready and item.id not in self._ips:
            try:
                reply = await self._run("PodSandboxStatus", self._api.PodSandboxStatusRequest(pod_sandbox_id=item.id))
            except errors.NotFound:
                return Sandbox(item.id, item.metadata.attempt, ready=False, created=item.created_at / 1e9)
            network = reply.status.network
            self._ips[item.id] = tuple(ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip)
        return Sandbox(item.id, item.metadata.attempt, ready, item.created_at / 1e9, self._ips.get(item.id, ()))

    async def _container(self, item: Any) -> Container | None:
        known = self._known.get(item.id)
        if known and known[0] == item.state:
            return known[1]
        try:
            reply = await self._run("ContainerStatus", self._api.ContainerStatusRequest(container_id=item.id))
        except errors.NotFound:
            return None
        status = reply.status
        made = Container(
            id=item.id, name=item.metadata.name, attempt=item.metadata.attempt, sandbox=item.pod_sandbox_id,
            state=STATES[status.state], image=status.annotations.get(names.IMAGE, "") or status.image.image,
            image_id=status.image_ref, created=status.created_at / 1e9, started=status.started_at / 1e9,
            finished=status.finished_at / 1e9, exit_code=status.exit_code, reason=status.reason, message=status.message,
            delay=float(status.annotations.get(names.DELAY, "0") or 0), log_path=status.log_path,
        )
        if made.state == EXITED and not made.message:
            made = replace(made, message=_last_words(status.annotations))
        if status.state == item.state:
            self._known[item.id] = (status.state, made)
        return made

    async def start_sandbox(self, config: Mapping[str, Any]) -> str:
        """Make a pod's namespaces and network; returns the sandbox id."""
        request = self._api.RunPodSandboxRequest(config=config)
        return str((await self._run("RunPodSandbox", request, timeout=STARTING)).pod_sandbox_id)

    async def stop_sandbox(self, sandbox: str) -> None:
        """End a sandbox's network and processes."""
        await self._run("StopPodSandbox", self._api.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=STARTING)

    async def remove_sandbox(self, sandbox: str) -> None:
        """Forget a sandbox and the containers in it."""
        await self._run("RemovePodSandbox", self._api.RemovePodSandboxRequest(pod_sandbox_id=sandbox), timeout=STARTING)

    async def create_container(self, sandbox: str, config: Mapping[str, Any], sandbox_config: Mapping[str, Any]) -> str:
        """Make a container without starting it; returns its id."""
        request = self._api.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=sandbox_config)
        return str((await self._run("CreateContainer", request, timeout=STARTING)).container_id)

    async def start_container(self, container: str) -> None:
        """Start a container that was made."""
        await self._run("StartContainer", self._api.StartContainerRequest(container_id=container), timeout=STARTING)

    async def stop_container(self, container: str, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds; returns when it is over."""
        request = self._api.StopContainerRequest(container_id=container, timeout=max(0, round(grace)))
        await self._run("StopContainer", request, timeout=grace + CALL)

    async def remove_container(self, container: str) -> None:
        """Forget a container that is not running."""
        await self._run("RemoveContainer", self._api.RemoveContainerRequest(container_id=container))

    async def reopen_log(self, container: str) -> None:
        """Let the runtime open the log file anew, after a rotation."""
        await self._run("ReopenContainerLog", self._api.ReopenContainerLogRequest(container_id=container))

    async def exec_sync(self, container: str, command: Iterable[str], timeout: float) -> tuple[int, bytes]:
        """Run a command inside to its end: exit code and output."""
        request = self._api.ExecSyncRequest(container_id=container, cmd=list(command), timeout=max(1, round(timeout)))
        reply = await self._run("ExecSync", request, timeout=timeout + 5)
        return reply.exit_code, reply.stdout + reply.stderr

    async def exec_url(self, container: str, command: list[str], *, tty: bool, stdin: bool, stdout: bool, stderr: bool) -> str:
        """Where to connect for an interactive command."""
        request = self._api.ExecRequest(container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        return str((await self._run("Exec", request)).url)

    async def attach_url(self, container: str, *, tty: bool, stdin: bool, stdout: bool, stderr: bool) -> str:
        """Where to connect to a container's own streams."""
        request = self._api.AttachRequest(container_id=container, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        return str((await self._run("Attach", request)).url)

    async def port_forward_url(self, sandbox: str, ports: list[int]) -> str:
        """Where to connect for a pod's ports."""
        request = self._api.PortForwardRequest(pod_sandbox_id=sandbox, port=ports)
        return str((await self._run("PortForward", request)).url)

    async def image(self, name: str) -> Any:
        """The image's record (`id`, `uid`, `username`), or None where it is absent."""
        request = self._api.ImageStatusRequest(image={"image": name})
        reply = await _call("ImageStatus", self._images.ImageStatus(request, timeout=CALL))
        return reply.image if reply.HasField("image") and reply.image.id else None

    async def pull(self, name: str, auth: Mapping[str, str] | None, sandbox_config: Mapping[str, Any]) -> None:
        """Fetch an image from its registry."""
        request = self._api.PullImageRequest(image={"image": name}, auth=auth, sandbox_config=sandbox_config)
        await _call("PullImage", self._images.PullImage(request, timeout=600.0))


def _last_words(annotations: Mapping[str, str]) -> str:
    """What the container left in its termination message file, if anything."""
    path = annotations.get(names.LAST_WORDS, "")
    try:
        return Path(path).read_bytes()[:4096].decode(errors="replace") if path else ""
    except OSError:
        return ""
