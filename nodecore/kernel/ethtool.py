"""Two things of a device that only ethtool's ioctl tells: its driver, and whether it leaves checksums to be computed later.

Layouts: linux/ethtool.h. The ioctls speak of the network namespace of the socket.
Must not know: why somebody wants checksums computed. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from contextlib import nullcontext

from nodecore.kernel.batch import fault_of
from nodecore.kernel.netns import inside

SIOCETHTOOL = 0x8946
GDRVINFO, GTXCSUM, STXCSUM = 0x03, 0x16, 0x17
DRVINFO_SIZE, DRIVER = 196, slice(4, 36)
NAME_SIZE = 16


def driver_of(link: str, netns: str = "") -> str:
    """The driver's name; raises a `Fault` for a device that has none."""
    return bytes(_ask(link, struct.pack("=I", GDRVINFO).ljust(DRVINFO_SIZE, b"\0"), netns)[DRIVER]).rstrip(b"\0").decode()


def defers_checksums(link: str, netns: str = "") -> bool:
    """Whether packets leave the stack with checksums that a later device is to fill in."""
    return bool(struct.unpack_from("=I", _ask(link, struct.pack("=II", GTXCSUM, 0), netns), 4)[0])


def defer_checksums(link: str, netns: str = "", *, on: bool) -> None:
    """Switch that; off, every packet that leaves by this device has its checksum."""
    _ask(link, struct.pack("=II", STXCSUM, on), netns)


def _ask(link: str, request: bytes, netns: str) -> bytes:
    memory = array.array("B", request)
    address, _ = memory.buffer_info()
    ifreq = struct.pack(f"{NAME_SIZE}sP16x", link.encode(), address)
    with inside(netns) if netns else nullcontext(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, SIOCETHTOOL, ifreq)
        except OSError as error:
            raise fault_of(error.errno or 0, f"ethtool {link}") from None
    return memory.tobytes()
