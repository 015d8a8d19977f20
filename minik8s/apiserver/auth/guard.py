"""The door: who asks, on whose behalf, and whether they may; what the rim of the server calls for each request.

Must not know: HTTP's machinery, what is behind the door. Read next: `authenticate.py`, `access.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.accounts import Accounts, Issuing
from minik8s.apiserver.auth.authenticate import Authenticator
from minik8s.apiserver.auth.authorize import Attributes, User
from minik8s.apiserver.auth.impersonation import acting
from minik8s.apiserver.auth.questions import OPEN_PATHS, forbidden, open_to_all
from minik8s.apiserver.cluster import Cluster

PATIENCE = 5.0


class Guard:
    """Keeps the door of one server."""

    def __init__(self, cluster: Cluster, issuing: Issuing, tokens: Mapping[str, User], *, anonymous: bool) -> None:
        self.access, self.accounts = Access(cluster), Accounts(cluster, issuing)
        self.settled = asyncio.Event()
        self.authenticator = Authenticator(cluster, self.accounts, tokens, anonymous=anonymous)

    async def user(self, certificate: Mapping[str, Any] | None, headers: Mapping[str, str]) -> User:
        """Who asks, or whom they act as."""
        user = await self.authenticator.user(certificate, headers.get("Authorization", ""))
        if any(name.lower().startswith("impersonate-") for name in headers):
            await self.access.ready()
            return acting(user, headers, list(headers.items()), self.access)
        return user

    async def permit(self, user: User, asked: Attributes) -> None:
        """Raise the refusal of what may not be."""
        if not self.access.synced:
            if asked.path in OPEN_PATHS:
                return
            await self.access.ready()
        if not (user.known or open_to_all(asked)):
            raise forbidden(user, asked)
        if not self.access.allows(user, asked):
            await self._settling()
            if not self.access.allows(user, asked):
                raise forbidden(user, asked)

    async def _settling(self) -> None:
        """Where this server has only just begun, the roles that allow something may still be in the making."""
        if not self.settled.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.settled.wait(), PATIENCE)
