"""From a call to the function that answers it: the verbs on objects, collections and stored subresources.

Must not know: HTTP's machinery. Read next: `reading.py`, `writing.py`, `subresources.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from minik8s.apiserver.auth.authorize import User
from minik8s.apiserver.auth.guard import Guard
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import COMPONENTS, Review
from minik8s.apiserver.kinds.registry import refusal
from minik8s.apiserver.request.bodies import decode
from minik8s.apiserver.request.call import Answer, Call, answer
from minik8s.apiserver.request.status import Refused, method_not_allowed, no_such_path, success
from minik8s.apiserver.verbs import components, reading, subresources, tokens
from minik8s.apiserver.verbs.eviction import evict
from minik8s.apiserver.verbs.paging import page_of
from minik8s.apiserver.verbs.reading import shown
from minik8s.apiserver.verbs.reviews import Reviews
from minik8s.apiserver.verbs.writing import Writer, delete_options

Object = dict[str, Any]
RETURNED_WHEN_GONE = frozenset({"Pod", "Service", "Namespace"})


class Dispatch:
    """The verbs over one cluster."""

    def __init__(self, cluster: Cluster, guard: Guard) -> None:
        self._cluster, self._accounts = cluster, guard.accounts
        self._reviews = Reviews(guard.access, guard.authenticator.whose)
        self._writer = Writer(cluster)
        self._writes: set[asyncio.Task[Answer]] = set()

    async def review(self, review: Review, body: bytes, content: str, user: User, namespace: str) -> Answer:
        """Answer a question about permissions or identity."""
        return answer(await self._reviews.answer(review, decode(body, content), user, namespace), 201)

    async def read(self, call: Call) -> Answer:
        """Get or list."""
        target = call.target
        if call.kind is COMPONENTS and not target.subresource:
            return await components.read(self._cluster, call)
        if call.verb == "list":
            return await reading.list_(self._cluster, call)
        if target.subresource in ("", "status", "ephemeralcontainers"):
            _known(call)
            return await reading.get(self._cluster, call)
        if target.subresource == "scale" and call.kind.sub("scale"):
            return answer(subresources.scale_of(call.kind, await self._cluster.get(call.kind, target.namespace, target.name)))
        raise _no(call)

    async def write_to_the_end(self, call: Call) -> Answer:
        """A write, finished even when the client has left: half of one must not happen."""
        task = asyncio.create_task(self._write(call), name=f"{call.verb} {call.target.plural}")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _write(self, call: Call) -> Answer:
        target = call.target
        if call.verb not in call.kind.verbs:
            raise method_not_allowed()
        if target.subresource or target.plural == "bindings":
            return await self._write_sub(call)
        if call.kind.resource.namespaced and not target.namespace:
            raise method_not_allowed()
        match call.verb, bool(target.name):
            case "create", False:
                return shown(call, await self._writer.create(call), 201)
            case "update", True:
                return shown(call, await self._writer.update(call))
            case "patch", True:
                obj, fresh = await self._writer.patch(call)
                return shown(call, obj, 201 if fresh else 200)
            case "delete", True:
                return await self._delete(call)
            case "deletecollection", False:
                return await self._delete_collection(call)
        raise method_not_allowed()

    async def _write_sub(self, call: Call) -> Answer:
        target, verb = call.target, call.verb
        if target.plural == "bindings":
            return answer(await subresources.bind(self._writer, call), 201)
        sub = _known(call)
        if verb not in sub.verbs:
            raise method_not_allowed()
        match target.subresource:
            case "status" | "approval":
                obj = await self._writer.update(call, sub="status") if verb == "update" else \
                    (await self._writer.patch(call, sub="status"))[0]
                return shown(call, obj)
            case "scale":
                return answer(await subresources.change_scale(self._writer, call))
            case "binding":
                return answer(await subresources.bind(self._writer, call, target.name), 201)
            case "ephemeralcontainers":
                return shown(call, await subresources.debug(self._writer, call))
            case "eviction":
                return answer(await evict(self._cluster, self._writer, call), 201)
            case "token":
                return answer(await tokens.issue(self._cluster, self._accounts, call), 201)
            case "finalize":
                return shown(call, await subresources.finalize(self._cluster, self._writer, call))
        raise _no(call)

    async def _delete(self, call: Call) -> Answer:
        resource, target = call.kind.resource, call.target
        gate = self._cluster.gate
        if gate and await gate.is_asked_about(call, call.kind, "DELETE"):
            await gate.ask_about(call, call.kind, await self._cluster.get(call.kind, target.namespace, target.name), {})
        obj, gone = await self._writer.delete(call.kind, target.namespace, target.name, delete_options(call))
        if gone and call.kind.own not in RETURNED_WHEN_GONE:
            return answer(success(resource.plural, resource.group, target.name, obj["metadata"].get("uid", "")))
        return shown(call, obj)

    async def _delete_collection(self, call: Call) -> Answer:
        options = delete_options(call)
        page = await page_of(self._cluster, call)
        deleted: list[Object] = []
        for item in page.items:
            meta = msgspec.json.decode(item)["metadata"]
            try:
                obj, _ = await self._writer.delete(call.kind, meta.get("namespace", ""), meta["name"], dict(options))
            except Refused as refused:
                if refused.code != 404:
                    raise
                continue
            deleted.append(obj)
        resource = call.kind.resource
        return answer({"kind": f"{resource.kind}List", "apiVersion": resource.api_version,
                       "metadata": {"resourceVersion": str(page.revision)}, "items": deleted})


def _known(call: Call) -> Any:
    found = call.kind.sub(call.target.subresource)
    if call.target.subresource and found is None:
        raise _no(call)
    return found


def _no(call: Call) -> Refused:
    return no_such_path(refusal(call.target.group, f"{call.target.plural}/{call.target.subresource}"))
