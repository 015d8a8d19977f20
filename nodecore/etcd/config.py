"""Where etcd is and who we are: endpoints, TLS files, user; wrong texts become `UserError` here.

An endpoint is `http://HOST:PORT`, `https://HOST:PORT` or `HOST:PORT` (TLS when a CA or certificate is given), as
etcd's own clients read it. Must not know: gRPC. Read next: `nodecore/etcd/connection.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from nodecore.errors import UserError
from nodecore.files import read_bytes


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """The endpoints of one cluster and one identity; `ca`, `cert`, `key` are paths of PEM files."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise UserError("etcd: no endpoint given")
        if bool(self.cert) != bool(self.key):
            raise UserError(f"etcd: a client certificate and its key go together, but only {self.cert or self.key!r} is given")

    def targets(self) -> tuple[Target, ...]:
        """The endpoints, read; raises `UserError` for the first that cannot be."""
        return tuple(parse_endpoint(text, tls=bool(self.ca or self.cert)) for text in self.endpoints)

    def pem(self) -> Pem:
        """The TLS files' contents; raises `UserError` naming the file that cannot be read."""
        return Pem(*(read_bytes(path, "etcd TLS file") if path else None for path in (self.ca, self.key, self.cert)))


@dataclass(frozen=True, slots=True)
class Target:
    """One member's address, `host:port`, and whether to speak TLS to it."""

    address: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM texts, None where not given."""

    ca: bytes | None
    key: bytes | None
    cert: bytes | None


def parse_endpoints(text: str, *, what: str = "etcd endpoint") -> tuple[str, ...]:
    """Split a comma-separated flag value, checking each endpoint; `what` names the flag in the error."""
    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    if not endpoints:
        raise UserError(f"{what}: no endpoint given")
    for endpoint in endpoints:
        parse_endpoint(endpoint, what=what)
    return endpoints


def parse_endpoint(text: str, *, tls: bool = False, what: str = "etcd endpoint") -> Target:
    """Read one endpoint; without a scheme, `tls` decides."""
    url = text if "://" in text else ("https://" if tls else "http://") + text
    wrong = UserError(f"{what}: {text!r} is not of the form http://HOST:PORT or https://HOST:PORT")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or not port or parts.path.strip("/") or parts.query or parts.username:
        raise wrong
    return Target(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https")
