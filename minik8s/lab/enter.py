"""`lab exec`, `lab kubectl` and `lab logs`: commands that become another program.

Read next: `minik8s/lab/state.py`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import NoReturn

from minik8s.lab.agents import kubeconfig
from minik8s.lab.host import PATH
from minik8s.lab.state import State
from nodecore.errors import Unreachable, UserError

NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")


def holder(state: State, node: str) -> int:
    """The pid of a node (or of `switch`), or an error that says what there is."""
    config = state.require()
    names = [f"node-{index}" for index in range(1, config.nodes + 1)]
    if node not in (*names, "switch"):
        raise UserError(f"NODE: no node called {node!r}; there are {', '.join(names)}, switch")
    pid = state.switch.pid if node == "switch" else state.node(node).pid
    if not pid:
        raise Unreachable(f"{node} does not run; `lab up` starts it")
    return pid


def command_in(state: State, node: str, argv: list[str]) -> list[str]:
    """The command line that runs `argv` inside a node."""
    pid = holder(state, node)
    spaces = ["--net", "--uts"] if node == "switch" else list(NAMESPACES)
    return ["nsenter", f"--target={pid}", *spaces, "--wd=/", "--", *argv]


def environment() -> dict[str, str]:
    """What a command inside a node finds in its environment."""
    return {
        "PATH": f"{PATH}:/usr/lib/cni", "HOME": "/root", "TERM": os.environ.get("TERM", "dumb"), "LANG": "C.UTF-8",
        "KUBECONFIG": kubeconfig("admin"), "CONTAINER_RUNTIME_ENDPOINT": "unix:///run/containerd/containerd.sock",
    }


def exec_in(state: State, node: str, argv: list[str]) -> NoReturn:
    """Become `argv` inside a node."""
    os.execvpe("nsenter", command_in(state, node, argv), environment())


def kubectl(state: State, argv: list[str]) -> NoReturn:
    """Become kubectl, as the lab's administrator."""
    state.require()
    if shutil.which("kubectl") is None:
        raise UserError("not installed: kubectl; `./lab` installs it where it can")
    os.execvpe("kubectl", ["kubectl", *argv], {**os.environ, "KUBECONFIG": str(state.kubeconfig)})


def netscope(state: State, argv: list[str]) -> NoReturn:
    """Become netscope, which finds the API and the way into the nodes in its environment."""
    surroundings = {**os.environ, "KUBECONFIG": str(state.kubeconfig), "NETSCOPE_VIA": way_into_nodes(state)}
    os.execve(sys.executable, [sys.executable, "-m", "netscope", *argv], surroundings)


def way_into_nodes(state: State) -> str:
    """A command line that starts a netscope agent on `{node}`: straight into its namespaces, with no lab command between."""
    nodes = [f"node-{number}" for number in range(1, state.require().nodes + 1)]
    pids = ((node, state.node(node).pid) for node in nodes)
    cases = "; ".join(f"[ $0 = {node} ] && pid={pid}" for node, pid in pids if pid)
    enter = f'exec nsenter --target=$pid {" ".join(NAMESPACES)} --wd=/ -- "$@"'
    script = f"{cases}; [ $pid ] || {{ echo it does not run >&2; exit 1; }}; {enter}"
    words = [f"{name}={value}" for name, value in environment().items()]
    return shlex.join(["sh", "-c", script, "{node}", "env", *words, sys.executable, "-m", "netscope", "agent"])


def logs(state: State, node: str, agent: str, *, follow: bool) -> NoReturn:
    """Become `tail` on an agent's log."""
    state.require()
    path = state.node(node).path / "logs" / f"{agent}.log"
    if not path.exists():
        there = sorted(entry.stem for entry in path.parent.glob("*.log"))
        raise UserError(f"AGENT: no log of {agent!r} on {node!r}; there are {', '.join(there) or 'none'}")
    os.execvp("tail", ["tail", "-n", "+1", *(["-F"] if follow else []), str(path)])
