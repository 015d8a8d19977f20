"""A node with small agents of the tests' own: what its init starts, restarts, reports and leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.lab import control, files, host
from minik8s.lab.config import LabConfig
from minik8s.lab.holder import Holder
from minik8s.lab.service import LOG_LIMIT
from minik8s.lab.state import State, kill_and_wait, start_time
from nodecore.errors import UserError
from tests.labs import new_name, until

pytestmark = pytest.mark.kernel

READY = "import os,socket;s=socket.socket(1,2);s.sendto(b'READY=1',os.environ['NOTIFY_SOCKET']);"


def shell(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "argv": ["sh", "-c", text], "env": {"PATH": host.PATH}, **more}


def python(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "argv": [sys.executable, "-Sc", READY + text], **more}


class Cell:
    """A switch and one node."""

    def __init__(self, directory: Path) -> None:
        self.state = State(new_name(), directory)
        self.place = self.state.node("node-1")

    def start(self, services: list[dict[str, Any]], fds: list[int] | None = None, sockets: list[str] | None = None) -> None:
        self.place.path.mkdir(parents=True)
        files.write_switch(self.state, LabConfig(families="dual"), [])
        for name in files.NODE_DIRECTORIES:
            (self.place.path / name).mkdir(parents=True, exist_ok=True)
        spec = {
            "name": "node-1", "addresses": ["192.168.77.11/24", "fd00:77::11/64"],
            "routes": [["0.0.0.0/0", "192.168.77.1"], ["::/0", "fd00:77::1"]], "mac": "02:77:00:00:01:01",
            "port": "port-1", "bridge": "underlay", "keep": host.kept(), "cgroups": [], "sockets": sockets or [],
            "services": services, "patience": 0.5, "log_check": 0.5,
        }
        (self.place.path / "spec.json").write_text(json.dumps(spec))
        Holder(self.state.switch, []).wait()
        Holder(self.place, [str(self.state.switch.pid), *map(str, fds or [])], fds).wait()

    def report(self, name: str) -> dict[str, Any]:
        return control.services(self.place.path)[name]

    def reaches(self, name: str, state: str) -> dict[str, Any]:
        until(lambda: self.report(name)["state"] == state, what=f"{name} {state}", every=0.01)
        return self.report(name)

    def log(self, name: str) -> str:
        return (self.place.path / f"logs/{name}.log").read_text()

    def run(self, *argv: str) -> str:
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc"]
        done = subprocess.run(["nsenter", f"--target={self.place.pid}", *spaces, "--wd=/", "--", *argv],
                              capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    made = Cell(tmp_path)
    try:
        yield made
    finally:
        kill_and_wait(made.state.holders())


def test_agents_start_when_what_they_wait_for_is_ready(cell: Cell) -> None:
    cell.start([
        python("last", "import time;time.sleep(100)", after=["job"]),
        shell("job", "echo done", job=True, after=["first"]),
        python("first", "import time;time.sleep(100)"),
    ])
    cell.reaches("last", "ready")
    assert cell.report("job")["state"] == "done"
    assert cell.log("job") == "done\n"


def test_one_that_dies_is_back_at_once_and_the_next_times_later(cell: Cell) -> None:
    cell.start([python("steady", "import time;time.sleep(100)"), shell("broken", "echo started; exit 3")])
    first = cell.reaches("steady", "ready")
    control.restart(cell.place.path, "steady", signal.SIGKILL)
    second = cell.report("steady")
    assert second["pid"] != first["pid"]
    assert second["starts"] == 2
    until(lambda: cell.report("broken")["starts"] >= 4, what="some starts")
    assert cell.report("broken")["exit"] == "exit code 3"
    assert cell.log("broken").count("started") < 12


def test_a_job_that_fails_is_tried_again(cell: Cell) -> None:
    cell.start([shell("job", "test -e /run/there || { touch /run/there; exit 1; }", job=True)])
    assert cell.reaches("job", "done")["starts"] == 2


def test_an_agent_that_cannot_be_started_says_why(cell: Cell) -> None:
    cell.start([{"name": "missing", "argv": ["/nowhere/program"]}])
    cell.reaches("missing", "exited")
    assert "No such file" in cell.log("missing")


def test_one_that_ignores_sigterm_is_killed_after_its_time(cell: Cell) -> None:
    cell.start([shell("deaf", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")])
    until(lambda: cell.log("deaf") == "deaf\n", what="one that is deaf by now")
    control.ask(cell.place.path, {"do": "restart", "service": "deaf"})
    until(lambda: cell.report("deaf")["starts"] == 2, what="a second start")
    assert cell.report("deaf")["exit"] == "SIGKILL"


def test_stop_and_start(cell: Cell) -> None:
    cell.start([python("one", "import time;time.sleep(100)")])
    cell.reaches("one", "ready")
    control.ask(cell.place.path, {"do": "stop", "service": "one"})
    cell.reaches("one", "exited")
    control.ask(cell.place.path, {"do": "start", "service": "one"})
    cell.reaches("one", "ready")


def test_an_unknown_agent_is_named(cell: Cell) -> None:
    cell.start([python("one", "import time;time.sleep(100)")])
    with pytest.raises(UserError, match="no agent called 'two'; there are one"):
        control.ask(cell.place.path, {"do": "restart", "service": "two"})


def test_orphans_are_collected(cell: Cell) -> None:
    cell.start([shell("parent", "(sh -c 'sleep 0.1; touch /run/over' &); sleep 100")])
    until(lambda: cell.run("ls", "/run/over"), what="an orphan that ended")
    until(lambda: "defunct" not in cell.run("ps", "ax"), what="no corpse")


def test_a_long_log_is_cut_and_its_writer_goes_on(cell: Cell) -> None:
    cell.start([shell("loud", f"head -c {LOG_LIMIT + 10} /dev/zero | tr '\\0' x; while :; do echo more; sleep 0.1; done")])
    until(lambda: (cell.place.path / "logs/loud.log.1").exists(), what="a log set aside")
    until(lambda: cell.log("loud").endswith("more\n") and len(cell.log("loud")) < 10000, what="a short log that grows")


def test_the_node_has_a_host_of_its_own(cell: Cell) -> None:
    cell.start([python("one", "import time;time.sleep(100)")])
    assert cell.run("hostname").strip() == "node-1"
    assert "192.168.77.11/24" in cell.run("ip", "-br", "addr", "show", "eth0")
    assert "default via 192.168.77.1" in cell.run("ip", "route")
    assert "default via fd00:77::1" in cell.run("ip", "-6", "route")
    for path in ("/run", "/etc", "/tmp", "/var/lib", "/var/log"):
        cell.run("touch", f"{path}/{cell.state.name}")
        assert not Path(f"{path}/{cell.state.name}").exists()
    assert int(cell.run("sh", "-c", "ls /proc | grep -cx '[0-9]*'")) < 10
    assert cell.run("ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert Path("/sys/fs/cgroup").is_dir() == bool(cell.run("ls", "/sys/fs/cgroup"))
    assert (cell.place.path / "root/etc" / cell.state.name).exists()


def test_an_inherited_socket_reaches_the_agent(cell: Cell) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        answer = "l=socket.socket(fileno=3)\nwhile 1: c,_=l.accept();c.sendall(os.environ['LISTEN_FDNAMES'].encode());c.close()"
        cell.start([python("server", answer, sockets=["host"])], [listener.fileno()], ["host"])
    cell.reaches("server", "ready")
    control.restart(cell.place.path, "server", signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert client.recv(100) == b"host"


def test_with_its_init_the_whole_node_ends(cell: Cell) -> None:
    cell.start([shell("tree", "sleep 1000 & sleep 1000 & wait")])
    until(lambda: cell.run("ps", "ax").count("sleep 1000") >= 2, what="its processes")
    pid = cell.place.pid
    inside = os.readlink(f"/proc/{pid}/ns/pid_for_children")
    held = os.open(f"/proc/{pid}/ns/pid_for_children", os.O_RDONLY)  # or else its number is given to the next one made here
    try:
        kill_and_wait([pid])
        assert not cell.place.pid
        assert not [each for each in os.listdir("/proc") if each.isdigit() and start_time(int(each)) and _space(each) == inside]
    finally:
        os.close(held)


def _space(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def test_two_nodes_reach_each_other_over_the_switch(cell: Cell) -> None:
    cell.start([python("one", "import time;time.sleep(100)")])
    assert "1 packets received" in cell.run("busybox", "ping", "-c", "1", "-W", "30", "192.168.77.1")
    assert "1 packets received" in cell.run("busybox", "ping", "-c", "1", "-W", "30", "fd00:77::1")


def test_a_recorded_pid_used_by_a_stranger_is_not_the_holder(cell: Cell) -> None:
    cell.place.path.mkdir(parents=True)
    (cell.place.path / "init.json").write_text(json.dumps({"pid": os.getpid(), "start": 1}))
    assert cell.place.pid == 0


