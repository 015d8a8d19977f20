"""Network namespaces without mounts: each is held by a small process of ours and reached through its `/proc` path.

    with Netns.create() as left, Netns.create() as right:
        left.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(right.pid)])
        with left.enter():
            sock = socket.socket(...)          # belongs to left for ever

Nothing is written to /run/netns, so nothing can be left there. The holder reads from a pipe of ours and ends when
that closes: it dies with whoever made it, kill -9 included.

Must not know: what a namespace is used for. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nodecore.errors import Denied, Fault, NotFound, UserError

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this thread into fresh namespaces of the given kinds (unshare(2))."""
    if _libc.unshare(flags) != 0:
        raise _fault(f"unshare {flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """Move this thread into the namespace behind a file descriptor (setns(2))."""
    if _libc.setns(fd, flags) != 0:
        raise _fault(f"setns {flags:#x}")


def _fault(what: str) -> Fault:
    number = ctypes.get_errno()
    kind = Denied if number == 1 else Fault
    return kind(f"{what}: {os.strerror(number)}")


class Netns:
    """A network namespace kept alive by a holder process; `path` names it for everybody else."""

    def __init__(self, holder: subprocess.Popen[bytes]) -> None:
        self._holder = holder
        self.pid = holder.pid
        self.path = f"/proc/{holder.pid}/ns/net"

    @classmethod
    def create(cls) -> Netns:
        """Make a namespace with its loopback up."""
        if os.geteuid() != 0:
            raise UserError("network namespaces: root is needed")
        holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        made = cls(holder)
        try:
            made._await_holder()
            with made.enter():
                set_link_up("lo")
        except BaseException:
            made.close()
            raise
        return made

    def _await_holder(self) -> None:
        assert self._holder.stdin
        assert self._holder.stdout
        try:
            self._holder.stdin.write(b".")
        except BrokenPipeError:
            raise Denied("network namespaces: not allowed here (unshare --net failed)") from None
        if self._holder.stdout.read(1) != b".":
            raise Denied("network namespaces: not allowed here (unshare --net failed)")

    def run(self, argv: Sequence[str], **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait; a non-zero exit raises unless `check=False`."""
        options: dict[str, Any] = {"check": True, "text": True, "capture_output": True} | kw
        result: subprocess.CompletedProcess[str] = subprocess.run(self._inside(argv), **options)
        return result

    def popen(self, argv: Sequence[str], **kw: Any) -> subprocess.Popen[bytes]:
        """Start a command inside; `pid` is the command's own."""
        return subprocess.Popen(self._inside(argv), **kw)

    def _inside(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *argv]

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Put this thread inside for a while: sockets opened meanwhile stay inside for ever."""
        with inside(self.path):
            yield

    def close(self) -> None:
        """Let the namespace go; it ends with the last process and socket in it."""
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe:
                pipe.close()
        self._holder.kill()
        self._holder.wait()

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Put this thread into the network namespace at `path`, and back at the end."""
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"network namespace {path}: {error.strerror}") from None
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(target, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)
        os.close(target)


def set_link_up(name: str) -> None:
    """Set an interface of the current namespace up, without netlink."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), IFF_UP))
