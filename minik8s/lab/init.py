"""Pid 1 of a node: starts the agents in order, restarts them, keeps their logs short, answers `lab`.

One thread, one poll: notify sockets, the control socket, SIGCHLD. A control request is one line of JSON
(`{"do": "status" | "restart" | "stop" | "start", "service": ..., "signal": ...}`), the answer another.

Standard library only, and little of it: this process is part of what a node costs.
Read next: `minik8s/lab/service.py`, `minik8s/lab/control.py` (the other end).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from minik8s.lab.service import Service

LOG_CHECK = 10.0
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL
FINISHED = ("ready", "done")


class Init:
    """The agents of a node and what they wait for."""

    def __init__(self, spec: dict[str, Any], sockets: dict[str, int]) -> None:
        self.services = {entry["name"]: Service(entry, sockets) for entry in spec["services"]}
        self.poll = select.poll()
        self.wake, wake_write = os.pipe()
        for fd in (self.wake, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_signal)
        self.control = listen("/run/lab/control.sock")
        self.speakers = {service.notify.fileno(): service for service in self.services.values()}
        for fd in (self.wake, self.control.fileno(), *self.speakers):
            self.poll.register(fd, select.POLLIN)
        self.patience: float = spec.get("patience", PATIENCE)
        self.log_check: float = spec.get("log_check", LOG_CHECK)
        self.kill_at: dict[int, float] = {}
        self.leaving = False

    def on_signal(self, number: int, frame: object) -> None:
        """SIGTERM and SIGINT end the node; SIGCHLD only wakes the poll."""
        if number != signal.SIGCHLD:
            self.leaving = True

    def run(self) -> None:
        """Look after the agents until told to leave."""
        next_log_check = time.monotonic() + self.log_check
        while not self.leaving:
            now = time.monotonic()
            self.start_due(now)
            self.kill_late(now)
            if now >= next_log_check:
                next_log_check = now + self.log_check
                for service in self.services.values():
                    service.cap_log()
            for fd, _ in self.poll.poll(max(0.0, self.next_deadline(next_log_check) - time.monotonic()) * 1000 + 1):
                self.handle(fd)
            self.reap()
        self.leave()

    def handle(self, fd: int) -> None:
        """Something can be read."""
        if fd in self.speakers:
            self.speakers[fd].heard()
        elif fd == self.wake:
            os.read(fd, 4096)
        else:
            self.answer()

    def next_deadline(self, log_check: float) -> float:
        """When there is something to do even if nothing happens."""
        starts = [s.next_start for s in self.services.values() if s.state == "exited" and s.wanted and self.unblocked(s)]
        return min([log_check, *starts, *self.kill_at.values()])

    def unblocked(self, service: Service) -> bool:
        """Whether all it waits for is there; only asked before its first start."""
        return service.starts > 0 or all(self.services[name].state in FINISHED for name in service.after)

    def start_due(self, now: float) -> None:
        """Start whatever may start."""
        for service in self.services.values():
            if service.due(now) and self.unblocked(service):
                service.start()

    def kill_late(self, now: float) -> None:
        """SIGKILL for those who had their time after SIGTERM."""
        for pid, deadline in list(self.kill_at.items()):
            if now >= deadline:
                del self.kill_at[pid]
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Collect the dead: agents, and orphans that fell to pid 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.kill_at.pop(pid, None)
            for service in self.services.values():
                if service.pid == pid:
                    service.heard()
                    code = os.waitstatus_to_exitcode(status)
                    service.ended(f"exit code {code}" if code >= 0 else signal.Signals(-code).name, good=code == 0)

    def answer(self) -> None:
        """One request on the control socket."""
        connection, _ = self.control.accept()
        with connection:
            connection.settimeout(1)
            try:
                reply = self.obey(json.loads(connection.recv(65536)))
                connection.sendall(json.dumps(reply).encode() + b"\n")
            except (OSError, ValueError):
                return

    def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request says."""
        if request.get("do") == "status":
            return {"services": [service.report() for service in self.services.values()], "rss": own_memory()}
        service = self.services.get(request.get("service", ""))
        if service is None:
            return {"error": f"no agent called {request.get('service')!r}; there are {', '.join(self.services)}"}
        before = service.starts
        self.change(service, request.get("do", ""), request.get("signal", signal.SIGTERM))
        return {"starts": before}

    def change(self, service: Service, what: str, number: int) -> None:
        """Stop, start or restart one agent."""
        service.wanted = what != "stop"
        service.failures = 0
        service.next_start = 0.0
        if what == "start":
            return
        service.signal(number)
        if service.pid and number != signal.SIGKILL:
            self.kill_at[service.pid] = time.monotonic() + self.patience

    def leave(self) -> None:
        """End all agents in good order; the kernel takes the rest."""
        for service in self.services.values():
            service.wanted = False
            service.signal(signal.SIGTERM)
        deadline = time.monotonic() + self.patience / 2
        while any(service.pid for service in self.services.values()) and time.monotonic() < deadline:
            self.poll.poll(100)
            self.reap()


def listen(path: str) -> socket.socket:
    """A fresh unix socket, for root alone."""
    if os.path.exists(path):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(64)
    return sock


def own_memory() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def serve(spec: dict[str, Any], sockets: dict[str, int], started: Callable[[], None]) -> None:
    """Be pid 1 of the node that `spec` describes, until it is told to end."""
    init = Init(spec, sockets)
    started()
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    init.run()
    os._exit(0)
