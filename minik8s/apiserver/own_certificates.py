"""The certificates of a server that was given none: in --cert-dir, made at the first start and renewed before they expire.

A child does the work whenever something is due; who serves finds the files changed.
Must not know: what is in a certificate. Read next: `minik8s/pki/own.py`, the child; `certificates.py`, which finds them changed.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nodecore.errors import UserError

log = logging.getLogger(__name__)
KEEPER = "minik8s.pki.own"
LONGEST, AGAIN = 86400.0, 60.0


@dataclass(frozen=True, slots=True)
class OwnCertificates:
    """Those in `directory`, good for `names`; `server` is the URL at which clients find us."""

    directory: Path
    names: tuple[str, ...]
    server: str

    def ensure(self) -> float:
        """Make what is missing or due; the seconds until something is due again."""
        names = [word for name in self.names for word in ("--name", name)]
        argv = [sys.executable, "-m", KEEPER, str(self.directory), "--server", self.server, *names]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError((done.stderr.strip() or f"--cert-dir: {self.directory}: no certificates").splitlines()[-1])
        return float(done.stdout)

    async def keep(self, due: float) -> None:
        """Renew them in time, for ever; whenever that fails, try again soon."""
        while True:
            await asyncio.sleep(min(due, LONGEST))
            try:
                due = await asyncio.to_thread(self.ensure)
            except (UserError, OSError, ValueError) as error:
                log.warning("our certificates could not be renewed: %s", error)
                due = AGAIN
