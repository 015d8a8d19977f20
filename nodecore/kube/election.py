"""One of several at a time: leader election by a Lease, as client-go does it.

    election = Election(client, "kube-scheduler", identity)
    await election.acquire()
    tasks["election"] = election.hold()      # raises when the lease is lost: end the process, come back as a stand-by

A Lease is free when its holder has not renewed it for its duration, measured here and not by its clock. One that bears our own
identity is an earlier life of ours and is taken at once; if that life still runs, it notices the new incarnation and ends.

Must not know: what is led. Read next: `nodecore/kube/client.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from typing import Any

from nodecore.duration import parse_duration
from nodecore.errors import AlreadyExists, Conflict, Fault, NotFound, Unreachable, UserError
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import LEASES

log = logging.getLogger(__name__)
INCARNATION = "nodecore/incarnation"
DURATION, RENEW, RETRY = 15.0, 5.0, 2.0


def lease_duration(text: str) -> float:
    """Seconds, of --leader-elect-lease-duration; a Lease that would lapse between two renewals is refused."""
    seconds = parse_duration(text, what="--leader-elect-lease-duration")
    if seconds < 2 * RENEW:
        raise UserError(f"--leader-elect-lease-duration: {text} is too short: it is renewed every {RENEW:g} s")
    return seconds


class Election:
    """Our part in one election; `identity` is stable over restarts, for instance the host's name."""

    def __init__(self, client: KubeClient, name: str, identity: str, *, namespace: str = "kube-system",
                 duration: float = DURATION, renew: float = RENEW, retry: float = RETRY) -> None:
        self.client, self.name, self.identity, self.namespace = client, name, identity, namespace
        self.duration, self.renew, self.retry = duration, renew, retry
        self.incarnation = secrets.token_hex(8)
        self._seen: tuple[str, float] = ("", 0.0)

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        told = False
        while True:
            wait = self.retry
            try:
                lease = await self._read()
                if lease is None or self._free(lease):
                    await self._take(lease)
                    log.info("leading: %s is held by %s", self.name, self.identity)
                    return
                if not told:
                    log.info("standing by: %s is held by %s", self.name, lease["spec"].get("holderIdentity"))
                    told = True
            except (Conflict, AlreadyExists):
                wait = 0.2
            except Fault as error:
                log.debug("election of %s: %s", self.name, error)
                wait = 0.2
            await asyncio.sleep(wait)

    async def hold(self) -> None:
        """Renew for ever; raises `Conflict` when somebody else has it, `Unreachable` when the time ran out."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        try:
            while True:
                await asyncio.sleep(self.renew if renewed + self.renew > loop.time() else self.retry)
                try:
                    async with asyncio.timeout(self.duration / 3):
                        lease = await self._read()
                        if lease is None or self._ours(lease):
                            await self._take(lease)
                            renewed = loop.time()
                            continue
                except (Fault, TimeoutError) as error:
                    if loop.time() - renewed > self.duration * 0.6:
                        raise Unreachable(f"lease {self.name} could not be renewed in time: {error or 'no answer'}") from None
                    continue
                raise Conflict(f"lease {self.name} was taken by {lease['spec'].get('holderIdentity')}")
        finally:
            log.info("no longer leading: %s", self.name)

    async def release(self) -> None:
        """Give the lease back, so that the next need not wait."""
        try:
            lease = await self._read()
            if lease is not None and self._ours(lease):
                lease["spec"].update(holderIdentity="", renewTime=_now())
                await self.client.replace(LEASES, lease)
        except Fault as error:
            log.debug("lease %s not given back: %s", self.name, error)

    async def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self.client.get(LEASES, self.name, self.namespace)
        except NotFound:
            return None
        found.setdefault("spec", {})
        return found

    def _ours(self, lease: dict[str, Any]) -> bool:
        annotations = lease["metadata"].get("annotations") or {}
        same: bool = lease["spec"].get("holderIdentity") == self.identity
        return same and annotations.get(INCARNATION) == self.incarnation

    def _free(self, lease: dict[str, Any]) -> bool:
        holder = lease["spec"].get("holderIdentity")
        if not holder or holder == self.identity:
            return True
        now, version = asyncio.get_running_loop().time(), str(lease["metadata"].get("resourceVersion"))
        if self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] > float(lease["spec"].get("leaseDurationSeconds") or self.duration)

    async def _take(self, lease: dict[str, Any] | None) -> None:
        now = _now()
        body = lease or {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "spec": {},
                         "metadata": {"name": self.name, "namespace": self.namespace}}
        if not self._ours(body):
            before = int(body["spec"].get("leaseTransitions") or 0)
            body["spec"].update(acquireTime=now, leaseTransitions=before + 1 if lease else 0)
        body["metadata"].setdefault("annotations", {})[INCARNATION] = self.incarnation
        body["spec"].update(holderIdentity=self.identity, leaseDurationSeconds=max(1, round(self.duration)), renewTime=now)
        if lease is None:
            await self.client.create(LEASES, body, self.namespace)
        else:
            await self.client.replace(LEASES, body)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
