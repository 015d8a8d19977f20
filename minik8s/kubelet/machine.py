"""What this machine is: kernel, operating system, CPUs, memory, disk.

Reads /proc, /etc/os-release and the file system under the kubelet's root. Read next: `minik8s/kubelet/node.py`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
KUBERNETES_VERSION = "v1.33.0-flanneld-py"


@dataclass(frozen=True, slots=True)
class Machine:
    """The node's hardware and system."""

    cpus: int
    memory: int
    disk: int
    info: Mapping[str, str]

    @property
    def architecture(self) -> str:
        """As Go and image indexes name it."""
        return self.info["architecture"]


def read_machine(root_dir: str, runtime_version: str) -> Machine:
    """Look around."""
    system = os.uname()
    disk = os.statvfs(root_dir)
    info = {
        "machineID": _first_line("/etc/machine-id"), "systemUUID": _first_line("/sys/class/dmi/id/product_uuid"),
        "bootID": _first_line("/proc/sys/kernel/random/boot_id"), "kernelVersion": system.release, "osImage": _os_image(),
        "containerRuntimeVersion": runtime_version, "kubeletVersion": KUBERNETES_VERSION, "kubeProxyVersion": "",
        "operatingSystem": "linux", "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
    }
    return Machine(len(os.sched_getaffinity(0)), memory_total(), disk.f_frsize * disk.f_blocks, info)


def memory_total() -> int:
    """Bytes of memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def memory_available() -> int:
    """Bytes of memory that could be had now."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def disk_free_share(root_dir: str) -> float:
    """The free part of the kubelet's file system."""
    disk = os.statvfs(root_dir)
    return disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0


def pids_left() -> int:
    """How many more processes the kernel would allow."""
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return int(_first_line("/proc/sys/kernel/pid_max") or 32768) - running


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip().partition("\n")[0]
    except OSError:
        return ""


def _os_image() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "Linux"
    for line in lines:
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"
