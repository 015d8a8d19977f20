"""Who asks: by client certificate, static token, bootstrap token or ServiceAccount token; and on whose behalf.

The certificate was checked against --client-ca-file by TLS itself. Must not know: what anybody may do.
Read next: `accounts.py`, `impersonation.py`, `access.py`.
"""

from __future__ import annotations

import csv
import hmac
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from minik8s.apiserver.auth.accounts import Accounts, looks_like
from minik8s.apiserver.auth.authorize import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.status import Refused
from nodecore.errors import Invalid, UserError

NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))
BOOTSTRAP = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
BOOTSTRAP_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")
BOOTSTRAPPERS = "system:bootstrappers"


class Authenticator:
    """Recognises users; `tokens` are those of the static token file."""

    def __init__(self, cluster: Cluster, accounts: Accounts, tokens: Mapping[str, User], *, anonymous: bool = True) -> None:
        self._cluster, self.accounts, self._tokens, self._anonymous = cluster, accounts, tokens, anonymous

    async def user(self, certificate: Mapping[str, Any] | None, header: str) -> User:
        """Who this is; 401 for credentials that are wrong."""
        if certificate and (found := _of_subject(certificate.get("subject", ()))):
            return found
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return (await self.whose(token.strip()))[0]
        elif self._anonymous:
            return NOBODY
        raise Refused(401, "Unauthorized")

    async def whose(self, token: str, audiences: tuple[str, ...] = ()) -> tuple[User, tuple[str, ...]]:
        """Whose token this is, and the audiences of those asked for that it is good for; 401 for a wrong one."""
        for known, user in self._tokens.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return user, self._ours(audiences)
        if match := BOOTSTRAP.fullmatch(token):
            return await self._bootstrap(*match.groups()), self._ours(audiences)
        if looks_like(token):
            try:
                return await self.accounts.whose(token, audiences)
            except Invalid as invalid:
                raise Refused(401, "Unauthorized") from invalid
        raise Refused(401, "Unauthorized")

    def _ours(self, audiences: tuple[str, ...]) -> tuple[str, ...]:
        """Tokens that name no audience are for this server only."""
        try:
            return self.accounts.ours(audiences) if audiences else ()
        except Invalid as invalid:
            raise Refused(401, "Unauthorized") from invalid

    async def _bootstrap(self, token_id: str, secret: str) -> User:
        kind = BY_PLURAL["secrets"]
        cache = self._cluster.cache(kind)
        await cache.ready()
        entry = cache.get(kind.key("kube-system", f"bootstrap-token-{token_id}"))
        if entry is None or entry.object.get("type") != "bootstrap.kubernetes.io/token":
            raise Refused(401, "Unauthorized")
        data = {key: b64decode(value).decode(errors="replace") for key, value in (entry.object.get("data") or {}).items()}
        good = hmac.compare_digest(data.get("token-secret", "").encode(), secret.encode()) and data.get("token-id") == token_id
        if not good or data.get("usage-bootstrap-authentication") != "true" or _past(data.get("expiration", "")):
            raise Refused(401, "Unauthorized")
        groups = [each for each in data.get("auth-extra-groups", "").split(",") if BOOTSTRAP_GROUP.fullmatch(each)]
        return User(f"system:bootstrap:{token_id}", (BOOTSTRAPPERS, *groups, AUTHENTICATED))


@lru_cache(4096)
def _of_subject(subject: tuple[tuple[tuple[str, str], ...], ...]) -> User | None:
    """The user a certificate's subject names: common name, and organizations as groups."""
    pairs = [pair for group in subject for pair in group]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = [value for key, value in pairs if key == "organizationName"]
    return User(name, (*groups, AUTHENTICATED)) if name else None


def _past(stamp: str) -> bool:
    if not stamp:
        return False
    try:
        return datetime.fromisoformat(stamp.replace("Z", "+00:00")) <= datetime.now(UTC)
    except (ValueError, TypeError):
        return True


def read_tokens(path: str) -> dict[str, User]:
    """Read a static token file: token,user,uid[,"group1,group2"] in each line."""
    if not path:
        return {}
    try:
        lines = list(csv.reader(Path(path).read_text().splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--token-auth-file: {path}: {getattr(error, 'strerror', None) or error}") from None
    found: dict[str, User] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if len(line) < 3 or not line[0].strip():
            raise UserError(f"--token-auth-file: {path}: line {number} is not token,user,uid[,groups]")
        groups = [group.strip() for group in line[3].split(",")] if len(line) > 3 else []
        found[line[0].strip()] = User(line[1].strip(), (*groups, AUTHENTICATED), line[2].strip())
    return found
