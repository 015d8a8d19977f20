"""Carries out one `Start`: sources, volumes, image, configuration, create, start, postStart.

Whatever keeps the container from existing raises `StartFault`, whose reason is what its status shows meanwhile.
Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.errors import Fault, Invalid, UserError
from nodecore.kube.client import KubeClient
from nodecore.kube.events import Recorder
from nodecore.kube.resource import SECRETS

from .container_config import Run, container_config, runs_as_root
from .cri import Runtime
from .environment import Sources, environment
from .handlers import Outcome, handle
from .images import ImageFault, Images, auths_for, policy_of
from .plan import Start
from .probes import Prober
from .records import Container, Pod, containers_of, ephemeral_containers_of, init_containers_of
from .sandbox_config import NodeSettings, hostname, sandbox_config
from .sources import SECRET, PodSources, data_of
from .status_writer import StatusWriter
from .unsupported import unsupported_container
from .volumes import container_binds, last_words_bind, prepare_volumes, write_hosts

POST_START_LIMIT = 300.0


class StartFault(Fault):
    """A container could not be made; `retry` is the earliest next try (epoch seconds, 0 = by the pod's own back-off)."""

    def __init__(self, reason: str, message: str, retry: float = 0.0) -> None:
        super().__init__(message)
        self.reason, self.retry = reason, retry


@dataclass
class Services:
    """What every pod's worker shares."""

    runtime: Runtime
    client: KubeClient
    images: Images
    prober: Prober
    writer: StatusWriter
    recorder: Recorder
    node: NodeSettings
    sources: PodSources
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    network_ready: bool = False


def container_spec(pod: Pod, name: str) -> dict[str, Any]:
    """A container's spec by its name."""
    for spec in (*containers_of(pod), *init_containers_of(pod), *ephemeral_containers_of(pod)):
        if spec["name"] == name:
            return spec
    return {"name": name}


async def start_container(services: Services, pod: Pod, op: Start, ips: tuple[str, ...], sandbox_attempt: int,
                          leaving: asyncio.Event) -> None:
    """Make one run of a container and start it; `leaving` ends the wait for its postStart hook."""
    spec, node = container_spec(pod, op.name), services.node
    ips = node.ips if pod["spec"].get("hostNetwork") else ips
    box_config = sandbox_config(pod, node, sandbox_attempt)
    sources = await _sources(services, pod, ips)
    try:
        paths = prepare_volumes(pod, node.root_dir, sources)
    except Fault as error:
        services.recorder.emit(pod, "Warning", "FailedMount", str(error))
        raise StartFault("ContainerCreating", str(error)) from None
    image = await _image(services, pod, spec, box_config)
    config = _config(services, pod, spec, op, sources, paths, image)
    async with services.limit:
        container = await _create(services, op, config, box_config)
        services.recorder.emit(pod, "Normal", "Created", f"Created container: {op.name}")
        try:
            await services.runtime.start_container(container)
        except Fault as error:
            services.recorder.emit(pod, "Warning", "Failed", f"Error: {error}")
            return
    services.recorder.emit(pod, "Normal", "Started", f"Started container {op.name}")
    hook = (spec.get("lifecycle") or {}).get("postStart")
    if hook:
        run = Container(container, op.name, op.attempt, op.sandbox, "running")
        await _post_start(services, pod, run, handle(services.runtime, hook, spec, run, ips[0] if ips else "", POST_START_LIMIT),
                          leaving)


async def _sources(services: Services, pod: Pod, ips: tuple[str, ...]) -> Sources:
    try:
        return await services.sources.of(pod, services.node, ips)
    except Fault as error:
        services.recorder.emit(pod, "Warning", "FailedMount", str(error))
        raise StartFault("ContainerCreating", str(error)) from None


async def _image(services: Services, pod: Pod, spec: Mapping[str, Any], box_config: Mapping[str, Any]) -> Any:
    name = str(spec.get("image", ""))
    try:
        auths = await _auths(services, pod, name) if pod["spec"].get("imagePullSecrets") else []
        image, pulled = await services.images.ensure(name, policy_of(spec), auths, box_config)
    except ImageFault as error:
        services.recorder.emit(pod, "Warning", "Failed" if error.reason != "ImagePullBackOff" else "BackOff", str(error))
        retry = time.time() + max(0.0, error.again - time.monotonic()) if error.again else 0.0
        raise StartFault(error.reason, str(error), retry) from None
    words = "Successfully pulled image" if pulled else "Container image already present on machine:"
    services.recorder.emit(pod, "Normal", "Pulled", f'{words} "{name}"')
    return image


async def _auths(services: Services, pod: Pod, image: str) -> list[dict[str, str]]:
    configs = []
    for reference in pod["spec"]["imagePullSecrets"]:
        try:
            secret = await services.client.get(SECRETS, reference["name"], pod["metadata"].get("namespace", "default"))
        except Fault as error:
            services.recorder.emit(pod, "Warning", "FailedToRetrieveImagePullSecret", f"{reference['name']}: {error}")
            continue
        configs.append(data_of(SECRET, secret).get(".dockerconfigjson", b"{}"))
    return auths_for(image, configs)


def _config(services: Services, pod: Pod, spec: Mapping[str, Any], op: Start, sources: Sources, paths: Mapping[str, str],
            image: Any) -> dict[str, Any]:
    node = services.node
    try:
        user = image.uid.value if image.HasField("uid") else None
        problem = unsupported_container(spec) or runs_as_root(pod, spec, user, image.username)
        if problem:
            raise Invalid(problem)
        variables = environment(pod, spec, sources)
        binds = container_binds(pod, spec, paths, variables)
        hosts = write_hosts(pod, node.root_dir, hostname(pod, node), sources.pod_ips)
        words = last_words_bind(pod, spec, node.root_dir, op.attempt)
        given = {bind.inside for bind in binds}
        binds += [bind for bind in (hosts, words) if bind and bind.inside not in given]
        run = Run(op.attempt, op.delay, image.id, words.host, op.target)
        return container_config(pod, spec, node, run, variables, binds)
    except (Invalid, UserError) as error:
        services.recorder.emit(pod, "Warning", "Failed", f"Error: {error}")
        raise StartFault("CreateContainerConfigError", str(error)) from None


async def _create(services: Services, op: Start, config: dict[str, Any], box_config: Mapping[str, Any]) -> str:
    try:
        return await services.runtime.create_container(op.sandbox, config, box_config)
    except Fault as error:
        raise StartFault("CreateContainerError", str(error)) from None


async def _post_start(services: Services, pod: Pod, run: Container, hook: Coroutine[Any, Any, Outcome],
                      leaving: asyncio.Event) -> None:
    """Wait for a postStart hook, whose failure ends the container; a pod that is to go does not wait."""
    outcome, gone = asyncio.create_task(hook), asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait((outcome, gone), return_when=asyncio.FIRST_COMPLETED)
        if outcome.done() and not outcome.result().ok:
            text = f"PostStartHook failed: {outcome.result().message}"
            services.recorder.emit(pod, "Warning", "FailedPostStartHook", text)
            await services.runtime.stop_container(run.id, 2.0)
    finally:
        outcome.cancel()
        gone.cancel()
