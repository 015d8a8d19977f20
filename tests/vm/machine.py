"""Runs one command in the virtual machine: boots the disk, hands in the checkout, brings out output, files and exit code.

QEMU in software (no KVM is asked for), in a network namespace of its own and without a network card: what the command
needs is on the disk. The disk is written to a copy that is thrown away, so every run begins alike. The checkout comes as a
tar on a second disk; the answer comes over virtio ports. Read next: `tests/vm/guest/vm-command`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nodecore.errors import Unreachable
from tests.vm import image

CGROUPS = {
    "v2": "",
    "v1": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
    "hybrid": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0",
}
INITS = {"systemd": "", "none": "init=/usr/local/sbin/vm-init"}
QUIET = "root=/dev/vda rw console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"


@dataclass(frozen=True)
class Shape:
    """What machine it is to be."""

    cgroups: str = "v2"
    init: str = "systemd"
    memory: int = 2048
    cpus: int = 2
    cpu: str = "max"
    append: str = ""

    def kernel_command_line(self) -> str:
        """What the kernel is told."""
        return " ".join(filter(None, (QUIET, CGROUPS[self.cgroups], INITS[self.init], self.append)))


@dataclass
class Outcome:
    """How a run ended."""

    exit_code: int
    booted: float  # seconds from the kernel's start to the command
    seconds: float  # from QEMU's start to its end
    files: dict[str, bytes] = field(default_factory=dict)  # what the command left in $RESULTS


def run(command: str, shape: Shape, *, seconds: float, heard: Callable[[bytes], object]) -> Outcome:
    """Boot, run a bash script in the checkout, power off; `heard` gets what it prints, as it comes."""
    with tempfile.TemporaryDirectory(dir=image.cache(), prefix="run-") as name:
        place = Path(name)
        pack(place / "checkout.tar", command)
        begin = time.monotonic()
        with subprocess.Popen(arguments(shape, place), cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            try:
                listen(process, begin + seconds, heard)
            except TimeoutError:
                raise Unreachable(f"the virtual machine had {seconds:.0f} s and has not ended\n{console(place)}") from None
            finally:
                process.kill()
        return read_outcome(place, time.monotonic() - begin)


def listen(process: subprocess.Popen[bytes], deadline: float, heard: Callable[[bytes], object]) -> None:
    """Pass on what a process prints until it ends."""
    assert process.stdout
    while True:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        if not (part := os.read(process.stdout.fileno(), 65536)):
            return
        heard(part)


def arguments(shape: Shape, place: Path) -> list[str]:
    """The command that is the machine."""
    disk = "if=none,format=raw,discard=unmap"
    return [
        "setpriv", "--pdeathsig", "KILL",  # whatever becomes of who waits for it
        "nice", "-n", "10", "unshare", "--net", "qemu-system-x86_64",
        "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", shape.cpu, "-smp", str(shape.cpus), "-m", str(shape.memory),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
        "-kernel", str(image.cache() / "vmlinuz"), "-initrd", str(image.cache() / "initrd.img"),
        "-append", shape.kernel_command_line(),
        "-drive", f"{disk},id=root,file={image.cache()}/disk.ext4,snapshot=on", "-device", "virtio-blk-pci,drive=root",
        "-drive", f"{disk},id=checkout,file={place}/checkout.tar,readonly=on", "-device", "virtio-blk-pci,drive=checkout",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-serial", f"file:{place}/console", "-device", "virtio-serial-pci",
        *(word for port, path in (("output", "/dev/stdout"), ("started", place / "started"), ("results", place / "results"))
          for word in ("-chardev", f"file,id={port},path={path}", "-device", f"virtserialport,chardev={port},name={port}")),
    ]


def pack(path: Path, command: str) -> None:
    """Put the checkout and the command into a tar, which is always a whole number of disk blocks."""
    with tarfile.open(path, "w") as tar:
        for name in image.checkout_files():
            tar.add(image.PROJECT / name, name, filter=owned_by_root)
        entry = tarfile.TarInfo(".vm-command")
        text = command.encode() + b"\n"
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same file, as the machine's root has it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def read_outcome(place: Path, seconds: float) -> Outcome:
    """Read what the machine left behind."""
    files = {}
    with contextlib.suppress(tarfile.ReadError), tarfile.open(place / "results") as tar:
        for entry in tar:
            if entry.isfile() and (file := tar.extractfile(entry)):
                files[entry.name.removeprefix("./")] = file.read()
    code = files.pop(".exit-code", None)
    if code is None:
        raise Unreachable(f"the virtual machine ended without carrying out its command\n{console(place)}")
    return Outcome(int(code), float((place / "started").read_text()), seconds, files)


def console(place: Path) -> str:
    """The end of what the machine's kernel and init said."""
    path = place / "console"
    return "\n".join(path.read_text(errors="replace").splitlines()[-30:]) if path.exists() else ""
