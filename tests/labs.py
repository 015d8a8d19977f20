"""Drives a lab as a user does, for the tests that need one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minik8s.lab import control
from minik8s.lab.enter import command_in, environment
from minik8s.lab.podns import netns_of
from minik8s.lab.state import State

ROOT = Path(__file__).parent.parent


def until(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "the condition", every: float = 0.05) -> Any:
    """Wait until `condition()` is true and return what it said; an exception in it counts as false until time is up."""
    deadline = time.monotonic() + seconds
    while True:
        error: BaseException | None = None
        try:
            if found := condition():
                return found
        except Exception as caught:
            error = caught
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s") from error
        time.sleep(every)


class Lab:
    """One lab, as a user drives it."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        self.name = name
        self.env = {**os.environ, **({"LAB_STATE": str(directory)} if directory else {})}
        self.argv = [sys.executable, "-m", "minik8s.lab", "--name", name]
        self.directory = directory

    @property
    def state(self) -> State:
        return State(self.name, self.directory)

    def run(self, *argv: str, check: bool = True, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.argv, *argv], env=self.env, capture_output=True, text=True, timeout=seconds, check=False)
        assert not check or done.returncode == 0, f"lab {' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.argv, *argv], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def up(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", *options)

    def down(self) -> None:
        self.run("down")

    def kubectl(self, *argv: str, check: bool = True, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *argv], env={**os.environ, "KUBECONFIG": str(self.state.kubeconfig)}, input=stdin,
            capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, *argv: str) -> Any:
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def exec(self, node: str, *argv: str, check: bool = True) -> str:
        done = subprocess.run(
            command_in(self.state, node, list(argv)), env=environment(), capture_output=True, text=True, timeout=240, check=False)
        assert not check or done.returncode == 0, f"{node}: {' '.join(argv)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def services(self, node: str) -> dict[str, dict[str, Any]]:
        return control.services(self.state.node(node).path)

    def kill_agent(self, node: str, agent: str, number: int = signal.SIGKILL) -> None:
        """Kill an agent and wait until its node's init has it ready again."""
        control.restart(self.state.node(node).path, agent, number)

    def netns_of(self, node: str, address: str) -> str:
        """The network namespace, as a path, in which a pod of this node has that address."""
        return netns_of(self.state, node, address)


def new_name() -> str:
    return f"t{uuid.uuid4().hex[:6]}"
