"""`netscope capture --freeze-on`: what led up to a fault is kept, and the capture ends when there is one.

A reset and a failed sync are noticed by the nodes (`faults.py`); a failed probe is an Event of the cluster (reason Unhealthy).
Read next: `recording.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from netscope.capture.recording import Tap
from nodecore.errors import Fault, UserError

SYNC, PROBE, RST = "sync failure", "probe failure", "rst"
PAUSE = 0.2
EVENTS_PAUSE = 1.0


def parse(text: str) -> frozenset[str]:
    """`sync failure|probe failure|rst`, or some of them."""
    wanted = frozenset(word.strip() for word in text.split("|"))
    if unknown := wanted - {SYNC, PROBE, RST}:
        raise UserError(f"--freeze-on: {sorted(unknown)[0]!r} is none of {SYNC!r}, {PROBE!r} and {RST!r}")
    return wanted


def wait(taps: Sequence[Tap], wanted: frozenset[str], kubeconfig: str, seconds: float) -> str:
    """Until there is a fault: its words; empty when time is over."""
    probes = Probes(kubeconfig) if PROBE in wanted else None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for tap in taps:
            for words in tap.faults():
                if any(words.startswith(kind) for kind in wanted):
                    return f"{tap.node}: {words}"
        if probes and probes.words:
            return probes.words
        time.sleep(PAUSE)
    return ""


class Probes:
    """Asks the cluster for Events of failed probes; `words` when one came since it began."""

    def __init__(self, kubeconfig: str) -> None:
        self.words = ""
        self._kubeconfig = kubeconfig
        threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True).start()

    async def _watch(self) -> None:
        from netscope.cluster import config_of
        from nodecore.kube import resource
        from nodecore.kube.client import KubeClient

        known: dict[str, int] | None = None
        async with KubeClient(config_of(self._kubeconfig), user_agent="netscope") as client:
            while not self.words:
                with suppress(Fault):  # the API is away: probes are asked for when it is back
                    found = (await client.list(resource.EVENTS, fields="reason=Unhealthy")).items
                    known, self.words = new_failure(known, found)
                await asyncio.sleep(EVENTS_PAUSE)


def new_failure(known: dict[str, int] | None, found: Sequence[dict[str, Any]]) -> tuple[dict[str, int], str]:
    """How often each Event has happened, and the words of one that is new or happened again; none at the first look."""
    counts = {event["metadata"]["uid"]: int(event.get("count") or 1) for event in found}
    for event in found if known is not None else ():
        if counts[event["metadata"]["uid"]] > (known or {}).get(event["metadata"]["uid"], 0):
            about = event.get("involvedObject", {})
            return counts, f"{PROBE} of {about.get('namespace', '')}/{about.get('name', '')}: {event.get('message', '')}"
    return counts, ""
