"""What the host offers a lab: programs, kernel parts, kind of file system. Reads the host, changes nothing but
the list of loaded kernel modules.

Read next: `minik8s/lab/files.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from minik8s.lab import cgroup
from minik8s.lab.agents import Programs
from nodecore.errors import UserError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = ("etcd", "containerd", "ctr", "runc", "nft", "iptables", "conntrack", "ip", "nsenter", "busybox")
CNI_PLUGINS = Path("/usr/lib/cni")
MODULES = ("overlay", "br_netfilter", "vxlan", "nf_conntrack", "nf_tables")
OVERLAYFS_MAGIC = 0x794C7630
DEVICES = {"vxlan": "vxlan id 1 dstport 8472", "wireguard": "wireguard", "ipip": "ipip local 192.0.2.1"}
PROJECT = Path(__file__).resolve().parents[2]


def check() -> None:
    """Raise `UserError` when this host cannot carry a lab."""
    if os.geteuid() != 0:
        raise UserError("not root: run it with sudo")
    missing = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; `./lab` installs what is missing")
    if not (CNI_PLUGINS / "bridge").exists():
        raise UserError(f"not installed: the CNI plugins in {CNI_PLUGINS} (package containernetworking-plugins)")


def check_kernel(backend: str, families: str) -> None:
    """Raise `UserError` when this kernel has no IPv6, or cannot make the device of flannel's backend (which is tried)."""
    if families != "ipv4" and not Path("/proc/net/if_inet6").exists():
        raise UserError(f"--families: {families} cannot work, this kernel has no IPv6")
    if backend not in DEVICES:
        return
    argv = ["unshare", "--net", "ip", "link", "add", "probe", "type", *DEVICES[backend].split()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": PATH, "LANG": "C"})
    if done.returncode:
        raise UserError(f"--backend: {backend} cannot work, this kernel has no {backend} devices: {done.stderr.strip()}")


def load_modules() -> None:
    """Ask for the kernel modules a node needs; what is built in or not there shows itself later."""
    missing = [name for name in MODULES if not Path(f"/sys/module/{name}").exists()]
    if missing and shutil.which("modprobe", path=PATH):
        subprocess.run(["modprobe", "--all", "--quiet", *missing], check=False, stderr=subprocess.DEVNULL)


def programs(name: str, state: Path) -> Programs:
    """What agents are started with."""
    return Programs(
        python=sys.executable, path=PATH, machine=platform.machine(), cgroup=cgroup.root(name), snapshotter=snapshotter(state),
        cache=f"{sys.prefix}/var/minik8s")  # outlives every lab, and goes with the virtual environment it was made by


def snapshotter(state: Path) -> str:
    """containerd's snapshotter: overlays, unless the state lies on one already."""
    kind = subprocess.run(["stat", "--file-system", "--format", "%t", state], capture_output=True, text=True, check=True)
    return "native" if int(kind.stdout, 16) == OVERLAYFS_MAGIC else "overlayfs"


def apparmor() -> bool:
    """Whether AppArmor is on and can be used."""
    try:
        enabled = Path("/sys/module/apparmor/parameters/enabled").read_text()
    except OSError:
        return False
    return enabled.startswith("Y") and shutil.which("apparmor_parser", path=PATH) is not None


def runc() -> str:
    """The full path of runc."""
    return shutil.which("runc", path=PATH) or "/usr/sbin/runc"


def kept() -> list[str]:
    """What must stay visible in a node, wherever it lies: this project and the Python it runs on."""
    return sorted({str(PROJECT), sys.prefix, sys.base_prefix})
