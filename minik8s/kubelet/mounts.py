"""tmpfs mounts of our own: through mount(2) and umount2(2), or by systemd where the kubelet may not mount.

As a service the kubelet has neither the capability nor the host's mount namespace: what it mounted, containerd would not see.
Touches the mount table. Read next: `minik8s/kubelet/volumes.py`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from nodecore.errors import Denied, Fault

MNT_DETACH = 2
NOSUID, NODEV = 0x2, 0x4
PATIENCE = 30.0  # seconds for systemd
_libc = ctypes.CDLL(None, use_errno=True)


def mount_points(below: str, *, table: str = "/proc/self/mountinfo") -> list[str]:
    """Every mount at or below a directory, deepest first."""
    found = [_unescape(line.split(" ")[4]) for line in Path(table).read_text().splitlines()]
    inside = {point for point in found if point == below or point.startswith(below.rstrip("/") + "/")}
    return sorted(inside, key=len, reverse=True)


def _unescape(text: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def ensure_tmpfs(path: str, *, size: int = 0, mode: int = 0o777) -> None:
    """Mount a tmpfs at a directory unless one is there already."""
    if path in mount_points(path):
        return
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    if _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", NOSUID | NODEV, options.encode()) != 0:
        _otherwise(f"mount tmpfs at {path}", "systemd-mount", "--collect", "--type=tmpfs", f"--options=nosuid,nodev,{options}",
                   "tmpfs", path)


def unmount_below(path: str) -> None:
    """Take away every mount at or below a directory."""
    for point in mount_points(path):
        if _libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
            _otherwise(f"unmount {point}", "systemd-umount", point)


def _otherwise(what: str, *command: str) -> None:
    """The system call was refused: let systemd do it, where that is who may."""
    number = ctypes.get_errno()
    if number != errno.EPERM or not os.path.isdir("/run/systemd/system"):
        raise (Denied if number == errno.EPERM else Fault)(f"{what}: {os.strerror(number)}")
    try:
        subprocess.run([command[0], "--quiet", "--no-ask-password", *command[1:]], stdin=subprocess.DEVNULL, check=True,
                       capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.CalledProcessError as error:
        raise Fault(f"{what}: {command[0]}: {error.stderr.strip()[-300:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Fault(f"{what}: {error}") from None
