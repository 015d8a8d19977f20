"""ResourceQuotas: a new object must fit into what its namespace may have.

Usage is counted from the caches, plus what this server let in a moment ago and the caches do not show yet. Several API
servers may thus together let in as many too many as arrive within that moment.
Read next: `quota_usage.py`, what an object counts as.
"""

from __future__ import annotations

import time
from fractions import Fraction

from minik8s.apiserver.admission.asked import CREATE, UPDATE, Asked, Object, every
from minik8s.apiserver.admission.quota_usage import COUNTED, in_scope, missing, not_kept, usage, words
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from nodecore.kube.quantity import parse_quantity

MOMENT = 5.0
Usage = dict[str, Fraction]


class Quota:
    """The plugin."""

    name = "ResourceQuota"
    needs: tuple[str, ...] = ("resourcequotas",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._recent: dict[str, tuple[float, str, str, Object]] = {}

    def concerns(self, asked: Asked) -> bool:
        """New objects, and quotas themselves."""
        return bool(asked.namespace) and not asked.sub and (
            asked.operation == CREATE or (asked.plural == "resourcequotas" and asked.operation == UPDATE))

    def shape(self, asked: Asked) -> None:
        """Nothing."""

    def check(self, asked: Asked) -> None:
        """Refuse what would not fit."""
        if asked.plural == "resourcequotas":
            return _supported(asked)
        counted = False
        for quota in every(self._cluster, "resourcequotas", asked.namespace):
            hard = (quota.get("spec") or {}).get("hard") or {}
            wanted = {key: amount for key, amount in usage(asked.kind.resource, asked.obj).items() if key in hard}
            if wanted and in_scope(quota, asked.obj):
                self._fits(asked, quota, hard, wanted)
                counted = True
        if counted and not asked.dry:
            self._recent[asked.obj["metadata"]["uid"]] = (time.monotonic(), asked.namespace, asked.plural, asked.obj)
        return None

    def _fits(self, asked: Asked, quota: Object, hard: dict[str, str], wanted: Usage) -> None:
        name = quota["metadata"]["name"]
        unsaid = missing(asked.kind.resource, asked.obj, hard)
        if unsaid:
            raise asked.refuse(f"failed quota: {name}: must specify {', '.join(unsaid)}")
        used = self.used(quota)
        over = [key for key, amount in wanted.items() if used.get(key, Fraction(0)) + amount > parse_quantity(hard[key])]
        if over:
            def listed(amounts: Usage) -> str:
                return ",".join(f"{key}={words(key, amounts.get(key, Fraction(0)))}" for key in over)
            limits = ",".join(f"{key}={hard[key]}" for key in over)
            raise asked.refuse(f"exceeded quota: {name}, requested: {listed(wanted)}, used: {listed(used)}, limited: {limits}")

    def used(self, quota: Object) -> Usage:
        """What of a quota is used now."""
        namespace, hard = quota["metadata"]["namespace"], (quota.get("spec") or {}).get("hard") or {}
        total: Usage = {key: Fraction(0) for key in hard}
        for plural in COUNTED:
            kind = BY_PLURAL.get(plural)
            if kind is None or not any(key in hard for key in COUNTED[plural]):
                continue
            for obj in [*every(self._cluster, plural, namespace), *self._just_made(namespace, plural)]:
                if in_scope(quota, obj):
                    for key, amount in usage(kind.resource, obj).items():
                        if key in total:
                            total[key] += amount
        return total

    def _just_made(self, namespace: str, plural: str) -> list[Object]:
        now = time.monotonic()
        kind = BY_PLURAL[plural]
        for uid, (when, where, what, obj) in list(self._recent.items()):
            seen = what == plural and self._cluster.cache(kind).get(kind.key(where, obj["metadata"]["name"]))
            if seen or now - when > MOMENT:
                del self._recent[uid]
        return [obj for _, where, what, obj in self._recent.values() if where == namespace and what == plural]


def _supported(asked: Asked) -> None:
    spec = asked.obj.get("spec") or {}
    if wrong := not_kept(spec):
        raise asked.refuse(wrong)
    unknown = [key for key in spec.get("hard") or {} if not any(key in keys for keys in COUNTED.values())]
    if unknown:
        raise asked.refuse(f"spec.hard: {unknown[0]} is not counted by this server")
