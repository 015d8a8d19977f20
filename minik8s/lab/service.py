"""One agent of a node as its init sees it: start, readiness, exit, the delay before the next start.

    waiting -> starting -> ready            after READY=1 on its notify socket (a job: after exit code 0)
                 ^   \\        |
                 |    +--> exited           waits out its delay, then starts again
                 +-----------+

Touches: the process and its log file. Must not know: the other agents. Standard library only.
Read next: `minik8s/lab/init.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

DELAYS = (0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
STEADY = 10.0  # seconds after which earlier crashes are forgotten
LOG_LIMIT = 8 << 20
CATCHABLE = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
TICKS = os.sysconf("SC_CLK_TCK")


class Service:
    """A process to keep running (or, `job`, to run once to success)."""

    def __init__(self, spec: dict[str, Any], sockets: dict[str, int]) -> None:
        self.name: str = spec["name"]
        self.argv: list[str] = spec["argv"]
        self.after: list[str] = spec.get("after", [])
        self.job: bool = spec.get("job", False)
        self.env: dict[str, str] = spec.get("env", {})
        self.sockets = {name: sockets[name] for name in spec.get("sockets", []) if name in sockets}
        self.log = f"/run/lab/logs/{self.name}.log"
        self.notify_path = f"/run/services/{self.name}.notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.notify.bind(self.notify_path)
        self.notify.settimeout(0)
        self.state = "waiting"
        self.pid = 0
        self.starts = 0
        self.failures = 0
        self.started_at = 0.0
        self.next_start = 0.0
        self.exit = ""
        self.message = ""
        self.wanted = True

    def due(self, now: float) -> bool:
        """Whether it should be started now, as far as it alone is concerned."""
        return self.wanted and not self.pid and self.state != "done" and now >= self.next_start

    def start(self) -> None:
        """Start the process, its output appended to its log."""
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        sources = [null, log, log, *self.sockets.values()]
        high = [os.dup2(fd, 100 + index, inheritable=False) for index, fd in enumerate(sources)]
        actions = [(os.POSIX_SPAWN_DUP2, fd, index) for index, fd in enumerate(high)]
        env = {**self.env, "NOTIFY_SOCKET": self.notify_path}
        if self.sockets:
            env |= {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_FDNAMES": ":".join(self.sockets)}
        self.starts += 1
        self.started_at = time.monotonic()
        try:
            self.pid = os.posix_spawnp(self.argv[0], self.argv, env, file_actions=actions, setsid=True, setsigdef=CATCHABLE)
            self.state = "starting"
        except OSError as error:
            os.write(log, f"cannot start {self.argv[0]}: {error}\n".encode())
            self.ended(f"cannot start: {error.strerror}", good=False)
        for fd in (log, null, *high):
            os.close(fd)

    def ended(self, how: str, *, good: bool) -> None:
        """The process is gone: note how, and set the delay before the next start."""
        self.pid = 0
        self.exit = how
        if self.job and good:
            self.state = "done"
            return
        now = time.monotonic()
        if now - self.started_at >= STEADY:
            self.failures = 0
        self.next_start = now + DELAYS[min(self.failures, len(DELAYS) - 1)]
        self.failures += 1
        self.state = "exited"

    def heard(self) -> bool:
        """Read what it said on its notify socket; true when it became ready just now."""
        became = False
        while True:
            try:
                text = self.notify.recv(4096).decode(errors="replace")
            except BlockingIOError:
                return became
            for line in text.splitlines():
                if line == "READY=1" and self.state == "starting":
                    self.state, became = "ready", True
                elif line.startswith("STATUS="):
                    self.message = line.removeprefix("STATUS=")

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.pid:
            os.kill(self.pid, number)

    def cap_log(self) -> None:
        """Move a log that has grown too long aside; the process goes on appending to the emptied file."""
        try:
            if os.stat(self.log).st_size <= LOG_LIMIT:
                return
            with open(self.log, "r+b") as current, open(f"{self.log}.1", "wb") as old:
                while os.sendfile(old.fileno(), current.fileno(), None, 1 << 24):
                    pass
                current.truncate(0)
        except FileNotFoundError:
            return

    def report(self) -> dict[str, Any]:
        """What `lab status` shows of it."""
        memory, cpu = self._usage()
        return {
            "name": self.name, "state": self.state, "pid": self.pid, "starts": self.starts, "exit": self.exit,
            "message": self.message, "rss": memory, "cpu": cpu, "job": self.job,
            "seconds": time.monotonic() - self.started_at if self.pid else 0.0,
        }

    def _usage(self) -> tuple[int, float]:
        """Resident bytes and CPU seconds of the process."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                memory = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
            with open(f"/proc/{self.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0, 0.0
        return memory, (int(fields[11]) + int(fields[12])) / TICKS
