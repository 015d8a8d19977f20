"""`lab vms`, the whole of it: two machines of Vagrant's, looked at, rebooted, halted and taken away. Half an hour in software."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minik8s.lab import vms
from nodecore.errors import UserError

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
ROOT = Path(__file__).parents[2]


def left() -> list[str]:
    """What a cluster could leave on this machine."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [*sorted(line.split()[0] for line in links), *Path("/proc/self/mounts").read_text().splitlines()]


@pytest.fixture
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if "vm" not in request.config.getoption("-m"):
        pytest.skip("boots two virtual machines, half an hour in software: ./lab test -m vm")
    try:
        vms.check()
    except UserError as error:
        pytest.skip(str(error))
    before = left()
    yield tmp_path / "vms"
    lab(tmp_path / "vms", "down")
    assert left() == before


def lab(state: Path, *words: str, seconds: float = 900) -> str:
    """Run `lab vms`; what it said, which must end well."""
    done = subprocess.run([sys.executable, "-m", "minik8s.lab", "vms", *words], cwd=ROOT, check=False, text=True, timeout=seconds,
                          env={**os.environ, "VMS_STATE": str(state)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_two_machines_are_a_cluster_whatever_is_done_to_them(state: Path) -> None:
    assert "the Service hello was answered by the pods of node" in lab(state, "up")
    lab(state, "test", "--reboot")
    assert "packages installed" not in lab(state, "up")  # nothing was to be done
    lab(state, "run", "vagrant", "halt")
    lab(state, "up")
    lab(state, "test")
    lab(state, "run", "vagrant", "destroy", "--force")
    lab(state, "up")
    lab(state, "test")
