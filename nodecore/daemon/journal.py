"""Log records for journald, with fields: where stderr is a journal's stream, records go to its socket instead.

    MESSAGE=the klog line  PRIORITY=3..7  CODE_FILE=  CODE_LINE=  CODE_FUNC=  LOGGER=nodecore.loop.reconcile
    SYSLOG_IDENTIFIER=the program and its sub-command, minik8s-kubelet

Protocol: systemd's "Native Journal Protocol". What does not go through (too large, no socket) goes to stderr as ever.
Read next: `nodecore/daemon/logs.py`.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Sequence
from itertools import takewhile

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


def is_stream(fd: int = 2) -> bool:
    """Whether a file descriptor is the connection that JOURNAL_STREAM names."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def identifier(argv: Sequence[str]) -> str:
    """What `journalctl -t` and syslog call this program."""
    words = takewhile(lambda word: not word.startswith("-"), argv[1:2])
    return "-".join((os.path.basename(argv[0]), *words))


class JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Sends records to journald; to stderr what it does not take."""

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._identifier = identifier(sys.argv)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        fields = {"MESSAGE": self.format(record), "PRIORITY": str(priority), "CODE_FILE": record.pathname,
                  "CODE_LINE": str(record.lineno), "CODE_FUNC": record.funcName or "", "LOGGER": record.name,
                  "SYSLOG_IDENTIFIER": self._identifier}
        sent = b"".join(_field(name, value.encode(errors="replace")) for name, value in fields.items())
        try:
            self._socket.sendto(sent, self._path)
        except OSError:
            super().emit(record)


def _field(name: str, value: bytes) -> bytes:
    """One field as it is sent: a value with line ends is told by its length."""
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
