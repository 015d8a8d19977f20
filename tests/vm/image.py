"""Builds the machine's disk: Debian 12 with what `lab` and the tests need, its kernel, the project's virtual environment.

Five steps, each done again only when what it depends on has changed: Debian (debootstrap), the packages, the virtual
environment (wheels made here, installed there, so that the machine needs no network), the project's entry points, the disk
(`mkfs.ext4 -d`: no loop device, no boot loader, QEMU loads the kernel itself). Everything is below one directory, outside
the checkout; what is mounted on the way is mounted in a namespace of its own. Read next: `tests/vm/machine.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nodecore.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).parent / "guest"
INSIDE = "/opt/flanneld-py"  # the checkout in the machine
SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
PYTHON = (3, 11)  # that of the suite: the wheels must fit it
DISK_GIB = 4
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "linux-image-amd64", "initramfs-tools", "lz4", "apparmor", "procps",
    "etcd-server", "containerd", "runc", "containernetworking-plugins", "nftables", "iptables", "ipset", "conntrack", "iproute2",
    "busybox-static", "python3-venv", "kubernetes-client",  # what `lab` installs
    "ca-certificates", "git", "curl", "ethtool", "iperf3", "shellcheck", "iputils-ping", "linux-libc-dev",
    "wireguard-tools", "ipvsadm",
    "etcd-client", "strongswan-charon", "strongswan-swanctl", "libstrongswan-standard-plugins",
    "libcharon-extra-plugins",
)
SERVICES_OFF = (
    "etcd", "containerd", "nftables", "ipvsadm", "strongswan-starter", "e2scrub_reap", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
)
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
NEEDED = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "qemu-system-x86_64": "qemu-system-x86"}


def cache() -> Path:
    """Where the machine's files are kept."""
    return Path(os.environ.get("FLANNELD_PY_VM", "/var/cache/flanneld-py/vm"))


def lacking() -> str:
    """Why no machine can be built or run here; empty when one can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    return f"not installed: {' '.join(missing)}" if missing else ""


def keys() -> dict[str, str]:
    """What each step depends on, in the order of the steps."""
    debian = digest(SUITE, MIRROR)
    packages = digest(debian, *PACKAGES, *SERVICES_OFF, *BOOT_MODULES)
    environment = digest(debian, (PROJECT / "constraints.txt").read_text())
    project = digest(environment, (PROJECT / "pyproject.toml").read_text())
    disk = digest(packages, project, str(DISK_GIB), *(path.read_text() for path in sorted(GUEST.iterdir())))
    return {"debian": debian, "packages": packages, "environment": environment, "project": project, "disk": disk}


def digest(*texts: str) -> str:
    """One short name for all of these texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def stamp_of(step: str) -> str:
    """The key a step was last done with."""
    path = cache() / f"{step}.key"
    return path.read_text() if path.exists() else ""


def build(say: Callable[[str], None]) -> None:
    """Do whatever is missing; whoever calls it holds the lock."""
    if reason := lacking():
        raise UserError(reason)
    if sys.version_info[:2] != PYTHON:
        raise UserError(f"the virtual machine's wheels are made for Python {PYTHON[0]}.{PYTHON[1]}: run this with that version")
    functions = (make_debian, make_packages, make_environment, make_project, make_disk)
    for (step, key), function in zip(keys().items(), functions, strict=True):
        if stamp_of(step) == key:
            continue
        begin = time.monotonic()
        (cache() / f"{step}.key").unlink(missing_ok=True)
        function(cache() / "root")
        (cache() / f"{step}.key").write_text(key)
        say(f"{time.monotonic() - begin:7.1f} s {step}")


def make_debian(root: Path) -> None:
    """The smallest Debian there is."""
    for path in (root, *cache().glob("*.key")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    call("unshare", "--mount", "debootstrap", "--variant=minbase", SUITE, str(root), MIRROR)
    write(root / "etc/initramfs-tools/conf.d/virtual-machine", "MODULES=list\nCOMPRESS=lz4\n")
    write(root / "etc/hostname", "vm\n")
    write(root / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm\n::1 localhost\n")
    write(root / "etc/fstab", "/dev/vda / ext4 noatime 0 1\n")


def make_packages(root: Path) -> None:
    """Our packages, none of their services, and an initial ramdisk with what this machine's disk needs."""
    write(root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    inside(root, f"apt-get update -q; apt-get install -qy --no-install-recommends {' '.join(PACKAGES)}; "
                 f"for unit in {' '.join(SERVICES_OFF)}; do systemctl disable $unit || true; done; "
                 f"printf '%s\\n' {' '.join(BOOT_MODULES)} >/etc/initramfs-tools/modules; update-initramfs -u; "
                 "apt-get clean; rm -rf /var/lib/apt/lists/* /usr/share/{doc,man,locale}")
    (root / "usr/sbin/policy-rc.d").unlink()


def make_environment(root: Path) -> None:
    """The virtual environment as `lab` makes it, from wheels that are built out here."""
    wheels = root / "wheels"
    for path in (wheels, root / INSIDE.lstrip("/")):
        shutil.rmtree(path, ignore_errors=True)
    call(sys.executable, "-m", "pip", "wheel", "-q", "--require-hashes", "-r", f"{PROJECT}/constraints.txt", "-w", str(wheels))
    inside(root, f"mkdir -p {INSIDE}; cd {INSIDE}; python3 -m venv .venv; "
                 ".venv/bin/pip install -q --no-index --no-deps /wheels/*.whl")
    shutil.rmtree(wheels)


def make_project(root: Path) -> None:
    """The project, installed into the virtual environment; its files come anew with every run."""
    copy_checkout(root / INSIDE.lstrip("/"))
    inside(root, f"cd {INSIDE}; .venv/bin/pip install -q --no-index --no-deps --no-build-isolation -e .; "
                 f"cat constraints.txt pyproject.toml <(echo {INSIDE}) | sha256sum >.venv/stamp; "
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
