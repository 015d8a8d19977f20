"""A node's side of a capture: blocks from the kernel's ring to stdout, until stdin ends.

Lines on stdin ask for the time, which is answered on stderr (ns since 1970): so clocks are compared.
Must not know: other nodes. Read next: `netscope/capture/spool.py`.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Sequence

import msgspec

from netscope import bpf
from netscope.capture.spool import Closing, Opening, framed
from nodecore.kernel.ring import Ring
from nodecore.net import parse_address

PAUSE = 0.05


def tap(hosts: Sequence[str]) -> None:
    """Capture what goes to or comes from these addresses; without any, everything."""
    ring = Ring(bpf.of_hosts(map(parse_address, hosts)) if hosts else bpf.of_everything())
    with os.fdopen(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as out:
        out.write(msgspec.json.encode(Opening(_interfaces())) + b"\n")
        while _goes_on():
            while block := ring.take(PAUSE):
                out.write(framed(block))
                if _asked():
                    break
        while block := ring.take(PAUSE):  # what was still on its way into a block
            out.write(framed(block))
        out.write(framed(b"") + msgspec.json.encode(Closing(_interfaces(), ring.lost())) + b"\n")
    ring.close()


def _asked() -> bool:
    return bool(select.select([0], [], [], 0)[0])


def _goes_on() -> bool:
    """Tell the time as often as asked; no more when stdin has ended."""
    if not _asked():
        return True
    if not os.read(0, 4096):
        return False
    os.write(2, b"%d\n" % time.time_ns())
    return True


def _interfaces() -> dict[int, str]:
    return dict(socket.if_nameindex())
