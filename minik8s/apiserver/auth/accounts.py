"""ServiceAccount tokens: issued (TokenRequest), recognised, and void once what they are bound to is gone.

The keys are given by flags, or made once for the whole cluster and kept in etcd, where every API server finds them.
Must not know: HTTP. Read next: `jwt.py`, `authenticate.py`; `verbs/tokens.py` for TokenRequest.
"""

from __future__ import annotations

import hmac
import time
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from minik8s.apiserver.auth import jwt
from minik8s.apiserver.auth.authorize import AUTHENTICATED, User, account, account_groups
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from nodecore.errors import Invalid, NotFound
from nodecore.etcd.client import Get, Put, absent
from nodecore.files import read_bytes

Object = dict[str, Any]
KEPT_AT = "/minik8s/service-account-key"
PLACE = "kubernetes.io"
LEGACY, OLD = "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/"
EXTRA = "authentication.kubernetes.io/"
REMEMBERED = 5000
SKEW = 10.0


@dataclass(frozen=True, slots=True)
class Issuing:
    """The flags about ServiceAccount tokens; without files the cluster's own key is used."""

    issuer: str = "https://kubernetes.default.svc.cluster.local"
    audiences: tuple[str, ...] = ()
    signing_file: str = ""
    key_files: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """The audiences this server answers for."""
        return self.audiences or (self.issuer,)


@dataclass(slots=True)
class _Keys:
    private: Any
    public: list[jwt.Key] = field(default_factory=list)


