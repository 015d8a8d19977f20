"""Talks to a node's init over its control socket: one line of JSON each way.

Read next: `minik8s/lab/init.py` (the other end).
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from nodecore.errors import Unreachable, UserError


def ask(directory: Path, request: dict[str, Any], *, seconds: float = 5.0) -> dict[str, Any]:
    """Send a request to the node whose directory this is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        try:
            fd = os.open(directory, os.O_PATH)
            try:
                sock.connect(f"/proc/self/fd/{fd}/control.sock")  # a long path would not fit into the address
            finally:
                os.close(fd)
            sock.sendall(json.dumps(request).encode() + b"\n")
            chunks = []
            while chunk := sock.recv(65536):
                chunks.append(chunk)
            reply = json.loads(b"".join(chunks))
        except (OSError, ValueError) as error:
            raise Unreachable(f"{directory.name} does not answer: {error}") from None
    if "error" in reply:
        raise UserError(f"{directory.name}: {reply['error']}")
    return dict(reply)


def services(directory: Path) -> dict[str, dict[str, Any]]:
    """The agents of a node by name, as `Service.report` tells them."""
    return {entry["name"]: entry for entry in ask(directory, {"do": "status"})["services"]}


def restart(directory: Path, service: str, signal: int) -> dict[str, Any]:
    """Restart an agent with a signal and wait until it is ready again."""
    before = ask(directory, {"do": "restart", "service": service, "signal": signal})["starts"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        report = services(directory)[service]
        if report["starts"] > before and report["state"] in ("ready", "done"):
            return report
        time.sleep(0.05)
    raise Unreachable(f"{directory.name}: {service} did not become ready within 60 s; see `lab logs {directory.name} {service}`")
