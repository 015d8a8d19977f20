"""A cluster's certificate authority: made once, signs what it is told to.

Elliptic keys: a dozen of them take a tenth of a second. `cryptography` is heavy: import this where it is needed.
Must not know: who may have a certificate. Read next: `requests.py`, `minik8s/lab/files.py`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodecore.errors import UserError

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
NAME = "flanneld-py"
LIFETIME = datetime.timedelta(days=3650)
BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate names: its subject, and the names and addresses it may serve (none: a client)."""

    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority: made new, or read back from PEM."""

    def __init__(self, pair: Pair | None = None) -> None:
        if pair:
            loaded = serialization.load_pem_private_key(pair.key, None)
            if not isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
                raise UserError("the authority's key is neither RSA nor elliptic")
            self._key: SigningKey = loaded
            self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = _of_itself(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]), self._key, LIFETIME)

    @property
    def pair(self) -> Pair:
        """The authority's own certificate and key."""
        return Pair(_pem(self._certificate), _key_pem(self._key))

    def renewed(self, lifetime: datetime.timedelta = LIFETIME) -> Authority:
        """The same authority, key and name, with a certificate that lasts anew.

        What it has signed is good under both, who knows only the old one trusts what it signs now, and its pin stays.
        """
        certificate = _of_itself(self._certificate.subject, self._key, lifetime)
        return Authority(Pair(_pem(certificate), _key_pem(self._key)))

    def issue(self, identity: Identity, lifetime: datetime.timedelta = LIFETIME) -> Pair:
        """A new key and a certificate for it, good as a client and, with names, as a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH] + [ExtendedKeyUsageOID.SERVER_AUTH] * bool(identity.names)
        return Pair(self.sign(identity, key.public_key(), uses, lifetime), _key_pem(key))

    def sign(self, identity: Identity, key: PublicKey, uses: list[x509.ObjectIdentifier], lifetime: datetime.timedelta) -> bytes:
        """A certificate for somebody else's key."""
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in identity.organizations]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name))
        builder = _builder(x509.Name(subject), self._certificate.subject, key, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if identity.names:
            names = [general(name) for name in identity.names]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))


def _of_itself(name: x509.Name, key: SigningKey, lifetime: datetime.timedelta) -> x509.Certificate:
    builder = _builder(name, name, key.public_key(), lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: PublicKey, lifetime: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - BACKDATED).not_valid_after(now + lifetime)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs_certificates, crl_sign=signs_certificates, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )


def general(name: str) -> x509.GeneralName:
    """An address or a host's name, as a certificate has it."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
