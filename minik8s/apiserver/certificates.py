"""TLS contexts from files that may change: a connection made after a change sees the new ones, no restart needed.

The context handed to the HTTP server stays; whenever a client says hello, it is given the newest context. Where we are the
client, `current` is asked for each connection. What cannot be loaded (a certificate without its key yet) leaves the old one in
place and is looked at again.
Must not know: HTTP. Read next: `config.py`, which reads the files.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nodecore.errors import UserError

log = logging.getLogger(__name__)
PERIOD = 5.0
DAY = 86400.0
SOON = 180 * DAY
Stamps = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """`front` is what to serve with; `load` makes a context of the files, which are at `paths`."""

    def __init__(self, load: Callable[[], ssl.SSLContext], paths: Sequence[str]) -> None:
        self._load, self._paths = load, [Path(path) for path in paths if path]
        self._stamps = self._read_stamps()
        self.front = load()
        self._current = self.front
        if self.front.protocol == ssl.PROTOCOL_TLS_SERVER:
            self.front.sni_callback = self._hello

    @property
    def current(self) -> ssl.SSLContext:
        """The newest context."""
        return self._current

    def _hello(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if connection.context is not self._current:
            connection.context = self._current

    def _read_stamps(self) -> Stamps:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return tuple(found)

    def look(self) -> bool:
        """Load the files anew if they have changed; says whether others are in use now."""
        stamps = self._read_stamps()
        if stamps == self._stamps:
            return False
        try:
            self._current = self._load()
        except UserError as error:
            log.warning("certificates have changed, but are no good: %s", error)
            return False
        self._stamps = stamps
        log.info("certificates have changed: new connections see the new ones")
        return True

    def ending(self, now: float) -> list[str]:
        """Which authorities that others are checked against expire within `SOON`, and when."""
        found: list[dict[str, Any]] = self._current.get_ca_certs()
        return [f"{_name(each)} on {each['notAfter']}" for each in found
                if ssl.cert_time_to_seconds(each["notAfter"]) - now < SOON]

    async def watch(self, period: float = PERIOD) -> None:
        """Look every few seconds, for ever; once a day say which authorities come to their end."""
        said = float("-inf")
        while True:
            now = time.time()
            if now - said >= DAY:
                said = now
                for found in self.ending(now):
                    log.warning("the authority in %s expires, %s: `minik8s certs renew` renews it by its key",
                                self._paths[-1], found)
            await asyncio.sleep(period)
            self.look()


def _name(certificate: dict[str, Any]) -> str:
    return next((value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), "?")
