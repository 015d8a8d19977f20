"""Where the API is and who we are: a kubeconfig file, or the ServiceAccount of a pod.

Reads the parts of `clientcmd/api/v1` Config an agent needs: server, CA, client certificate, token.
Read next: `nodecore/kube/client.py`.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nodecore.errors import UserError
from nodecore.files import read_bytes, read_document

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """One cluster and one identity; PEM texts, empty where not given."""

    server: str
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token_file: str = ""
    token: str = ""
    insecure: bool = False
    path: str = field(default="", compare=False)  # the kubeconfig
    files: tuple[str, ...] = field(default=(), compare=False)  # where all this was read: they may be renewed

    def renewed(self) -> KubeConfig:
        """The same server, with the credentials that the files have now."""
        fresh = load(self.path) if self.path else in_cluster() or self
        return replace(fresh, server=self.server)

    def bearer(self) -> str:
        """The bearer token now (a token file may be rotated), or an empty string."""
        if self.token_file:
            return read_bytes(self.token_file, "token file").decode().strip()
        return self.token

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings, or None for a plain http:// server."""
        if not self.server.startswith("https://"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        except (ssl.SSLError, ValueError):
            raise UserError("kubeconfig: certificate-authority has no certificate") from None
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on; many clusters' CAs have less than RFC 5280 asks
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            _load_certificate(context, self.certificate, self.key)
        return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """The ssl module only reads files: hand it one that nobody else can read, and drop it at once."""
    with tempfile.NamedTemporaryFile(mode="wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise UserError(f"kubeconfig: client certificate and key do not fit: {error.reason}") from None


def load(path: str = "") -> KubeConfig:
    """Read a kubeconfig's current context; without a path, `KUBECONFIG`, then the pod's ServiceAccount."""
    path = path or os.environ.get("KUBECONFIG", "")
    if path:
        return parse(_read(path), base=Path(path).parent, name=path)
    found = in_cluster()
    if not found:
        raise UserError("--kubeconfig: not given, KUBECONFIG is not set and this is not a pod")
    return found


CREDENTIALS = "use a client certificate or a token"
UNSUPPORTED = (
    ("user", CREDENTIALS, "exec"), ("user", CREDENTIALS, "auth-provider"), ("user", CREDENTIALS, "username"),
    ("user", "give the rights to the user itself", "as"),
    ("cluster", "name a server that is reached without", "proxy-url"),
    ("cluster", "name the server as its certificate does", "tls-server-name"),
)


def in_cluster() -> KubeConfig | None:
    """What a pod is given: the environment says where, the ServiceAccount who; None outside of one."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        return None
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    ca = str(SERVICE_ACCOUNT / "ca.crt")
    return KubeConfig(server, ca=read_bytes(ca), token_file=str(SERVICE_ACCOUNT / "token"), files=(ca,))


def _read(path: str) -> dict[str, Any]:
    document = read_document(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a kubeconfig")
    return document


def parse(document: dict[str, Any], *, base: Path, name: str) -> KubeConfig:
    """Resolve the current context of a kubeconfig document; file names are relative to `base`."""
    context = _named(document, "contexts", "context", document.get("current-context", ""), name)
    cluster = _named(document, "clusters", "cluster", context.get("cluster", ""), name)
    user = _named(document, "users", "user", context["user"], name) if context.get("user") else {}
    for section, what, unsupported in UNSUPPORTED:
        if (user if section == "user" else cluster).get(unsupported) not in ("", None):
            raise UserError(f"{name}: {section}.{unsupported} is not supported; {what}")
    return KubeConfig(
        server=str(cluster.get("server", "")).rstrip("/"),
        ca=_inline(cluster, "certificate-authority", base, name),
        certificate=_inline(user, "client-certificate", base, name),
        key=_inline(user, "client-key", base, name),
        token=user.get("token", ""),
        token_file=str(base / user["tokenFile"]) if user.get("tokenFile") else "",
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        path=name, files=(name, *(str(base / section[key]) for section, key in (
            (cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key")) if section.get(key))),
    )


def _named(document: dict[str, Any], group: str, key: str, wanted: str, name: str) -> dict[str, Any]:
    for entry in document.get(group) or []:
        if entry.get("name") == wanted:
            return dict(entry.get(key) or {})
    raise UserError(f"{name}: {group} has no entry called {wanted!r}")


def _inline(section: dict[str, Any], key: str, base: Path, name: str) -> bytes:
    data = section.get(f"{key}-data", "")
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"{name}: {key}-data is not base64") from None
    if not section.get(key):
        return b""
    if read := read_bytes(str(base / section[key])):
        return read
    raise UserError(f"{base / section[key]}: is empty")  # no authority named would be those of the machine
