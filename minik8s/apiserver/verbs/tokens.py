"""TokenRequest: a token for a ServiceAccount (`kubectl create token`, and what kubelets mount into pods).

Must not know: how a token is signed. Read next: `auth/accounts.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.auth.accounts import Accounts
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.bodies import decode, sections
from minik8s.apiserver.request.call import Call, later, now
from minik8s.apiserver.request.status import Cause, Refused, bad_request, conflict, invalid

Object = dict[str, Any]
LEAST, MOST, USUAL = 600, 1 << 32, 3600
BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


async def issue(cluster: Cluster, accounts: Accounts, call: Call) -> Object:
    """Answer a TokenRequest."""
    target = call.target
    owner = await cluster.get(call.kind, target.namespace, target.name)
    body = decode(call.body, call.content) if call.body.strip() else {}
    sections(body, "metadata", "spec")
    if body.get("kind", "TokenRequest") != "TokenRequest":
        raise bad_request(f"the body is a {str(body.get('kind'))[:100]}, not a TokenRequest")
    spec = body.get("spec") or {}
    seconds, audiences = _seconds(spec, target.name), spec.get("audiences") or []
    if not isinstance(audiences, list) or not all(isinstance(each, str) and each for each in audiences):
        raise bad_request("spec.audiences is a list of names")
    bound = await _bound(cluster, call, spec.get("boundObjectRef"))
    if call.user.node:
        await _of_pod(cluster, call.user.node, bound[0], set(audiences) - set(accounts.issuing.own))
    token = "" if call.dry else await accounts.issue(owner, tuple(audiences), seconds, *bound)
    stamp = now()
    meta = {"name": target.name, "namespace": target.namespace, "creationTimestamp": stamp}
    full = {**spec, "audiences": list(audiences or accounts.issuing.own), "expirationSeconds": seconds}
    return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": meta, "spec": full,
            "status": {"token": token, "expirationTimestamp": later(stamp, seconds)}}


def _seconds(spec: Object, name: str) -> int:
    seconds = spec.get("expirationSeconds")
    seconds = USUAL if seconds is None else seconds
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not LEAST <= seconds <= MOST:
        why = "may not specify a duration less than 10 minutes" if isinstance(seconds, int) and seconds < LEAST \
            else "may not specify a duration larger than 2^32 seconds"
        raise invalid("TokenRequest", "authentication.k8s.io", name,
                      [Cause("spec.expirationSeconds", f"Invalid value: {str(seconds)[:50]}: {why}")])
    return seconds


async def _bound(cluster: Cluster, call: Call, ref: Any) -> list[Object]:
    """The objects a token is to be bound to; a pod's node comes along with it."""
    node = call.user.node
    if ref is None:
        if node:
            raise Refused(403, f'node "{node}" requested a token that is not bound to a pod')
        return []
    if not isinstance(ref, dict) or ref.get("kind") not in BINDABLE:
        raise bad_request(f"cannot bind token for serviceaccount {call.target.name!r} to object of that type")
    kind, name = BY_PLURAL[BINDABLE[ref["kind"]]], str(ref.get("name", ""))
    found = await cluster.get(kind, "" if ref["kind"] == "Node" else call.target.namespace, name)
    if ref.get("uid") and ref["uid"] != found["metadata"]["uid"]:
        why = f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. The object might have " \
              "been deleted and then recreated"
        raise conflict(kind.resource.plural, "", name, why)
    found = {**found, "kind": ref["kind"]}
    if ref["kind"] != "Pod":
        if node:
            raise Refused(403, f'node "{node}" requested a token that is not bound to a pod')
        return [found]
    where = found["spec"].get("nodeName", "")
    if found["spec"].get("serviceAccountName") != call.target.name:
        raise bad_request(f"cannot bind token for serviceaccount {call.target.name!r} to pod running with different "
                          "serviceaccount name.")
    if node and where != node:
        raise Refused(403, f'node "{node}" requested a token bound to a pod scheduled on a different node')
    if not where:
        return [found]
    entry = cluster.cache(BY_PLURAL["nodes"]).get(BY_PLURAL["nodes"].key("", where))
    return [found, {**entry.object, "kind": "Node"}] if entry else [found]


async def _of_pod(cluster: Cluster, node: str, pod: Object, audiences: set[str]) -> None:
    """Refuse a kubelet tokens for audiences that neither its pod nor a volume's driver speaks to."""
    for volume in pod["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            audiences.discard((source.get("serviceAccountToken") or {}).get("audience", ""))
    if not audiences:
        return
    drivers = cluster.cache(BY_PLURAL["csidrivers"])
    await drivers.fresh()
    for entry in drivers.snapshot().entries:
        audiences -= {each.get("audience", "") for each in entry.object["spec"].get("tokenRequests") or ()}
    if audiences:
        name = sorted(audiences)[0]
        raise Refused(403, f'node "{node}" requested a token for audience {name[:100]!r} that its pod does not speak to')
