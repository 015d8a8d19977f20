"""Subresources that are stored with their object: scale, ephemeral containers, binding, finalize. (Status: `writing.py`.)

Must not know: HTTP's machinery. Read next: `writing.py`, `eviction.py`; `stream.py` for log, exec and the like.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver import schema
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.fields import tracking
from minik8s.apiserver.fields.ownership import Who
from minik8s.apiserver.kinds import fitting, meta, scaling
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.request.bodies import decode, sections
from minik8s.apiserver.request.call import Call, now
from minik8s.apiserver.request.status import Cause, bad_request, conflict, invalid
from minik8s.apiserver.schema.patch import clone
from minik8s.apiserver.verbs.patching import APPLY, Change, author, configuration, forced, media_of, patched
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
SCALE = ("autoscaling", "v1", "Scale")
REPLICAS: Object = {"f:spec": {"f:replicas": {}}}


def scale_of(kind: Kind, obj: Object) -> Object:
    """The Scale of a workload."""
    own, (wanted, there, selector) = obj["metadata"], scaling.replicas(kind, obj)
    kept = {key: own[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if key in own}
    owners = [{**entry, "apiVersion": "autoscaling/v1", "fieldsV1": REPLICAS} for entry in own.get("managedFields") or []
              if "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})]
    if owners:
        kept["managedFields"] = owners
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept,
        "spec": {"replicas": wanted}, "status": {"replicas": there, "selector": selector},
    }


async def change_scale(writer: Writer, call: Call) -> Object:
    """Set a workload's replicas by the Scale (or the patch of one) in the body."""
    who = author(call, "scale")
    if media_of(call) == APPLY and call.verb == "patch":
        return scale_of(call.kind, await writer.change(call, _applied_scale(call, who), who))
    if call.verb == "patch":
        change = patched(call, SCALE)
    else:
        body = decode(call.body, call.content)

        def change(_: Object) -> Object:
            return body

    def make(obj: Object) -> Object:
        new = change(scale_of(call.kind, obj))
        _fits(call, new)
        meta.check_identity(call.kind, obj, new)
        return scaling.scaled(call.kind, obj, _replicas(call, new))

    return scale_of(call.kind, await writer.change(call, make, who))


def _fits(call: Call, scale: Object) -> None:
    """Refuse what is no Scale, or says what none has."""
    sections(scale, "metadata", "spec")
    scale.setdefault("metadata", {})
    said = (scale.setdefault("kind", "Scale"), scale.setdefault("apiVersion", "autoscaling/v1"))
    if said != ("Scale", "autoscaling/v1"):
        sent = f"{str(said[1])[:100]}, Kind={str(said[0])[:100]}"
        raise bad_request(f"{sent} in the body does not match the expected autoscaling/v1, Kind=Scale")
    message = schema.refusal(SCALE, schema.validate(SCALE, scale), strict=call.strictness == "Strict")
    if message:
        raise bad_request(message)


def _replicas(call: Call, scale: Object) -> int:
    spec = scale.get("spec")
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else 0
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas < 2**31:
        cause = Cause("spec.replicas", f"Invalid value: {replicas!r}: must be greater than or equal to 0")
        raise invalid("Scale", "autoscaling", call.target.name, [cause])
    return replicas


def _applied_scale(call: Call, who: Who) -> Change:
    """A Scale that is applied claims its workload's replicas, and nothing else."""
    (config, _), stamp = configuration(call, SCALE), now()
    fitting.places(call, config)
    resource = call.kind.resource
    claim: Object = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}}
    if isinstance(config.get("spec"), dict) and "replicas" in config["spec"]:
        scaling.scaled(call.kind, claim, _replicas(call, config))
    return lambda live: tracking.apply(call.kind, live, claim, who, stamp, force=forced(call))


async def debug(writer: Writer, call: Call) -> Object:
    """Add ephemeral containers to a pod; nothing else of what is sent counts."""
    who = author(call, "ephemeralcontainers")
    body = {} if call.verb == "patch" else decode(call.body, call.content)
    change: Change = patched(call) if call.verb == "patch" else lambda _: body

    def make(pod: Object) -> Object:
        spec = change(clone(pod)).get("spec")
        found = (spec.get("ephemeralContainers") or []) if isinstance(spec, dict) else None
        if not isinstance(found, list):
            raise bad_request("spec.ephemeralContainers is not a list")
        if found or pod["spec"].get("ephemeralContainers"):
            pod["spec"]["ephemeralContainers"] = found
        return pod

    return await writer.change(call, make, who, sub="ephemeralcontainers")


async def bind(writer: Writer, call: Call, name: str = "") -> Object:
    """Give a pod its node."""
    body = decode(call.body, call.content)
    sections(body, "metadata", "target")
    node = (body.get("target") or {}).get("name") if isinstance(body.get("target"), dict) else ""
    name = name or str((body.get("metadata") or {}).get("name", ""))
    if not node or not isinstance(node, str) or not name:
        raise bad_request("a Binding needs metadata.name and target.name")
    sent = body.get("metadata") or {}

    def alter(pod: Object) -> Object:
        own, spec = pod["metadata"], pod["spec"]
        if sent.get("uid") and sent["uid"] != own["uid"]:
            why = f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {own['uid']}"
            raise conflict("pods/binding", "", name, why)
        if own.get("deletionTimestamp"):
            raise conflict("pods/binding", "", name, f"pod {name} is being deleted, cannot be assigned to a host")
        if spec.get("nodeName"):
            raise conflict("pods/binding", "", name, f"pod {name} is already assigned to node {spec['nodeName']!r}")
        spec["nodeName"] = node
        if isinstance(sent.get("annotations"), dict) and sent["annotations"]:
            own["annotations"] = {**(own.get("annotations") or {}), **sent["annotations"]}
        conditions = pod.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [each for each in conditions if each.get("type") != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now()})
        return pod

    await writer.alter(call.kind, call.target.namespace, name, alter, dry=call.dry)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def finalize(cluster: Cluster, writer: Writer, call: Call) -> Object:
    """Take the finalizers of a namespace's spec from the body; without any, a namespace that was to go is gone."""
    body = decode(call.body, call.content)
    sections(body, "metadata", "spec")
    wanted = (body.get("spec") or {}).get("finalizers") or []
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise bad_request("spec.finalizers is not a list of names")

    def alter(old: Object) -> Object | None:
        new = clone(old)
        meta.check_identity(call.kind, old, {**body, "metadata": body.get("metadata") or {}})
        new.setdefault("spec", {})["finalizers"] = wanted
        if not wanted:
            new["spec"].pop("finalizers")
        return None if meta.finished(call.kind, new) else new

    return await writer.alter(call.kind, "", call.target.name, alter, dry=call.dry)

