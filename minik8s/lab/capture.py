"""Listens on the underlay: a packet socket opened inside the switch's namespace.

The socket stays in the namespace it was opened in; this process is there for that moment only.
Read next: `minik8s/lab/frames.py`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from types import TracebackType

from minik8s.lab import frames
from nodecore.errors import NotFound
from nodecore.kernel.netns import inside

ETH_P_ALL = 3


def socket_in(pid: int, interface: str) -> socket.socket:
    """A packet socket on an interface of another process's network namespace."""
    with inside(f"/proc/{pid}/ns/net"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        sock.bind((interface, 0))
    except OSError as error:
        sock.close()
        raise NotFound(f"cannot listen on {interface}: {error.strerror}") from None
    return sock


class Capture:
    """What crosses an interface, from the moment this is made."""

    def __init__(self, pid: int, interface: str) -> None:
        self._socket = socket_in(pid, interface)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def first(self, wanted: Callable[[frames.Packet], bool], *, seconds: float = 5.0) -> frames.Packet | None:
        """The first packet with TCP in it that is wanted, within some seconds."""
        deadline = time.monotonic() + seconds
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            packet = frames.read(self._socket.recv(65536))
            if packet and wanted(packet):
                return packet
        return None
