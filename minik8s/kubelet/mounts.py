"""tmpfs mounts of our own, through mount(2) and umount2(2): no process is started.

Touches the mount table of the namespace the kubelet lives in. Read next: `minik8s/kubelet/volumes.py`.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from nodecore.errors import Denied, Fault

MNT_DETACH = 2
NOSUID, NODEV = 0x2, 0x4
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
        raise _fault(f"mount tmpfs at {path}")


def unmount_below(path: str) -> None:
    """Take away every mount at or below a directory."""
    for point in mount_points(path):
        if _libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
            raise _fault(f"unmount {point}")


def _fault(what: str) -> Fault:
    number = ctypes.get_errno()
    kind = Denied if number == 1 else Fault
    return kind(f"{what}: {os.strerror(number)}")