class Accounts:
    """Issues and recognises the tokens of one cluster."""

    def __init__(self, cluster: Cluster, issuing: Issuing) -> None:
        self._cluster, self.issuing = cluster, issuing
        self._keys: _Keys | None = None
        self._verified: dict[str, Object] = {}

    async def keys(self) -> list[jwt.Key]:
        """The public keys tokens may be signed with."""
        return (await self._loaded()).public

    async def _loaded(self) -> _Keys:
        if self._keys is None:
            pem = read_bytes(self.issuing.signing_file, "--service-account-signing-key-file") if self.issuing.signing_file \
                else await self._shared_key()
            private = jwt.load_private(pem, "--service-account-signing-key-file")
            public = [jwt.key_of(private.public_key(), "")]
            for path in self.issuing.key_files:
                key = jwt.public_key(read_bytes(path, "--service-account-key-file"), f"--service-account-key-file: {path}")
                public += [key] if key.name not in {each.name for each in public} else []
            self._keys = _Keys(private, public)
        return self._keys

    async def _shared_key(self) -> bytes:
        """The cluster's key in etcd; whoever comes first makes it."""
        there = await self._cluster.etcd.get(KEPT_AT)
        if there is None:
            done = await self._cluster.etcd.txn([absent(KEPT_AT)], [Put(KEPT_AT, jwt.make_key())], [Get(KEPT_AT)])
            there = await self._cluster.etcd.get(KEPT_AT) if done.succeeded else next(iter(done.responses[0].items), None)
        if there is None:
            raise NotFound(f"{KEPT_AT} in etcd")
        return there.value

    async def issue(self, owner: Object, audiences: tuple[str, ...], seconds: int, *bound: Object) -> str:
        """A token for a ServiceAccount, bound to other objects as well if some are given."""
        meta, now = owner["metadata"], int(time.time())
        private: Object = {"namespace": meta["namespace"], "serviceaccount": {"name": meta["name"], "uid": meta["uid"]}}
        for each in bound:
            private[each["kind"].lower()] = {"name": each["metadata"]["name"], "uid": each["metadata"]["uid"]}
        claims: Object = {
            "aud": list(audiences or self.issuing.own), "exp": now + seconds, "iat": now, "iss": self.issuing.issuer,
            "jti": str(uuid.uuid4()), PLACE: private, "nbf": now, "sub": account(meta["namespace"], meta["name"])}
        return jwt.sign(claims, (await self._loaded()).private)

    async def whose(self, token: str, audiences: tuple[str, ...] = ()) -> tuple[User, tuple[str, ...]]:
        """Whose token this is and for which of the audiences it is good; Invalid for one that is not good any more."""
        claims = self._verified.get(token)
        if claims is None:
            claims = jwt.verify(token, await self.keys())
            if len(self._verified) >= REMEMBERED:
                self._verified.clear()
            self._verified[token] = claims
        if claims.get("iss") == LEGACY:
            return await self._of_secret(token, claims), self.ours(audiences)
        good = tuple(each for each in audiences or self.issuing.own if each in _audiences(claims))
        if claims.get("iss") != self.issuing.issuer or not good:
            raise Invalid("the token is for somebody else")
        now = time.time()
        if not _number(claims.get("exp")) > now or _number(claims.get("nbf")) > now + SKEW:
            raise Invalid("the token has expired")
        return await self._user(claims), good

    def ours(self, audiences: tuple[str, ...]) -> tuple[str, ...]:
        """For whom a token is good that names nobody: for this server."""
        good = tuple(each for each in audiences or self.issuing.own if each in self.issuing.own)
        if not good:
            raise Invalid("the token is for somebody else")
        return good

    async def _of_secret(self, token: str, claims: Object) -> User:
        """The user of a token as kube-controller-manager writes it into a Secret: good as long as it stands there."""
        namespace, secret, name, uid = (str(claims.get(f"{OLD}{part}") or "") for part in (
            "namespace", "secret.name", "service-account.name", "service-account.uid"))
        if not (namespace and secret and name) or claims.get("sub") != account(namespace, name):
            raise Invalid("not a ServiceAccount's token")
        await self._alive("serviceaccounts", namespace, name, uid)
        kept = await self._there("secrets", namespace, secret)
        held = (kept.get("data") or {}).get("token", "")
        if kept["metadata"].get("deletionTimestamp") or not hmac.compare_digest(held.encode(), b64encode(token.encode())):
            raise Invalid(f"the token is not that of the secret {secret!r}")
        return User(account(namespace, name), (*account_groups(namespace), AUTHENTICATED), uid)

    async def _user(self, claims: Object) -> User:
        place = claims.get(PLACE)
        if not isinstance(place, dict) or not isinstance(place.get("namespace"), str):
            raise Invalid("not a ServiceAccount's token")
        namespace, owner = place["namespace"], _reference(place.get("serviceaccount"))
        if owner is None or claims.get("sub") != account(namespace, owner[0]):
            raise Invalid("not a ServiceAccount's token")
        await self._alive("serviceaccounts", namespace, *owner)
        extra = [(f"{EXTRA}credential-id", (f"JTI={claims.get('jti')}",))]
        for name, plural in (("pod", "pods"), ("secret", "secrets"), ("node", "nodes")):
            bound = _reference(place.get(name))
            if bound:
                if name != "node" or not place.get("pod"):
                    await self._alive(plural, "" if name == "node" else namespace, *bound)
                if name != "secret":
                    extra += [(f"{EXTRA}{name}-name", (bound[0],)), (f"{EXTRA}{name}-uid", (bound[1],))]
        return User(account(namespace, owner[0]), (*account_groups(namespace), AUTHENTICATED), owner[1], tuple(extra))

    async def _alive(self, plural: str, namespace: str, name: str, uid: str) -> None:
        """Raise Invalid unless the object is there and is the same one."""
        if (await self._there(plural, namespace, name))["metadata"].get("uid") != uid:
            raise Invalid(f"the token is bound to another {plural} {name!r}")

    async def _there(self, plural: str, namespace: str, name: str) -> Object:
        """An object a token is bound to; what the cache does not know yet, etcd may."""
        kind = BY_PLURAL[plural]
        cache = self._cluster.cache(kind)
        await cache.ready()
        entry = cache.get(kind.key(namespace, name))
        try:
            return entry.object if entry else await self._cluster.storage.get(kind.key(namespace, name))
        except NotFound:
            raise Invalid(f"the token is bound to {plural} {name!r}, which is gone") from None


def looks_like(token: str) -> bool:
    """Whether a token may be one of ours."""
    return token.count(".") == 2


def _audiences(claims: Object) -> tuple[str, ...]:
    found = claims.get("aud")
    return tuple(map(str, found)) if isinstance(found, list) else (str(found),)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _reference(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict) or not value.get("name"):
        return None
    return str(value["name"]), str(value.get("uid", ""))
