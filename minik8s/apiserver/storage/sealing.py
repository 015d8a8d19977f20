"""Encryption at rest as values: which keys are sealed, with which key, and Kubernetes' EncryptionConfiguration that says so.

    k8s:enc:aesgcm:v1:NAME:  nonce  ciphertext          AES-GCM, the etcd key as associated data: what the original writes

The first provider of a resource seals, each of them opens. What was not sealed by the first one gets a blank at its end: to JSON
it is nothing, but the next write, even of the same, differs and is stored anew. That is how keys are changed.
Must not know: etcd. Read next: `sealed.py`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minik8s.apiserver.kinds.catalogue import KINDS
from nodecore.errors import Invalid, UserError
from nodecore.files import read_document

FLAG = "--encryption-provider-config"
MARK = b"k8s:enc:aesgcm:v1:"
NONCE = 12
STALE = b" "
OWN_SECRETS = "/minik8s/"  # where `auth/accounts.py` keeps its key
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Provider:
    """A key by its name; without a key, values stay as they are."""

    name: str = ""
    cipher: Any = None


@dataclass(frozen=True, slots=True)
class Sealing:
    """Providers by prefix of etcd's keys; the first prefix that fits counts."""

    rules: tuple[tuple[str, tuple[Provider, ...]], ...] = ()

    def of(self, key: str) -> tuple[Provider, ...]:
        """The providers of a key."""
        return next((providers for prefix, providers in self.rules if key.startswith(prefix)), ())

    def seal(self, key: str, value: bytes) -> bytes:
        """A value as it is to be stored."""
        providers = self.of(key)
        if not providers or providers[0].cipher is None:
            return value
        nonce = os.urandom(NONCE)
        sealed: bytes = providers[0].cipher.encrypt(nonce, value, key.encode())
        return MARK + providers[0].name.encode() + b":" + nonce + sealed

    def open(self, key: str, value: bytes) -> bytes:
        """A stored value as it was before; Invalid when no key opens it."""
        providers = self.of(key)
        if not value.startswith(MARK):
            return value + STALE if providers and providers[0].cipher is not None and value else value
        name, _, sealed = value[len(MARK):].partition(b":")
        for index, provider in enumerate(providers):
            if provider.cipher is not None and provider.name.encode() == name:
                return bytes(_opened(provider, key, sealed)) + (STALE if index else b"")
        shown = name[:50].decode(errors="replace")
        raise Invalid(f"{key} in etcd is sealed with a key called {shown!r}, which {FLAG} does not have")


def _opened(provider: Provider, key: str, sealed: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(provider.cipher.decrypt(sealed[:NONCE], sealed[NONCE:], key.encode()))
    except (InvalidTag, ValueError):
        raise Invalid(f"{key} in etcd is not what was sealed with the key {provider.name!r}") from None


def read_sealing(path: str) -> Sealing:
    """The configuration file's meaning; UserError for what is wrong or not supported."""
    if not path:
        return Sealing()
    document = read_document(path, FLAG)
    if not isinstance(document, dict) or document.get("kind") != "EncryptionConfiguration":
        raise UserError(f"{FLAG}: {path} is no EncryptionConfiguration")
    rules: list[tuple[str, tuple[Provider, ...]]] = []
    for each in document.get("resources") or ():
        providers = tuple(_providers(each.get("providers") or (), path))
        if not providers:
            raise UserError(f"{FLAG}: {path}: a resource without providers")
        rules += [(prefix, providers) for name in each.get("resources") or () for prefix in _prefixes(str(name))]
    return Sealing(tuple(rules))


def _providers(listed: Iterable[Object], path: str) -> Iterable[Provider]:
    for each in listed:
        ((sort, config),) = each.items()
        if sort == "identity":
            yield Provider()
        elif sort == "aesgcm":
            for key in (config or {}).get("keys") or ():
                yield Provider(str(key.get("name")), _cipher(key, path))
        else:
            raise UserError(f"{FLAG}: {path}: provider {sort!r} is not supported; supported: aesgcm, identity")


def _cipher(key: Object, path: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    name = str(key.get("name") or "")
    if not name or ":" in name:
        raise UserError(f"{FLAG}: {path}: a key's name {name!r} must be there and without ':'")
    try:
        return AESGCM(base64.b64decode(str(key.get("secret") or ""), validate=True))
    except (binascii.Error, ValueError):
        raise UserError(f"{FLAG}: {path}: key {name!r}: its secret is not 16, 24 or 32 bytes in base64") from None


def _prefixes(name: str) -> Iterable[str]:
    """Where objects of a resource such as `secrets`, `deployments.apps` or `*.*` are."""
    if name in ("*.*", "*."):
        return ["/registry/", OWN_SECRETS]
    plural, _, group = name.partition(".")
    found = {kind.prefix for kind in KINDS if kind.resource.plural == plural and kind.resource.group == group}
    found |= {OWN_SECRETS} if name == "secrets" else set()
    return sorted(found) or [f"/registry/{group}/{plural}/"]
