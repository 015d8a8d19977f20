"""A virtual machine of the tests ends with who waits for it, and so do its files; a program of three lines plays QEMU.

And what the last part of `lab test` has started ends when its time is over.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minik8s.lab import debian, testing
from tests.labs import ROOT, until
from tests.vm import image

pytestmark = pytest.mark.slow
STUB = "#!/bin/sh\necho $$ >pid.new; mv pid.new {cache}/pid\nexec sleep 1000\n"


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m tests.vm run`, everything built already as the stamps say."""
    if os.geteuid() != 0 or sys.version_info[:2] != debian.PYTHON:
        pytest.skip("needs root, and the Python of Debian 12")
    cache, programs = tmp_path / "cache", tmp_path / "bin"
    monkeypatch.setenv("FLANNELD_PY_VM", str(cache))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in image.NEEDED:
        image.write(programs / name, STUB.format(cache=cache), 0o755)
    for step, key in image.keys().items():
        image.write(cache / f"{step}.key", key)
    process = subprocess.Popen([sys.executable, "-m", "tests.vm", "run", "true"], cwd=ROOT)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_machine_ends_with_who_waits(waiting: subprocess.Popen[bytes], end: signal.Signals, tmp_path: Path) -> None:
    told = tmp_path / "cache/pid"
    until(told.exists, what="the machine runs")
    machine = Path("/proc") / told.read_text().strip()
    assert machine.exists()
    waiting.send_signal(end)
    assert waiting.wait(30) == (-end if end is signal.SIGKILL else 128 + end)
    until(lambda: not machine.exists(), what="the machine has ended")
    assert end is signal.SIGKILL or not list(told.parent.glob("run-*"))


def test_nothing_outlives_the_time_of_the_machines(tmp_path: Path) -> None:
    """Not even who is in a session and namespaces of its own, as our libvirt."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    lock = tmp_path / "lock"
    hidden = "setsid unshare --pid --net --fork sleep 1000 &"
    script = f"exec 9>{lock}; flock 9; {hidden} echo >{lock}-taken; wait"
    for seconds in (1.0, 30.0):  # a machine that is too slow to come to it in time has longer
        assert testing.bounded([*testing.ALONE, "bash", "-c", script], seconds) == testing.TOO_LONG
        if Path(f"{lock}-taken").exists():
            break
    with lock.open() as file:  # there it was taken, and whoever inherited it has it
        until(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is None, what="all of them have ended")


def test_the_last_part_of_lab_test_is_there() -> None:
    path, _, name = testing.MACHINES[-1].partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()
