"""strongSwan's charon: found, started, and spoken to over VICI.

A charon that answers already is used, whoever started it. One that we start is no part of us: it lives on when the
daemon ends, and the tunnels with it.

Must not know: peers. Read next: `flanneld_py/attend/ipsec.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nodecore.errors import Fault, Invalid, Unreachable, UserError

SOCKET = "/var/run/charon.vici"
PID_FILE = "/var/run/charon.pid"
PLACES = ("/usr/lib/strongswan", "/usr/lib/ipsec", "/usr/libexec/strongswan", "/usr/libexec/ipsec")
PATIENCE = 10.0
STARTUP = 15.0


class Charon:
    """The IKE daemon of this machine."""

    def __init__(self) -> None:
        self.program = find_charon()
        self._child: subprocess.Popen[bytes] | None = None
        if not self.program and not is_there():
            raise UserError("network config: Backend.Type: 'ipsec' needs strongSwan's charon, which is neither in PATH nor in "
                            f"{', '.join(PLACES)} (Debian: strongswan-charon and strongswan-swanctl)")

    async def ensure(self) -> None:
        """Have one that answers."""
        if await self._answers():
            return
        if not self._child or self._child.poll() is not None:
            _reap()
            if not self.program:
                raise Unreachable(f"nobody answers at {SOCKET}, and there is no charon to start")
            self._child = _launch(self.program)
        try:
            async with asyncio.timeout(STARTUP):
                while not await self._answers():
                    if self._child.poll() is not None:
                        raise Fault(f"{self.program} ended with exit code {self._child.returncode}: its log says why")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unreachable(f"{self.program} runs, but does not answer at {SOCKET}: has it the vici plugin "
                              "(Debian: strongswan-swanctl)?") from None

    async def _answers(self) -> bool:
        try:
            await self.ask("version")
        except Unreachable:
            return False
        return True

    async def ask(self, command: str, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request and its answer; `Invalid` for one that is refused."""
        return await asyncio.to_thread(_ask, command, message)

    async def tunnels(self) -> set[str]:
        """The connections whose tunnel is up, or being made."""
        return await asyncio.to_thread(_tunnels)

    async def plugins(self) -> set[str]:
        """The names of its plugins."""
        return {name.decode() for name in (await self.ask("stats"))["plugins"]}

    async def until_gone(self) -> None:
        """Wait until it ends."""
        try:
            reader, writer = await asyncio.open_unix_connection(SOCKET)
        except OSError:
            return
        try:
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()


def find_charon() -> str | None:
    """Where the program is."""
    return shutil.which("charon", path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def is_there() -> bool:
    """Whether one has been running here since the machine started."""
    return Path(SOCKET).exists()


def _launch(program: str) -> subprocess.Popen[bytes]:
    """In a session of its own: what ends us does not end it."""
    return subprocess.Popen([program], stdin=subprocess.DEVNULL, start_new_session=True)


def _reap() -> None:
    """Bury one that was started by us before we were reloaded: while it is a zombie, no other starts."""
    with suppress(OSError, ValueError):
        os.waitpid(int(Path(PID_FILE).read_text()), os.WNOHANG)


def _ask(command: str, message: dict[str, Any] | None) -> dict[str, Any]:
    with _session(command) as session:
        found: dict[str, Any] = session.request(command, message)
    return found


def _tunnels() -> set[str]:
    with _session("list-sas") as session:
        return {
            name for found in session.list_sas() for name, sa in found.items()
            if sa["state"] == b"CONNECTING" or any(child["state"] == b"INSTALLED" for child in sa["child-sas"].values())
        }


@contextmanager
def _session(what: str) -> Iterator[Any]:
    """A connection to charon; what goes wrong with it is told in our words."""
    from vici import Session
    from vici.exception import CommandException, SessionException

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(SOCKET)
            yield Session(sock)
        except OSError as error:
            raise Unreachable(f"charon at {SOCKET}: {error.strerror or error}") from None
        except (CommandException, SessionException) as error:
            raise Invalid(f"charon: {what}: {error}") from None
