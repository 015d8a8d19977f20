"""Approves what kubelets may ask for by themselves, and signs what is approved, with the cluster's authority.

    kube-apiserver-client-kubelet    approved for those who may create .../nodeclient (who joins) or .../selfnodeclient
    kubelet-serving                  approved for a node of that name, for the addresses its object has and nobody else
    kube-apiserver-client            approved by people only

What no signer here may sign gets a condition Failed. Read next: `minik8s/pki/requests.py`.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
from dataclasses import dataclass
from itertools import chain
from typing import Any

from minik8s.apiserver.admission.asked import every, found
from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import NODE_PREFIX, Attributes, User
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.call import now
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Fault, Invalid
from nodecore.files import read_bytes
from nodecore.net import read_address

log = logging.getLogger(__name__)
Object = dict[str, Any]
GROUP = "certificates.k8s.io"
SIGNERS = frozenset({f"kubernetes.io/{name}" for name in
                     ("kube-apiserver-client-kubelet", "kubelet-serving", "kube-apiserver-client")})
SHORTEST = 600
OURS = frozenset({"localhost", "kubernetes", "kubernetes.default"})


@dataclass(frozen=True, slots=True)
class Signing:
    """The flags: the authority's files, and how long what it signs is good at most."""

    certificate: str
    key: str
    seconds: float


class Signer:
    """Follows the requests of a cluster."""

    def __init__(self, cluster: Cluster, access: Access, signing: Signing) -> None:
        self._cluster, self._access, self._signing = cluster, access, signing
        self._writer, self._cache = Writer(cluster), cluster.cache(BY_PLURAL["certificatesigningrequests"])

    async def run(self) -> None:
        """After every change of a request, look what there is to do; without an authority nothing is ever done."""
        cache = self._cache
        await cache.ready()
        await self._access.ready()
        seen = -1
        while self._signing.key:
            if cache.window.end == seen:
                await cache.changed()
                continue
            seen = cache.window.end
            for entry in cache.snapshot().entries:
                try:
                    await self._one(entry.object)
                except Fault as fault:
                    log.warning("certificate request %s: %s", entry.key.rpartition("/")[2], fault)
        await asyncio.Event().wait()

    async def _one(self, obj: Object) -> None:
        status, signer = obj.get("status") or {}, (obj.get("spec") or {}).get("signerName")
        types = {each.get("type") for each in status.get("conditions") or ()}
        if signer not in SIGNERS or status.get("certificate") or types & {"Denied", "Failed"}:
            return
        from minik8s.pki import requests

        try:
            request = requests.read(base64.b64decode(obj["spec"].get("request") or ""))
        except (Invalid, ValueError) as error:
            return await self._write(obj, "Failed", "SignerValidationFailure", str(error))
        if why := requests.wrong(signer, request, obj["spec"].get("usages") or []):
            return await self._write(obj, "Failed", "SignerValidationFailure", why)
        if "Approved" in types:
            return await self._write(obj, certificate=self._sign(signer, request, obj["spec"]))
        if self._by_itself(obj, signer, request):
            await self._write(obj, "Approved", "AutoApproved", "Auto approving a kubelet's certificate: it has the right to one.")

    def _by_itself(self, obj: Object, signer: str, request: Any) -> bool:
        """Whether nobody has to be asked."""
        spec = obj["spec"]
        user = User(spec.get("username", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
        name = request.identity.common_name
        if signer.endswith("-kubelet"):
            subs = ["nodeclient", *(["selfnodeclient"] if user.name == name else [])]
            asked = [Attributes("create", GROUP, f"certificatesigningrequests/{sub}") for sub in subs]
            return any(self._access.allows(user, each) for each in asked)
        if not signer.endswith("kubelet-serving") or user.name != name or not user.node:
            return False
        kind = BY_PLURAL["nodes"]
        entry = self._cluster.cache(kind).get(kind.key("", name.removeprefix(NODE_PREFIX)))
        own = (_addresses(entry.object) if entry else set()) | {user.node}
        return set(request.identity.names) <= own and not any(self._of_others(each, user.node) for each in request.identity.names)

    def _of_others(self, name: str, node: str) -> bool:
        """Whether a name or address may be another's: what a node says of itself is no proof, and who has it is this server."""
        try:
            address = read_address(name)
        except ValueError:
            return name != node or name in OURS or ".svc." in f"{name}."
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            return True
        services = (each["spec"].get("clusterIPs") or () for each in every(self._cluster, "services"))
        nodes = (_addresses(each) for each in every(self._cluster, "nodes") if each["metadata"]["name"] != node)
        own = found(self._cluster, "endpoints", "default", "kubernetes") or {}
        servers = (place["ip"] for subset in own.get("subsets") or () for place in subset.get("addresses") or ())
        return name in {*chain.from_iterable(services), *chain.from_iterable(nodes), *servers}

    def _sign(self, signer: str, request: Any, spec: Object) -> bytes:
        from minik8s.pki import requests
        from minik8s.pki.authority import Authority, Pair

        seconds = min(self._signing.seconds, max(SHORTEST, int(spec.get("expirationSeconds") or self._signing.seconds)))
        authority = Authority(Pair(read_bytes(self._signing.certificate, "--cluster-signing-cert-file"),
                                   read_bytes(self._signing.key, "--cluster-signing-key-file")))
        return requests.signed(authority, signer, request, datetime.timedelta(seconds=seconds))

    async def _write(self, obj: Object, condition: str = "", reason: str = "", message: str = "", *,
                     certificate: bytes = b"") -> None:
        def alter(old: Object) -> Object:
            status = dict(old.get("status") or {})
            if certificate:
                status.setdefault("certificate", base64.b64encode(certificate).decode())
            elif condition not in {each.get("type") for each in status.get("conditions") or ()}:
                status["conditions"] = [*(status.get("conditions") or ()), {
                    "type": condition, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now(),
                    "lastTransitionTime": now()}]
            return {**old, "status": status}

        await self._writer.alter(BY_PLURAL["certificatesigningrequests"], "", obj["metadata"]["name"], alter)


def _addresses(node: Object) -> set[str]:
    return {str(each.get("address")) for each in (node.get("status") or {}).get("addresses") or ()}
