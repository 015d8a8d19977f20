"""Listens on the underlay: a packet socket opened inside the switch's namespace.

The socket stays in the namespace it was opened in, so a short-lived thread enters, opens it and ends; the process
itself never moves. Read next: `minik8s/lab/frames.py`.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from minik8s.lab import frames
from minik8s.lab.syscalls import CLONE_NEWNET, setns
from nodecore.errors import NotFound

ETH_P_ALL = 3


def socket_in(pid: int, interface: str) -> socket.socket:
    """A packet socket on an interface of another process's network namespace."""
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def enter_and_open() -> None:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            setns(fd, CLONE_NEWNET)
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.bind((interface, 0))
            made.append(sock)
        except OSError as error:
            errors.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if errors:
        raise NotFound(f"cannot listen on {interface}: {errors[0].strerror}")
    return made[0]


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
