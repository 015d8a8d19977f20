"""New certificates for the keys there are: an authority's, those it has signed, those inside kubeconfigs.

    pki/ca.crt        renewed by its own key, if that is here: same name, same pin, what it has signed stays good
    pki/**/*.crt      those it has signed: same key, names and uses
    *.kubeconfig      the same for the client's certificate inside, and the authority's new certificate

Touches those files. Read next: `authority.py`, `minik8s/access/certs.py`, the command.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from minik8s.pki.authority import Authority, Identity, Pair
from minik8s.pki.own import put
from nodecore.errors import UserError

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate by its file's name, and when it ends."""

    name: str
    expires: datetime.datetime
    days: int
    signer: str


def kept(directory: Path) -> list[Kept]:
    """All certificates there, the next to expire first."""
    found = [_kept(str(path.relative_to(directory)), path.read_bytes()) for path in _files(directory)]
    found += [_kept(path.name, inside) for path in sorted(directory.glob("*.kubeconfig"))
              if (inside := _inside(_read(path))) is not None]
    if not found:
        raise UserError(f"--directory: {directory}: there are no certificates")
    return sorted(found, key=lambda each: each.expires)


def renew_all(directory: Path) -> None:
    """Renew the authority and all it has signed."""
    certificate, key = directory / "pki/ca.crt", directory / "pki/ca.key"
    if not certificate.exists() or not key.exists():
        raise UserError(f"--directory: {directory}: pki/ca.crt and pki/ca.key are not both there: renew where the authority is")
    old = x509.load_pem_x509_certificate(certificate.read_bytes())
    authority = Authority(Pair(certificate.read_bytes(), key.read_bytes())).renewed()
    put(certificate, authority.pair.certificate)
    for path in _files(directory):
        if path != certificate and (new := _again(path.read_bytes(), old, authority)):
            put(path, new)
    for path in sorted(directory.glob("*.kubeconfig")):
        document = _trusting(path, authority.pair.certificate)
        for user in _users(document):
            if new := _again(base64.b64decode(user["client-certificate-data"]), old, authority):
                user["client-certificate-data"] = base64.b64encode(new).decode()
        put(path, (json.dumps(document, indent=1) + "\n").encode())


def take_over(directory: Path, certificate: bytes) -> None:
    """Put an authority's new certificate in the place of its older one, in its file and in kubeconfigs."""
    put(directory / "pki/ca.crt", certificate)
    for path in sorted(directory.glob("*.kubeconfig")):
        put(path, (json.dumps(_trusting(path, certificate), indent=1) + "\n").encode())


def _trusting(path: Path, certificate: bytes) -> Object:
    """A kubeconfig that knows this certificate, where it knew another of the same key."""
    document, known = _read(path), x509.load_pem_x509_certificate(certificate)
    for cluster in document.get("clusters") or ():
        if _same_key(base64.b64decode(cluster["cluster"].get("certificate-authority-data") or ""), known):
            cluster["cluster"]["certificate-authority-data"] = base64.b64encode(certificate).decode()
    return document


def _files(directory: Path) -> list[Path]:
    return sorted((directory / "pki").rglob("*.crt"))


def _kept(name: str, pem: bytes) -> Kept:
    found, now = x509.load_pem_x509_certificate(pem), datetime.datetime.now(datetime.UTC)
    signer = found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    shown = "itself" if found.issuer == found.subject else str(signer[0].value) if signer else "?"
    return Kept(name, found.not_valid_after_utc, (found.not_valid_after_utc - now).days, shown)


def _read(path: Path) -> Object:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is no kubeconfig that this project has written") from None
    return found if isinstance(found, dict) else {}


def _users(document: Object) -> Iterator[Object]:
    for user in document.get("users") or ():
        if user["user"].get("client-certificate-data"):
            yield user["user"]


def _inside(document: Object) -> bytes | None:
    return next((base64.b64decode(user["client-certificate-data"]) for user in _users(document)), None)


def _same_key(pem: bytes, authority: x509.Certificate) -> bool:
    return bool(pem) and x509.load_pem_x509_certificate(pem).public_key() == authority.public_key()


def _again(pem: bytes, old: x509.Certificate, authority: Authority) -> bytes | None:
    """The same certificate with time anew; None for one of another authority."""
    found = x509.load_pem_x509_certificate(pem)
    try:
        found.verify_directly_issued_by(old)
    except (ValueError, TypeError, InvalidSignature):
        return None
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return None
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    with suppress(x509.ExtensionNotFound):
        uses = list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    lifetime = found.not_valid_after_utc - found.not_valid_before_utc
    return authority.sign(_identity(found), key, uses, lifetime)


def _identity(found: x509.Certificate) -> Identity:
    names: tuple[str, ...] = ()
    with suppress(x509.ExtensionNotFound):
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(each.value) for each in known if isinstance(each, x509.DNSName | x509.IPAddress))
    common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Identity(str(common[0].value) if common else "", tuple(str(each.value) for each in groups), names)
