"""Values under /proc/sys, of this or another network namespace (the net part of /proc/sys is each namespace's own).

Must not know: what a value means. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from nodecore.errors import Denied, Invalid, NotFound
from nodecore.kernel.model import Sysctl
from nodecore.kernel.netns import inside

ROOT = Path("/proc/sys")


def read_sysctl(name: str, netns: str = "") -> str | None:
    """A value without its newline; None when this kernel has no such file."""
    with inside(netns) if netns else nullcontext():
        try:
            return (ROOT / name).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Invalid(f"sysctl {name}: {error.strerror}") from None


def write_sysctl(sysctl: Sysctl, netns: str = "") -> None:
    """Write a value."""
    with inside(netns) if netns else nullcontext():
        try:
            (ROOT / sysctl.name).write_text(sysctl.value)
        except FileNotFoundError:
            raise NotFound(f"{sysctl.describe()}: there is no such sysctl") from None
        except PermissionError as error:
            raise Denied(f"{sysctl.describe()}: {error.strerror}") from None
        except OSError as error:
            raise Invalid(f"{sysctl.describe()}: {error.strerror}") from None
