"""The verbs that change things: create, update, patch, delete; each one read-change-compare-write on etcd.

    create   belongs, fits, metadata, defaults, makes sense, (addresses), stored if absent
    change   on the newest state: made anew by the caller, identity, fits, what is kept, defaults, makes sense, stored if
             nobody wrote meanwhile, else once more

    apply    the same, and made if it was not there
    each     notes in managedFields whose fields were touched

Must not know: HTTP's machinery. Read next: `kinds/meta.py`, `kinds/fitting.py`, `patching.py`, `fields/tracking.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.fields import tracking
from minik8s.apiserver.fields.ownership import APPLY as APPLIES
from minik8s.apiserver.fields.ownership import Who
from minik8s.apiserver.kinds import converting, defaults, fitting, initial, meta, service_fields, validate
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.kinds.defaults_pod import section
from minik8s.apiserver.request.bodies import decode
from minik8s.apiserver.request.call import Call, dry_run, later, now, suffix
from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import Refused, already_exists, bad_request, conflict, not_found
from minik8s.apiserver.schema.patch import clone
from minik8s.apiserver.schema.validation import FieldError
from minik8s.apiserver.verbs.patching import APPLY, author, configuration, doubled, forced, media_of, patched
from nodecore.errors import AlreadyExists, Conflict, NotFound

Object = dict[str, Any]
Change = Callable[[Object], Object]
RETRIES = 20
ITSELF = Who("kube-apiserver", "Update", "v1")
UNDELETABLE = frozenset({"default", "kube-system", "kube-public"})


class Writer:
    """Writes into one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def create(self, call: Call) -> Object:
        """Make the object in the body."""
        who, obj = author(call), decode(call.body, call.content)
        fitting.belongs(call.kind, obj)
        fitting.places(call, obj)
        fitting.fits(call, obj, twice=doubled(call))
        obj = converting.stored(call.kind, obj)
        return converting.shown(call.kind, await self.add(call.kind.stored, call.target.namespace, obj, dry=call.dry, who=who,
                                                          call=call))

    async def add(self, kind: Kind, namespace: str, obj: Object, *, dry: bool = False, who: Who = ITSELF,
                  call: Call | None = None) -> Object:
        """Make an object that has been found to fit; one that comes by a call passes the gate."""
        gate = self._cluster.gate if call else None
        generated, stamp = not obj["metadata"].get("name"), now()
        if kind.resource.namespaced:
            await self._open_namespace(kind, namespace, obj)
        meta.made(kind, obj, namespace, uid=str(uuid.uuid4()), now=stamp, suffix=suffix())
        defaults.default(kind.resource.kind, obj)
        if who.operation != APPLIES:  # what the gate adds is nobody's
            tracking.track(kind, None, obj, tracking.sent_of(obj), who, stamp)
        if gate:
            if kind.own == "Pod":
                section(obj, "spec", make=True)  # validation will name what is missing of it
            await gate.shape(call, kind, obj)
        initial.prepare(kind, obj)
        defaults.default(kind.resource.kind, obj)
        validate.check_new(kind, obj)
        if gate:
            await gate.check_new(call, kind, obj)
        name = obj["metadata"]["name"]
        try:
            return await self._store(kind, kind.key(namespace, name), obj, dry=dry)
        except AlreadyExists:
            if generated:
                raise Refused(409, f"object {name} of a generated name already exists, try again", reason="AlreadyExists",
                              details={"retryAfterSeconds": 1, "name": name}) from None
            raise already_exists(kind.resource.plural, kind.resource.group, name) from None

    async def ensure(self, kind: Kind, namespace: str, wanted: Object, mended: Callable[[Object], Object | None]) -> None:
        """Make an object of our own where there is none, else store what `mended` makes of the one there is (None: right)."""
        name = wanted["metadata"]["name"]
        entry = self._cluster.cache(kind).get(kind.key(namespace, name))
        if entry is None:
            try:
                await self.add(kind, namespace, wanted)
            except Refused as refused:
                if refused.reason != "AlreadyExists":
                    raise
        elif mended(entry.object):
            await self.alter(kind, namespace, name, lambda there: mended(there) or there)

    async def _store(self, kind: Kind, key: str, obj: Object, *, dry: bool) -> Object:
        if dry:
            if await self._cluster.etcd.get(key):
                raise AlreadyExists(key)
            return obj
        if kind.own != "Service":
            return await self._cluster.storage.create(key, obj, lease=await self._cluster.lease(kind))
        if await self._cluster.etcd.get(key):
            raise AlreadyExists(key)
        claim = await self._cluster.allocator.claim({"spec": {}}, obj)
        try:
            return await self._cluster.storage.create(key, obj)
        except AlreadyExists:
            await self._cluster.allocator.give_back(claim)
            raise

    async def _open_namespace(self, kind: Kind, namespace: str, obj: Object) -> None:
        found = await self._cluster.namespace(namespace)
        if found["metadata"].get("deletionTimestamp"):
            name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "")
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            text = f'{kind.resource.plural} "{name}" is forbidden: {why}'
            cause = {"reason": "NamespaceTerminating", "field": "metadata.namespace",
                     "message": f"namespace {namespace} is being terminated"}
            raise Refused(403, text, details={"name": name, "kind": kind.resource.plural, "causes": [cause]})

    async def update(self, call: Call, *, sub: str = "") -> Object:
        """Put the object in the body in the place of the one there is."""
        who, body = author(call, sub), decode(call.body, call.content)
        fitting.belongs(call.kind, body)
        fitting.places(call, body)
        return await self.change(call, lambda _: clone(body), who, sub=sub, twice=doubled(call))

    async def patch(self, call: Call, *, sub: str = "") -> tuple[Object, bool]:
        """Change the object by the patch in the body; the object, and whether it was made just now."""
        who = author(call, sub)
        if media_of(call) == APPLY:
            return await self._apply(call, who, sub)
        return await self.change(call, patched(call), who, sub=sub, twice=doubled(call)), False

    async def _apply(self, call: Call, who: Who, sub: str) -> tuple[Object, bool]:
        kind, force = call.kind, forced(call)
        config, twice = configuration(call, call.kind.gvk)
        fitting.places(call, config)
        stamp = now()

        def make(live: Object) -> Object:
            return tracking.apply(kind, live, clone(config), who, stamp, force=force)

        for _ in range(RETRIES):
            try:
                return await self.change(call, make, who, sub=sub, twice=twice), False
            except Refused as refused:
                if refused.code != 404 or sub:
                    raise
            try:
                return await self._apply_new(call, config, who, stamp, twice), True
            except Refused as refused:
                if refused.reason != "AlreadyExists":
                    raise
        raise conflict(kind.resource.plural, kind.resource.group, call.target.name)

    async def _apply_new(self, call: Call, config: Object, who: Who, stamp: str, twice: list[FieldError]) -> Object:
        kind = call.kind
        if config["metadata"].get("uid") or config["metadata"].get("resourceVersion"):
            why = "the object to apply names a uid or resourceVersion, and no existing object was found"
            raise conflict(kind.resource.plural, kind.resource.group, call.target.name, why)
        obj = tracking.apply(kind, None, clone(config), who, stamp, force=False)
        fitting.fits(call, obj, twice=twice)
        obj = converting.stored(kind, obj)
        return converting.shown(kind, await self.add(kind.stored, call.target.namespace, obj, dry=call.dry, who=who, call=call))

    async def change(self, call: Call, make: Change, who: Who, *, sub: str = "", twice: Sequence[FieldError] = ()) -> Object:
        """Store what `make` makes of the newest state, after all checks; what an apply makes has its owners already."""
        kind, stamp = call.kind.stored, now()

        def alter(old: Object) -> Object | None:
            new = make(converting.shown(call.kind, clone(old)))
            fitting.belongs(call.kind, new)
            sent = tracking.sent_of(new)
            meta.check_identity(kind, old, new)
            fitting.fits(call, new, twice=twice)
            new = converting.stored(call.kind, new)
            defaults.default(kind.resource.kind, new)
            meta.kept(kind, old, new, sub=sub)
            if kind.own == "Service":
                service_fields.carry(old, new)
            if who.operation != APPLIES:
                tracking.track(kind, old, new, sent, who, stamp)
            else:
                tracking.settle(old, new, sent)
            if sub != "status":
                validate.check_change(kind, old, new, sub=sub)
            if self._cluster.gate:
                self._cluster.gate.check_change(call, kind, old, new)
            return None if meta.finished(kind, new) else new

        gate = self._cluster.gate
        change = self._asking if gate and await gate.is_asked_about(call, kind, "UPDATE") else self._change
        return converting.shown(call.kind, await change(call, kind, alter))

    async def _change(self, call: Call, kind: Kind, alter: Callable[[Object], Object | None]) -> Object:
        return await self.alter(kind, call.target.namespace, call.target.name, alter, dry=call.dry)

    async def _asking(self, call: Call, kind: Kind, alter: Callable[[Object], Object | None]) -> Object:
        """A change others are asked about: what they agreed to is stored if nobody wrote meanwhile, else they are asked anew."""
        gate, target = self._cluster.gate, call.target
        assert gate
        for _ in range(RETRIES):
            old = await self._cluster.get(kind, target.namespace, target.name)
            new = alter(clone(old))
            if new is not None:
                new = await gate.ask_about(call, kind, old, new)

            def agreed(now: Object, old: Object = old, new: Object | None = new) -> Object | None:
                if now["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
                    raise Conflict(target.name)
                return new

            try:
                return await self.alter(kind, target.namespace, target.name, agreed, dry=call.dry)
            except Conflict:
                continue
        raise conflict(kind.resource.plural, kind.resource.group, target.name)

    async def alter(self, kind: Kind, namespace: str, name: str, alter: Callable[[Object], Object | None], *,
                    dry: bool = False) -> Object:
        """Store what `alter` makes of the newest state (None: delete); Services change what they hold along with it."""
        key = kind.key(namespace, name)
        try:
            if dry:
                old = await self._cluster.storage.get(key)
                return alter(clone(old)) or old
            if kind.own == "Service":
                return await self._alter_service(key, alter)
            return await self._cluster.storage.update(key, alter, lease=await self._cluster.lease(kind))
        except NotFound:
            raise not_found(kind.resource.plural, kind.resource.group, name) from None

    async def _alter_service(self, key: str, alter: Callable[[Object], Object | None]) -> Object:
        allocator, storage = self._cluster.allocator, self._cluster.storage
        for _ in range(RETRIES):
            old = await storage.get(key)
            new = alter(clone(old))
            claim = await allocator.claim(old, new) if new else None
            try:
                done = await storage.update(key, lambda _, new=new: new, expect=old["metadata"]["resourceVersion"])  # type: ignore[misc]
            except (Conflict, NotFound):
                if claim:
                    await allocator.give_back(claim)
                continue
            await allocator.release(old, new)
            return done
        raise conflict("services", "", key.rpartition("/")[2])

    async def delete(self, kind: Kind, namespace: str, name: str, options: Object) -> tuple[Object, bool]:
        """Delete an object or begin to; the object, and whether it is gone."""
        gone = False
        stamp = now()

        def alter(old: Object) -> Object | None:
            nonlocal gone
            meta.check_preconditions(kind, old, options)
            if kind.own == "Namespace" and name in UNDELETABLE:
                raise Refused(403, f'namespaces "{name}" is forbidden: this namespace may not be deleted',
                              details={"name": name, "kind": "namespaces"})
            new = meta.deleting(kind, old, options, stamp, later)
            gone = new is None
            return new

        dry = dry_run(list(options.get("dryRun") or []))
        return converting.shown(kind, await self.alter(kind, namespace, name, alter, dry=dry)), gone


def delete_options(call: Call) -> Object:
    """How to delete: the body, with what the query says over it."""
    options: Object = {}
    if call.body.strip():
        options = decode(call.body, call.content)
        if options.get("kind", "DeleteOptions") != "DeleteOptions":
            raise bad_request(f"the body of a DELETE is a DeleteOptions, not a {str(options.get('kind'))[:100]}")
    for name in ("gracePeriodSeconds", "propagationPolicy"):
        if call.query.get(name):
            options[name] = call.query[name]
    if call.query.get("orphanDependents"):
        options["orphanDependents"] = truthy(call.query["orphanDependents"])
    if call.query.get("dryRun"):
        options["dryRun"] = [call.query["dryRun"]]
    _checked(options)
    return options


def _checked(options: Object) -> None:
    policy, grace = options.get("propagationPolicy"), options.get("gracePeriodSeconds")
    if policy not in (None, "", "Background", "Foreground", "Orphan"):
        raise bad_request(f'invalid propagationPolicy {str(policy)[:50]!r}: it is one of "Background", "Foreground", "Orphan"')
    if policy and options.get("orphanDependents") is not None:
        raise bad_request("orphanDependents and propagationPolicy cannot be both set")
    if grace is not None:
        try:
            options["gracePeriodSeconds"] = int(grace)
        except (TypeError, ValueError):
            raise bad_request(f"gracePeriodSeconds: {str(grace)[:50]!r} is not a whole number") from None
        if options["gracePeriodSeconds"] < 0:
            raise bad_request("gracePeriodSeconds must not be negative")
    if not isinstance(options.get("preconditions") or {}, dict) or not isinstance(options.get("dryRun") or [], list):
        raise bad_request("DeleteOptions: preconditions is an object and dryRun a list")
