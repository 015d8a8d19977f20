"""Builds the machine's disk: Debian 12 with what `lab` and the tests need, its kernel, the project's virtual environment.

Three steps above that of `minik8s/lab/debian.py`: the virtual environment (wheels made here, installed there, so that the
machine needs no network), the project's entry points, the disk (`mkfs.ext4 -d`: no loop device, no boot loader, QEMU loads
the kernel itself). Read next: `tests/vm/machine.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minik8s.lab import debian
from minik8s.lab.debian import Step, cache, call, digest, inside, only_one, stamp_of, write
from nodecore.errors import UserError

__all__ = ["build", "cache", "checkout_files", "copy_checkout", "keys", "lacking", "only_one", "stamp_of", "write"]
PROJECT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).parent / "guest"
INSIDE = "/opt/flanneld-py"  # the checkout in the machine
DISK_GIB = 4
NEEDED = debian.NEEDED | {"qemu-system-x86_64": "qemu-system-x86"}


def lacking() -> str:
    """Why no machine can be built or run here; empty when one can."""
    return debian.lacking(NEEDED)


def steps() -> list[Step]:
    """What makes the disk."""
    base = debian.step()
    environment = digest(base.key, (PROJECT / "constraints-dev.txt").read_text())
    project = digest(environment, (PROJECT / "pyproject.toml").read_text())
    disk = digest(base.key, project, str(DISK_GIB), *(path.read_text() for path in sorted(GUEST.iterdir())))
    return [base, Step("environment", environment, make_environment), Step("project", project, make_project),
            Step("disk", disk, make_disk)]


def keys() -> dict[str, str]:
    """What each step depends on, in the order of the steps."""
    return {step.name: step.key for step in steps()}


def build(say: Callable[[str], None]) -> None:
    """Do whatever is missing; whoever calls it holds the lock."""
    if reason := lacking():
        raise UserError(reason)
    if sys.version_info[:2] != debian.PYTHON:
        raise UserError(f"the virtual machine's wheels are made for Python {'.'.join(map(str, debian.PYTHON))}: "
                        "run this with that version")
    debian.carry_out(steps(), say)


def make_environment(root: Path) -> None:
    """The virtual environment as `lab` makes it, from wheels that are built out here."""
    wheels = root / "wheels"
    for path in (wheels, root / INSIDE.lstrip("/")):
        shutil.rmtree(path, ignore_errors=True)
    names = str(PROJECT / "constraints-dev.txt")
    call(sys.executable, "-m", "pip", "wheel", "-q", "--require-hashes", "-r", names, "-w", str(wheels))
    inside(root, f"mkdir -p {INSIDE}; cd {INSIDE}; python3 -m venv .venv; "
                 ".venv/bin/pip install -q --no-index --no-deps /wheels/*.whl")
    shutil.rmtree(wheels)


def make_project(root: Path) -> None:
    """The project, installed into the virtual environment; its files come anew with every run."""
    copy_checkout(root / INSIDE.lstrip("/"))
    inside(root, f"cd {INSIDE}; .venv/bin/pip install -q --no-index --no-deps --no-build-isolation -e .; "
                 f"cat constraints-dev.txt pyproject.toml <(echo {INSIDE}) | sha256sum >.venv/constraints-dev.txt.stamp; "
                 "find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name '*.egg-info' -exec rm -rf {} +")


def make_disk(root: Path) -> None:
    """One file system with all of it and what carries out a command; kernel and initial ramdisk beside it."""
    for name in ("vm-command", "vm-init"):
        write(root / "usr/local/sbin" / name, (GUEST / name).read_text(), 0o755)
    write(root / "etc/systemd/system/vm-command.service", (GUEST / "vm-command.service").read_text())
    inside(root, "systemctl enable vm-command")
    disk = cache() / "disk.ext4"
    disk.unlink(missing_ok=True)
    call("mkfs.ext4", "-q", "-O", "^has_journal", "-L", "root", "-d", str(root), str(disk), f"{DISK_GIB}G")
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd.img", "initrd.img-*")):
        shutil.copy(max((root / "boot").glob(pattern)), cache() / name)


def checkout_files() -> list[str]:
    """What belongs to this checkout, committed or not."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in names if name and (PROJECT / name).is_file()})


def copy_checkout(target: Path) -> None:
    """Copy this checkout's files there."""
    for name in checkout_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target / name)
