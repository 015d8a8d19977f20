"""Generic netlink: kernel modules that are spoken to by name, numbered anew at every boot.

Layouts: linux/genetlink.h. A name that is not there makes the kernel load the module that has it, if there is one.
Must not know: what is said to a module. Read next: `nodecore/kernel/wireguard.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from nodecore.errors import Fault, NotFound, Unsupported
from nodecore.kernel.batch import Message, NetlinkSocket, attribute, attributes

NETLINK_GENERIC = 16
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
HEADER = struct.Struct("=BBH")


class GenericSocket:
    """A socket to one module, by its family's name and version."""

    def __init__(self, name: str, version: int, netns: str = "") -> None:
        self._version = version
        self._sock = NetlinkSocket(netns, protocol=NETLINK_GENERIC)
        try:
            self._family = self._lookup(name)
        except BaseException:
            self._sock.close()
            raise

    def _lookup(self, name: str) -> int:
        body = HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
        try:
            found = self._sock.get(GENL_ID_CTRL, body, f"generic netlink family {name}")
        except NotFound:
            raise Unsupported(f"this kernel has no {name} (the module {name} is not there or cannot be loaded)") from None
        return int(struct.unpack("=H", attributes(found, HEADER.size)[CTRL_ATTR_FAMILY_ID])[0])

    def send(self, command: int, bodies: Sequence[bytes]) -> list[Fault | None]:
        """Give the same command with each of the bodies; one answer each, None where it worked."""
        return self._sock.send([Message(self._family, 0, HEADER.pack(command, self._version, 0) + body) for body in bodies])

    def dump(self, command: int, body: bytes) -> Iterator[bytes]:
        """Read a table: the attributes of each message."""
        for answer in self._sock.dump(self._family, HEADER.pack(command, self._version, 0) + body):
            yield answer[HEADER.size :]

    def close(self) -> None:
        """Close it."""
        self._sock.close()
