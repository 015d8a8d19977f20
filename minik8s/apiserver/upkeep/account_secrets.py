"""Fills Secrets of the type `kubernetes.io/service-account-token`: a token that lasts, for whoever cannot ask for new ones.

The Secret names its ServiceAccount in an annotation; the token is bound to both, and void when one of them goes. A Secret whose
ServiceAccount is not there waits for it. Must not know: HTTP. Read next: `changes.py`, `../auth/accounts.py`.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from minik8s.apiserver.admission.asked import every
from minik8s.apiserver.auth.accounts import Accounts
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.upkeep.changes import after_every_change
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
TYPE = "kubernetes.io/service-account-token"
NAME, UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
YEARS = 10 * 365 * 24 * 3600
REST = 0.2


class AccountSecrets:
    """Makes the tokens; `certificate` is the CA's, as PEM."""

    def __init__(self, cluster: Cluster, accounts: Accounts, certificate: str) -> None:
        self._cluster, self._accounts, self._writer = cluster, accounts, Writer(cluster)
        self._fixed = {"ca.crt": b64encode(certificate.encode()).decode()} if certificate else {}

    async def run(self) -> None:
        """After every change of a Secret or a ServiceAccount, for ever."""
        await after_every_change(self._cluster, ("secrets", "serviceaccounts"), self.fill, what="tokens of accounts", rest=REST)

    async def fill(self) -> None:
        """Fill those that are empty."""
        kind = BY_PLURAL["serviceaccounts"]
        for secret in every(self._cluster, "secrets"):
            if secret.get("type") != TYPE or (secret.get("data") or {}).get("token"):
                continue
            meta = secret["metadata"]
            name = (meta.get("annotations") or {}).get(NAME, "")
            owner = self._cluster.cache(kind).get(kind.key(meta["namespace"], name))
            if owner and not meta.get("deletionTimestamp"):
                await self._fill(secret, owner.object)

    async def _fill(self, secret: Object, owner: Object) -> None:
        meta, uid = secret["metadata"], owner["metadata"]["uid"]
        token = await self._accounts.issue(owner, (), YEARS, {**secret, "kind": "Secret"})
        data = {**self._fixed, "namespace": b64encode(meta["namespace"].encode()).decode(),
                "token": b64encode(token.encode()).decode()}

        def filled(there: Object) -> Object:
            annotations = {**(there["metadata"].get("annotations") or {}), UID: uid}
            return {**there, "metadata": {**there["metadata"], "annotations": annotations},
                    "data": {**data, **(there.get("data") or {})}}

        await self._writer.alter(BY_PLURAL["secrets"], meta["namespace"], meta["name"], filled)
