"""The rim: exit codes by blame, klog lines, health over HTTP, readiness over a real socket."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nodecore.daemon import health, journal, logs, systemd
from nodecore.daemon.entry import report
from nodecore.errors import Bug, Unreachable, UserError


@pytest.mark.parametrize(("error", "code"), [
    (UserError("--iface: no interface called 'eth7'"), 2),
    (Unreachable("etcd does not answer"), 1),
    (Bug("impossible"), 70),
    (ExceptionGroup("g", [Unreachable("etcd"), UserError("--x: wrong")]), 2),
])
def test_a_fault_is_a_line_and_a_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error, "flanneld-py") == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("flanneld-py: ") for line in lines)
    assert "Traceback" not in "".join(lines)


def test_what_was_not_understood_keeps_its_traceback() -> None:
    code = "from nodecore.daemon.entry import run\ndef f(): 1/0\nrun(f, 'x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr


def test_log_lines_are_klogs() -> None:
    record = logging.LogRecord("nodecore", logging.WARNING, "/x/vxlan.py", 138, "device %s\nmade", ("flannel.1",), None)
    line = logs.KlogFormatter().format(record)
    assert re.fullmatch(r"W\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ vxlan\.py:138\] device flannel\.1\\nmade", line)


LOUD = """
import logging, sys
from nodecore.daemon import logs
logs.setup(*eval(sys.argv[1]))
logging.getLogger("nodecore.x").debug("debug")
logging.getLogger("nodecore.x").info("info")
logging.getLogger("nodecore.x").warning("warning")
logging.getLogger("aiohttp").info("foreign")
"""


@pytest.mark.parametrize(("arguments", "words"), [
    ((0,), ["info", "warning"]),
    ((3,), ["info", "warning"]),
    ((4,), ["debug", "info", "warning"]),
    ((0, "loud=4"), ["debug", "info", "warning"]),
    ((0, "lo*.py=9,loud=0"), ["debug", "info", "warning"]),
    ((0, "other=4"), ["info", "warning"]),
    ((4, "loud=0"), ["info", "warning"]),
])
def test_verbosity_and_vmodule(arguments: tuple[object, ...], words: list[str], tmp_path: Path) -> None:
    script = tmp_path / "loud.py"
    script.write_text(LOUD)
    done = subprocess.run([sys.executable, script, repr(arguments)], capture_output=True, text=True, check=True)
    assert [line.rpartition("] ")[2] for line in done.stderr.splitlines()] == words


def test_a_line_may_show_its_stack(tmp_path: Path) -> None:
    script = tmp_path / "loud.py"
    script.write_text(LOUD)
    done = subprocess.run([sys.executable, script, '(0, "", "loud.py:6")'], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[0].endswith("loud.py:6] info")
    assert any(f'File "{script}", line 6' in line for line in lines)
    assert lines[-1].endswith("] warning")


@pytest.mark.parametrize(("arguments", "words"), [
    ((0, "x"), "--vmodule: 'x'"), ((0, "x=y"), "--vmodule: 'x=y'"), ((0, "", "agent.py"), "--log_backtrace_at: 'agent.py'"),
])
def test_wrong_log_flags_are_named(arguments: tuple[int, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        logs.setup(*arguments)


def test_health_answers_and_a_taken_port_is_the_users_mistake() -> None:
    good = [True]
    server = health.serve("127.0.0.1", 0, {"/healthz": health.check(lambda: good[0])})
    host, port = server.server_address[:2]
    try:
        assert urllib.request.urlopen(f"http://{host}:{port}/healthz?verbose").read() == b"ok"
        good[0] = False
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://{host}:{port}/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{host}:{port}/../etc/passwd")
        with pytest.raises(UserError, match=f"--healthz-port: cannot listen on .*{port}: Address already in use"):
            health.serve("127.0.0.1", int(port), {})
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_reaches_the_socket(*, abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@flanneld-py-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if abstract else name)
        receiver.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert systemd.notify("READY=1")
        assert receiver.recv(100) == b"READY=1"


def test_nobody_to_notify_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    assert not systemd.notify("READY=1")


def test_inherited_sockets_are_found_by_name() -> None:
    code = """
import os, socket, sys
sock = socket.socket(); sock.bind(("127.0.0.1", 0)); sock.listen()
os.dup2(sock.fileno(), 3); os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "host"}; os.environ.pop("LISTEN_PID", None)
os.execv(sys.executable, [sys.executable, "-c",
  "from nodecore.daemon.systemd import listen_sockets as l; s = l(); print(list(s), s['host'].getsockname()[0])"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, close_fds=False)
    assert done.stdout.strip() == "['host'] 127.0.0.1"


def test_health_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer would hold an agent up for ten seconds."""
    monkeypatch.setattr("socket.getfqdn", lambda *_: pytest.fail("asked for a name"))
    server = health.serve("127.0.0.1", 0, {})
    server.shutdown()
    server.server_close()


def test_journald_gets_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line end in a message must not end the field: what follows would be fields of somebody else's choice."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/minik8s", "kubelet", "-v"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        handler = journal.JournalHandler(str(tmp_path / "socket"))
        record = logging.LogRecord("nodecore.t", logging.ERROR, "/a/file.py", 7, "two\nPRIORITY=0", None, None, "do")
        handler.emit(record)
        said = journald.recv(4096)
    assert said.startswith(b"MESSAGE\n" + (14).to_bytes(8, "little") + b"two\nPRIORITY=0\nPRIORITY=3\nCODE_FILE=/a/file.py\n")
    assert said.endswith(b"CODE_LINE=7\nCODE_FUNC=do\nLOGGER=nodecore.t\nSYSLOG_IDENTIFIER=minik8s-kubelet\n")


def test_what_journald_does_not_take_is_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = journal.JournalHandler(str(tmp_path / "nobody"))
    handler.emit(logging.LogRecord("t", logging.INFO, "f", 1, "heard", None, None))
    assert "heard" in capsys.readouterr().err


def test_only_the_stream_that_is_named_is_a_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        assert not journal.is_stream(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert journal.is_stream(file.fileno())
