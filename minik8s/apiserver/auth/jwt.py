"""JSON Web Tokens as ServiceAccounts have them: signed with ES256, read with ES256 or RS256, and keys as a JWKS.

Values in, values out; the clock is handed in. `cryptography` is heavy and loaded at the first use.
Must not know: what a claim means. Read next: `accounts.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from nodecore.errors import Invalid, UserError

Object = dict[str, Any]
LONGEST = 16 * 1024
HALF = 32  # bytes of each number in an ES256 signature


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that tokens may be signed with, and its name."""

    name: str
    algorithm: str
    public: Any


def make_key() -> bytes:
    """A new private key as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_private(pem: bytes, what: str) -> Any:
    """A private key; UserError naming `what` when it cannot sign."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what}: no private key: {error}") from None
    if isinstance(key, rsa.RSAPrivateKey) or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"):
        return key
    raise UserError(f"{what}: neither an RSA nor a P-256 key")


def public_key(pem: bytes, what: str) -> Key:
    """The public key of a PEM file, which may hold a private one."""
    from cryptography.hazmat.primitives import serialization

    try:
        return key_of(serialization.load_pem_public_key(pem), what)
    except ValueError:
        return key_of(load_private(pem, what).public_key(), what)


def key_of(public: Any, what: str) -> Key:
    """A public key, named by the hash of itself as the original does."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = encode(hashlib.sha256(der).digest())
    if isinstance(public, rsa.RSAPublicKey):
        return Key(name, "RS256", public)
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1":
        return Key(name, "ES256", public)
    raise UserError(f"{what}: neither an RSA nor a P-256 key")


def sign(claims: Object, private: Any) -> str:
    """A signed token."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    key = key_of(private.public_key(), "key")
    head = encode(msgspec.json.encode({"alg": key.algorithm, "kid": key.name, "typ": "JWT"}))
    text = f"{head}.{encode(msgspec.json.encode(claims))}"
    if key.algorithm == "RS256":
        return f"{text}.{encode(private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
    first, second = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encode(first.to_bytes(HALF, 'big') + second.to_bytes(HALF, 'big'))}"


def verify(token: str, keys: Iterable[Key]) -> Object:
    """The claims of a token that one of the keys signed; Invalid otherwise. Times are not looked at."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > LONGEST:
        raise Invalid("not a token")
    head, claims, signature = _object(parts[0]), parts[1], decode(parts[2])
    for key in keys:
        if head.get("alg") == key.algorithm and head.get("kid") in (None, key.name) \
                and _signed(key, f"{parts[0]}.{parts[1]}".encode(), signature):
            return _object(claims)
    raise Invalid("signed by no key known here")


def _signed(key: Key, text: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    try:
        if key.algorithm == "RS256":
            key.public.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
            return True
        if len(signature) != 2 * HALF:
            return False
        numbers = (int.from_bytes(part, "big") for part in (signature[:HALF], signature[HALF:]))
        key.public.verify(encode_dss_signature(*numbers), text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def jwks(keys: Iterable[Key]) -> Object:
    """The keys as a JSON Web Key Set."""
    return {"keys": [{"use": "sig", "kid": key.name, "alg": key.algorithm, **_numbers(key)} for key in keys]}


def _numbers(key: Key) -> Object:
    numbers = key.public.public_numbers()
    if key.algorithm == "RS256":
        def plain(number: int) -> str:
            return encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        return {"kty": "RSA", "n": plain(numbers.n), "e": plain(numbers.e)}
    return {"kty": "EC", "crv": "P-256", "x": encode(numbers.x.to_bytes(HALF, "big")),
            "y": encode(numbers.y.to_bytes(HALF, "big"))}


def encode(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Back again; Invalid when it is none."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("not a token") from None


def _object(part: str) -> Object:
    try:
        found = msgspec.json.decode(decode(part))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("not a token") from None
    if not isinstance(found, dict):
        raise Invalid("not a token")
    return found
