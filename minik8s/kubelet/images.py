"""Makes sure an image is there before a container needs it, by the pull policy; failed pulls back off per image.

Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.errors import Fault

from .cri import Runtime
from .plan import FIRST_DELAY, LONGEST_DELAY


class ImageFault(Fault):
    """An image cannot be had; `reason` is what the container's status shows, `again` when to try next (monotonic)."""

    def __init__(self, reason: str, message: str, again: float = 0.0) -> None:
        super().__init__(message)
        self.reason, self.again = reason, again


@dataclass(slots=True)
class _Failure:
    delay: float
    until: float
    message: str


@dataclass
class Images:
    """The node's images."""

    runtime: Runtime
    _failures: dict[str, _Failure] = field(default_factory=dict)

    async def ensure(self, image: str, policy: str, auths: list[dict[str, str]],
                     sandbox_config: Mapping[str, Any]) -> tuple[Any, bool]:
        """The image's record, and whether it was pulled just now; raises ImageFault."""
        found = await self.runtime.image(image)
        if found is not None and policy != "Always":
            return found, False
        if policy == "Never":
            raise ImageFault("ErrImageNeverPull", f'Container image "{image}" is not present with pull policy of Never')
        await self._pull(image, auths, sandbox_config)
        found = await self.runtime.image(image)
        if found is None:
            raise ImageFault("ErrImagePull", f'image "{image}" was pulled and is not there')
        return found, True

    async def _pull(self, image: str, auths: list[dict[str, str]], sandbox_config: Mapping[str, Any]) -> None:
        failed = self._failures.get(image)
        if failed and time.monotonic() < failed.until:
            raise ImageFault("ImagePullBackOff", f'Back-off pulling image "{image}": {failed.message}', failed.until)
        message = ""
        for auth in [*auths, None]:
            try:
                await self.runtime.pull(image, auth, sandbox_config)
            except Fault as error:
                message = message or str(error)
            else:
                self._failures.pop(image, None)
                return
        delay = min(LONGEST_DELAY, failed.delay * 2) if failed else FIRST_DELAY
        self._failures[image] = _Failure(delay, time.monotonic() + delay, message)
        raise ImageFault("ErrImagePull", message)


def policy_of(spec: Mapping[str, Any]) -> str:
    """imagePullPolicy, or its default: Always for `latest` and no tag, else IfNotPresent."""
    given = spec.get("imagePullPolicy")
    if given:
        return str(given)
    image = str(spec.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return "Always" if "@" not in image and tag in ("", "latest") else "IfNotPresent"


def auths_for(image: str, docker_configs: list[bytes]) -> list[dict[str, str]]:
    """CRI AuthConfigs out of imagePullSecrets' `.dockerconfigjson`, for the image's registry."""
    head = image.split("/")[0]
    registry = head if "/" in image and ("." in head or ":" in head or head == "localhost") else "docker.io"
    found = []
    for raw in docker_configs:
        try:
            entries = json.loads(raw).get("auths") or {}
        except ValueError:
            continue
        for server, entry in entries.items():
            host = server.removeprefix("https://").removeprefix("http://").split("/")[0]
            if host == registry or (registry == "docker.io" and host == "index.docker.io"):
                found.append(_auth(entry))
    return found


def _auth(entry: Mapping[str, str]) -> dict[str, str]:
    if entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"]).decode(errors="replace").partition(":")
        return {"username": user, "password": password}
    return {"username": entry.get("username", ""), "password": entry.get("password", "")}
