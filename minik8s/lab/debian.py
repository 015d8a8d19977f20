"""A directory with Debian 12 in it, of which machines are made: the tests' (`tests/vm/image.py`) and Vagrant's (`box.py`).

Each step is done again only when what it depends on has changed. All of it is below one directory, outside the checkout;
what is mounted on the way is mounted in a namespace of its own. Read next: `minik8s/lab/box.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minik8s.lab.host import PROJECT
from nodecore.errors import UserError

SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
PYTHON = (3, 11)  # that of the suite: wheels must fit it
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64", "initramfs-tools", "lz4", "apparmor", "procps",
    "etcd-server", "containerd", "runc", "containernetworking-plugins", "nftables", "iptables", "ipset", "conntrack", "iproute2",
    "busybox-static", "python3-venv", "kubernetes-client",  # what `lab` installs
    "ca-certificates", "git", "curl", "ethtool", "iperf3", "shellcheck", "iputils-ping", "linux-libc-dev",
    "wireguard-tools", "ipvsadm",
    "etcd-client", "strongswan-charon", "strongswan-swanctl", "libstrongswan-standard-plugins",
    "libcharon-extra-plugins",
    "openssh-server", "sudo", "rsync", "grub-pc-bin", "tcpdump",  # what Vagrant's machines need
)
SERVICES_OFF = (
    "etcd", "containerd", "nftables", "ipvsadm", "ssh", "strongswan-starter", "e2scrub_reap", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
)
NOT_WANTED = ("doc", "man", "locale")
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
NEEDED = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}


class Step(NamedTuple):
    """Something to be made, and the short name of all that it depends on."""

    name: str
    key: str
    make: Callable[[Path], None]


def cache() -> Path:
    """Where the machine's files are kept."""
    return Path(os.environ.get("FLANNELD_PY_VM", "/var/cache/flanneld-py/machines"))


def lacking(needed: dict[str, str] = NEEDED) -> str:
    """Why this cannot be made here; empty when it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    return f"not installed: {' '.join(missing)}" if missing else ""


def step() -> Step:
    """What makes the directory."""
    return Step("debian", digest(SUITE, MIRROR, *PACKAGES, *SERVICES_OFF, *BOOT_MODULES), make)


def wheels() -> Path:
    """Where wheels of all that constraints.txt names are kept, once somebody has made them."""
    return cache() / f"wheels-{digest(digest(SUITE, MIRROR), (PROJECT / 'constraints.txt').read_text())}"


def digest(*texts: str) -> str:
    """One short name for all of these texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def stamp_of(step: str) -> str:
    """The key a step was last done with."""
    path = cache() / f"{step}.key"
    return path.read_text() if path.exists() else ""


def carry_out(steps: list[Step], say: Callable[[str], None]) -> None:
    """Do whatever is missing; whoever calls it holds the lock."""
    for name, key, make in steps:
        if stamp_of(name) == key:
            continue
        begin = time.monotonic()
        (cache() / f"{name}.key").unlink(missing_ok=True)
        make(cache() / "root")
        (cache() / f"{name}.key").write_text(key)
        say(f"{time.monotonic() - begin:7.1f} s {name}")


def make(root: Path) -> None:
    """Debian with our packages, none of their services, and an initial ramdisk with what a machine's disk needs."""
    for path in (root, *cache().glob("*.key")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-") as name:
        files = Path(name)
        write(files / "etc/initramfs-tools/conf.d/virtual-machine", "MODULES=list\nCOMPRESS=lz4\n")
        write(files / "usr/share/initramfs-tools/modules.d/virtual-machine", "\n".join(BOOT_MODULES) + "\n")
        call("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", f"--include={','.join(PACKAGES)}",
             f"--essential-hook=copy-in {files}/etc {files}/usr /", "--dpkgopt=force-unsafe-io", "--dpkgopt=force-confold",
             '--aptopt=APT::Install-Recommends "false"', *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in NOT_WANTED),
             SUITE, str(root), MIRROR)
    write(root / "etc/hostname", "vm\n")
    write(root / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm\n::1 localhost\n")
    write(root / "etc/fstab", "/dev/vda / ext4 noatime 0 1\n")
    inside(root, f"for unit in {' '.join(SERVICES_OFF)}; do systemctl disable $unit || true; done")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file with its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def inside(root: Path, script: str) -> None:
    """Run a script in the system being built, with /proc and processes of its own."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    call("unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc",
         "chroot", str(root), "bash", "-ec", script, environment=environment)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Wait until nobody else builds or runs a machine: one takes all the cores there are."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def call(*argv: str, environment: dict[str, str] | None = None) -> None:
    """Run a program to its end; what it printed is shown when it fails."""
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False)
    if done.returncode:
        raise UserError(f"{' '.join(argv[:8])} ...: exit code {done.returncode}\n{done.stdout[-3000:]}")
