"""Starts the process that holds a node, or the switch, and hears from it when it is ready.

Read next: `minik8s/lab/node.py`, the other side.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time

from minik8s.lab import host
from minik8s.lab.state import MARK, Place
from minik8s.lab.steps import tail
from nodecore.errors import Unreachable

START_TIMEOUT = 20.0
PID = re.compile(r"^pid (\d+)$", re.M)


class Holder:
    """A node's or the switch's process being started: `minik8s/lab/node.py` is its other side."""

    def __init__(self, place: Place, arguments: list[str], fds: list[int] | None = None) -> None:
        self.place = place
        (place.path / "logs").mkdir(exist_ok=True)
        self.log = place.path / "logs/init.log"
        env = {"PATH": host.PATH, "PYTHONPATH": str(host.PROJECT), MARK: f"{place.path}/", "LANG": "C.UTF-8", "HOME": "/root"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-m", "minik8s.lab.node", str(place.path), *arguments], env=env, cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, pass_fds=fds or [], start_new_session=True)

    def wait(self) -> None:
        """Wait until it says that it is ready, and record it."""
        assert self.process.stdout
        fd, text, deadline = self.process.stdout.fileno(), "", time.monotonic() + START_TIMEOUT
        while not (PID.search(text) and "ready\n" in text):
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Unreachable(f"{self.place.path.name} did not start within {START_TIMEOUT:.0f} s\n{tail(self.log)}")
            chunk = os.read(fd, 4096)
            if not chunk:
                raise Unreachable(f"{self.place.path.name} did not start\n{tail(self.log)}")
            text += chunk.decode()
        found = PID.search(text)
        assert found
        self.place.record(int(found[1]))
        self.process.stdout.close()
