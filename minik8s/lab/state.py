"""Where a lab keeps what it knows, and which processes are its own.

    /var/lib/flanneld-py/labs/NAME/     (LAB_STATE replaces /var/lib/flanneld-py/labs)
        config.json  pki/  admin.kubeconfig
        switch/  nodes/node-1/{spec.json,init.json,control.sock,logs/,root/}

A process belongs to the lab when its environment says so and it started when the record says: a pid that was used
again by a stranger is never touched. Read next: `minik8s/lab/up.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minik8s.lab.config import LabConfig
from nodecore.errors import Busy, UserError

DEFAULT = "/var/lib/flanneld-py/labs"
MARK = "FLANNELD_PY_HOLDER"


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one holder process: a node, or the switch."""

    path: Path

    @property
    def pid(self) -> int:
        """The pid of the living holder, or 0."""
        try:
            record = json.loads((self.path / "init.json").read_text())
        except (OSError, ValueError):
            return 0
        pid = int(record["pid"])
        return pid if start_time(pid) == record["start"] else 0

    def record(self, pid: int) -> None:
        """Remember the holder."""
        write_atomically(self.path / "init.json", json.dumps({"pid": pid, "start": start_time(pid)}))


@dataclass(frozen=True, slots=True)
class State:
    """The directory of one lab."""

    name: str
    labs: Path | None = None

    @property
    def path(self) -> Path:
        """The lab's own directory."""
        return (self.labs or Path(os.environ.get("LAB_STATE", DEFAULT))).absolute() / self.name

    @property
    def switch(self) -> Place:
        """The switch's place."""
        return Place(self.path / "switch")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use on the host."""
        return self.path / "admin.kubeconfig"

    def node(self, name: str) -> Place:
        """A node's place."""
        return Place(self.path / "nodes" / name)

    def load(self) -> LabConfig | None:
        """The configuration of the lab, if there is one."""
        try:
            return LabConfig.from_json(json.loads((self.path / "config.json").read_text()))
        except FileNotFoundError:
            return None

    def require(self) -> LabConfig:
        """The configuration, or `UserError`."""
        config = self.load()
        if config is None:
            raise UserError(f"--name: no lab called {self.name!r} here; `lab up` makes one")
        return config

    def save(self, config: LabConfig) -> None:
        """Keep the configuration."""
        write_atomically(self.path / "config.json", json.dumps(config.to_json(), indent=1))

    def holders(self) -> list[int]:
        """Every process on this machine that holds, or is about to hold, a part of this lab, recorded or not."""
        mark = f"{MARK}={self.path}/".encode()
        return [pid for pid in all_pids() if mark in b"\0" + environment(pid)]

    @contextlib.contextmanager
    def locked(self, *, create: bool) -> Iterator[None]:
        """Only one `up` or `down` at a time; the lock is the directory, and goes with it."""
        while True:
            if create:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                yield
                return
            try:
                _lock(fd, self.name)
                if self.path.exists() and _same(fd, self.path):
                    yield
                    return
            finally:
                os.close(fd)


def _lock(fd: int, name: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"another `lab up` or `lab down` is at work on {name!r}") from None


def _same(fd: int, path: Path) -> bool:
    here, there = os.fstat(fd), path.stat()
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file so that nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def all_pids() -> list[int]:
    """Every process this namespace can see."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def environment(pid: int) -> bytes:
    """The environment a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none (or only its corpse)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def kill_and_wait(pids: list[int], *, seconds: float = 20.0) -> None:
    """SIGKILL, and wait until they (and with a pid 1 its whole node) are gone."""
    opened = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(opened[-1], signal.SIGKILL)
    poll = select.poll()
    for fd in opened:
        poll.register(fd, select.POLLIN)
    waiting, deadline = set(opened), time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        for fd, _ in poll.poll(100):
            poll.unregister(fd)
            waiting.discard(fd)
    for fd in opened:
        os.close(fd)
    if waiting:
        raise Busy(f"{len(waiting)} processes of the lab did not end within {seconds:.0f} s")
