"""`lab vms`: two machines of Vagrant's, made by one `vagrant up` and looked at; then rebooted, halted and taken away.

The first test is the one of `./lab test` (`minik8s/lab/testing.py`); where nothing can be booted it is skipped, and says why.
With the second it is half an hour in software.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minik8s.lab import box, debian, vms
from nodecore.errors import UserError

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
BOOT_SECONDS = 120
ROOT = Path(__file__).parents[2]


def left() -> list[str]:
    """What a cluster could leave on this machine."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [*sorted(line.split()[0] for line in links), *Path("/proc/self/mounts").read_text().splitlines()]


@pytest.fixture(scope="module")
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if "vm" not in request.config.getoption("-m"):
        pytest.skip("boots two virtual machines, minutes in software: ./lab test -m vm")
    try:
        vms.check()
        box.prepare(print, box=True)
    except UserError as error:
        pytest.skip(f"no virtual machines here: {error}")
    if reason := not_booting():
        pytest.skip(reason)
    before, path = left(), tmp_path_factory.mktemp("vagrant") / "vms"
    yield path
    lab(path, "down")
    assert left() == before


def not_booting() -> str:
    """Why no machine runs here; empty where the box's kernel comes as far as to miss its disk."""
    kernel = max((debian.cache() / "root/boot").glob("vmlinuz-*"))
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64", "-m", "256", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-nic", "none", "-serial", "stdio",
            "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              timeout=BOOT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no virtual machines here: QEMU did not boot a kernel within {BOOT_SECONDS} s"
    if b"Unable to mount root" in done.stdout:
        return ""
    return f"no virtual machines here: QEMU boots no kernel: {done.stdout[-300:].decode(errors='replace')}"


def lab(state: Path, *words: str, seconds: float = 900) -> str:
    """Run `lab vms`; what it said, which must end well."""
    done = subprocess.run([sys.executable, "-m", "minik8s.lab", "vms", *words], cwd=ROOT, check=False, text=True, timeout=seconds,
                          env={**os.environ, "VMS_STATE": str(state)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_one_vagrant_up_is_a_cluster(state: Path) -> None:
    assert "the Service hello was answered by the pods of node" in lab(state, "up")
    lab(state, "test")
    assert "packages installed" not in lab(state, "up")  # nothing was to be done


def test_it_stays_one_whatever_is_done_to_them(state: Path) -> None:
    lab(state, "up")
    lab(state, "test", "--reboot")
    lab(state, "run", "vagrant", "halt")
    lab(state, "up")
    lab(state, "test")
    lab(state, "run", "vagrant", "destroy", "--force")
    lab(state, "up")
    lab(state, "test")
