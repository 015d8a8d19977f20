"""Who asks: the subject of a verified client certificate, or a token of the static token file.

The certificate was checked against --client-ca-file by TLS itself. Must not know: what anybody may do.
Read next: `authorize.py`.
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minik8s.apiserver.auth.authorize import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from minik8s.apiserver.request.status import Refused
from nodecore.errors import UserError

NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))


def by_certificate(certificate: Mapping[str, Any] | None) -> User | None:
    """The user a client certificate names: common name, and organizations as groups."""
    pairs = [pair for group in (certificate or {}).get("subject", ()) for pair in group]
    name = next((value for key, value in pairs if key == "commonName"), "")
    if not name:
        return None
    groups = [value for key, value in pairs if key == "organizationName"]
    return User(name, (*groups, AUTHENTICATED))


def by_token(header: str, tokens: Mapping[str, User]) -> User | None:
    """The user of an Authorization header; 401 for one that is wrong."""
    if not header:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() == "bearer":
        for known, user in tokens.items():
            if hmac.compare_digest(known.encode(), token.strip().encode()):
                return user
    raise Refused(401, "Unauthorized")


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
