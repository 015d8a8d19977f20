"""Admission webhooks: asks whom the configurations name, changes and refuses as they answer.

    mutating      one after the other by name, each sees what those before made of the object
    validating    all at once

What a mutating one makes of an object is held to the schema, and is still the same object. Nobody is asked about the
configurations themselves. Read next: `webhook_rules.py`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import uuid
from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.admission.asked import Asked, Object, every, found
from minik8s.apiserver.admission.webhook_rules import GROUP, MUTATING, VALIDATING, concerned
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds import structural
from minik8s.apiserver.kinds.kind import Kind
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.schema.patch import json_patch
from nodecore.errors import Invalid
from nodecore.kube.http import aiohttp

log = logging.getLogger(__name__)
SECONDS, LARGEST = 10, 4 * 1024 * 1024
IDENTITY = ("name", "namespace", "uid")
UNCHECKED: Object = {"apiVersion": "", "kind": "", "metadata": {}, "status": {}}


class Webhooks:
    """The webhooks of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def of(self, plural: str, asked: Asked) -> list[Object]:
        """The webhooks of a sort that a write concerns, in order."""
        if asked.kind.resource.group == GROUP:
            return []
        configurations = every(self._cluster, plural)
        if not configurations:
            return []
        name = asked.name if asked.kind.resource.plural == "namespaces" else asked.namespace
        namespace = found(self._cluster, "namespaces", "", name) if name else None
        labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
        return [hook for each in configurations for hook in each.get("webhooks") or () if concerned(hook, asked, labels)]

    async def mutate(self, asked: Asked) -> bool:
        """Let them change the object, in place; whether any did."""
        touched = False
        for hook in self.of(MUTATING, asked):
            answer = await self._ask(hook, asked)
            if answer.get("patch"):
                try:
                    changed = patched(asked.kind, asked.obj, answer["patch"])
                except (Invalid, msgspec.DecodeError, ValueError, RecursionError) as error:
                    why = str(error)[:500]
                    raise Refused(500, f'Internal error occurred: webhook "{hook["name"]}": its patch: {why}') from None
                asked.obj.clear()
                asked.obj.update(changed)
                touched = True
        return touched

    async def validate(self, asked: Asked) -> None:
        """Let them refuse it."""
        hooks = self.of(VALIDATING, asked)
        if hooks:
            await asyncio.gather(*(self._ask(hook, asked) for hook in hooks))

    async def _ask(self, hook: Object, asked: Asked) -> Object:
        """A webhook's answer; Refused when it says no, or cannot be asked and its failurePolicy is Fail."""
        name = hook.get("name", "")
        if asked.dry and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise Refused(400, f'admission webhook "{name}" does not support dry run')
        try:
            answer = await self._call(hook, asked)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, msgspec.DecodeError, RecursionError) as error:
            why = cause_of(error)
            if hook.get("failurePolicy") == "Ignore":
                log.warning("webhook %s is passed over: %s", name, why)
                return {}
            raise Refused(500, f'Internal error occurred: failed calling webhook "{name}": {why[:500]}') from None
        if isinstance(warnings := answer.get("warnings"), list):
            asked.warnings.extend(map(str, warnings))
        if answer.get("allowed") is True:
            return answer
        said = answer.get("status")
        status: Object = said if isinstance(said, dict) else {}
        code = status.get("code")
        message = status.get("message") or status.get("reason") or "without explanation"
        text = f'admission webhook "{name}" denied the request: {message}'
        raise Refused(code if isinstance(code, int) and 400 <= code < 500 else 403, text, reason=str(status.get("reason") or ""))

    async def _call(self, hook: Object, asked: Asked) -> Object:
        url, server, context = self._where(hook.get("clientConfig") or {})
        review = _review(asked)
        seconds = hook.get("timeoutSeconds") or SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=float(seconds))) as session, session.post(
                url, data=msgspec.json.encode(review), headers={"Content-Type": "application/json"}, ssl=context,
                server_hostname=server or None, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            body = await _whole(response)
        answer = msgspec.json.decode(body, type=dict[str, Any]).get("response")
        if not isinstance(answer, dict) or answer.get("uid") != review["request"]["uid"]:
            raise ValueError("its answer is not to what was asked")
        return answer

    def _where(self, client: Object) -> tuple[str, str, ssl.SSLContext]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if client.get("caBundle"):
            context.load_verify_locations(cadata=base64.b64decode(client["caBundle"]).decode())
        else:
            context.load_default_certs()
        service = client.get("service")
        if not service:
            return str(client.get("url") or ""), "", context
        namespace, name = str(service.get("namespace")), str(service.get("name"))
        there = found(self._cluster, "services", namespace, name)
        address = ((there or {}).get("spec") or {}).get("clusterIP")
        if not address or address == "None":
            raise ValueError(f"service {namespace}/{name} has no address")
        host = f"[{address}]" if ":" in address else address
        path = str(service.get("path") or "/").removeprefix("/")
        return f"https://{host}:{service.get('port') or 443}/{path}", f"{name}.{namespace}.svc", context


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """All of an answer, in however many pieces it comes."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > LARGEST:
            raise ValueError(f"its answer is larger than {LARGEST} bytes")
    return bytes(body)


def patched(kind: Kind, obj: Object, patch: Any) -> Object:
    """What a webhook's patch makes of an object; Invalid for what is then no such object, or another one."""
    if not isinstance(patch, str):
        raise Invalid("it is not text")
    changed = json_patch(obj, msgspec.json.decode(base64.b64decode(patch)))
    if not isinstance(changed, dict) or _who(changed) != _who(obj):
        raise Invalid("it changes what identifies the object")
    if kind.custom is None:
        if message := schema.refusal(kind.gvk, schema.validate(kind.gvk, changed), strict=False):
            raise Invalid(message)
        schema.prune(kind.gvk, changed)
    elif wrong := next(structural.validate(kind.custom.schema, {**changed, **UNCHECKED}), None):
        raise Invalid(f"{wrong.field}: {wrong.message}")
    return changed


def _who(obj: Object) -> list[Any]:
    meta = obj.get("metadata")
    return [obj.get("apiVersion"), obj.get("kind"), *map(meta.get, IDENTITY)] if isinstance(meta, dict) else []


def _review(asked: Asked) -> Object:
    resource = asked.kind.resource
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    plural = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    request: Object = {
        "uid": str(uuid.uuid4()), "kind": kind, "resource": plural, "requestKind": kind, "requestResource": plural,
        "name": asked.name, "operation": asked.operation, "userInfo": asked.user.info(), "object": asked.obj or None,
        "oldObject": asked.old or None, "dryRun": asked.dry, "options": None}
    if asked.namespace:
        request["namespace"] = asked.namespace
    if asked.sub:
        request["subResource"] = request["requestSubResource"] = asked.sub
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def cause_of(error: Exception) -> str:
    """What went wrong, in words fit for a client."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.os_error.strerror or type(error.os_error).__name__}"
    return str(error) or type(error).__name__
