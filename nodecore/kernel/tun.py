"""TUN devices: made to stay, and attached to by whoever carries their packets.

Layouts: linux/if_tun.h. A device has several queues, so that a new carrier can attach while the old one is still there.
Standard library only. Must not know: what packets are. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import nullcontext

from nodecore.errors import NotFound, Unsupported
from nodecore.kernel.batch import fault_of
from nodecore.kernel.netns import inside

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNGETIFF = 0x400454CA, 0x400454CB, 0x800454D2
IFF_TUN, IFF_MULTI_QUEUE, IFF_PERSIST, IFF_NO_PI = 0x0001, 0x0100, 0x0800, 0x1000


def create_tun(name: str, netns: str = "") -> None:
    """Make a device that stays."""
    fd = _attach(name, netns)
    try:
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def attach_tun(name: str, netns: str = "") -> int:
    """A file descriptor that reads and writes the packets of a device that was made to stay."""
    fd = _attach(name, netns)
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(fd, TUNGETIFF, bytes(40)), 16)
    if not flags & IFF_PERSIST:  # attaching has just made it, or it is a running program's
        os.close(fd)
        raise NotFound(f"no lasting device {name}")
    return fd


def _attach(name: str, netns: str) -> int:
    with inside(netns) if netns else nullcontext():
        try:
            fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise Unsupported(f"this machine has no {DEVICE} (the module tun is not there, or nobody made the file)") from None
        except OSError as error:
            raise fault_of(error.errno or 0, DEVICE) from None
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE))
        except OSError as error:
            os.close(fd)
            raise fault_of(error.errno or 0, f"attaching to {name}") from None
    return fd
