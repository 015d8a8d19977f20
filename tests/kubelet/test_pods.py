"""Pods in a real containerd: from the API's object to a process, and back."""

from __future__ import annotations

import pytest

from .conftest import Stage, first, is_ready, state

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio(loop_scope="session")]


async def test_a_pod_runs_is_ready_and_goes(stage: Stage) -> None:
    await stage.run("plain", "echo hello; trap 'exit 0' TERM; while :; do sleep 0.1; done")
    pod = await stage.ready("plain")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"].startswith("10.231.0.")
    assert first(pod)["containerID"].startswith("containerd://")
    await stage.delete("plain")
    await stage.gone("plain")
    assert not list((stage.cell.directory / "kubelet/pods").iterdir())
