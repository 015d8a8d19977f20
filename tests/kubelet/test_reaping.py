"""Who waits for orphans: pid 1 of the demo's client pods, and the pause process of pods that share their processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
ROOT = Path(__file__).parent.parent.parent
ORPHANS = "for i in 1 2 3; do timeout 3 true; (sleep 0.1 &); done; sleep 0.3"
STATES = "cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -c1"


async def leaves_no_zombies(stage: Stage, name: str) -> None:
    await stage.kubectl("exec", name, "--", "sh", "-c", ORPHANS)
    async with asyncio.timeout(90):
        while "Z" in await stage.kubectl("exec", name, "--", "sh", "-c", STATES):
            await asyncio.sleep(0.1)


async def test_the_demos_clients_bury_their_dead(stage: Stage) -> None:
    shown = await stage.kubectl("create", "--dry-run=client", "-o", "json", "-f", str(ROOT / "examples/web.yaml"))
    client = next(item for item in objects(shown) if item["kind"] == "DaemonSet")
    container = client["spec"]["template"]["spec"]["containers"][0]
    await stage.run("mourner", container["command"], spec={"terminationGracePeriodSeconds": 600})
    await stage.ready("mourner")
    await leaves_no_zombies(stage, "mourner")
    await stage.delete("mourner")
    await stage.gone("mourner")


async def test_a_shared_process_namespace_is_swept_by_its_pause(stage: Stage) -> None:
    await stage.run("shared", ["sleep", "1000000"], spec={"shareProcessNamespace": True})
    await stage.ready("shared")
    await leaves_no_zombies(stage, "shared")
    await stage.delete("shared", grace=1)
    await stage.gone("shared")


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON documents in a text, one after another."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text.rstrip()):
        item, end = decoder.raw_decode(text, at)
        found += item.get("items", [item])
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return found
