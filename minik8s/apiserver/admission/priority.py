"""A pod's priority from its PriorityClass: the two of the system are always known, a default one is for pods that name none.

Read next: `chain.py`.
"""

from __future__ import annotations

from minik8s.apiserver.admission.asked import CREATE, UPDATE, Asked, Object, every, found
from minik8s.apiserver.cluster import Cluster

SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
HIGHEST_OF_USERS = 1_000_000_000


class Priority:
    """The plugin."""

    name = "Priority"
    needs: tuple[str, ...] = ("priorityclasses",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def concerns(self, asked: Asked) -> bool:
        """New pods, and the classes themselves."""
        return (asked.plural == "pods" and asked.operation == CREATE) or (
            asked.plural == "priorityclasses" and asked.operation in (CREATE, UPDATE))

    def shape(self, asked: Asked) -> None:
        """Write the number of the pod's class into it."""
        if asked.plural != "pods":
            return
        spec = asked.obj["spec"]
        name = spec.get("priorityClassName") or ""
        chosen = self._class(name) if name else self._default()
        if name and chosen is None:
            raise asked.refuse(f"no PriorityClass with name {name} was found")
        value = int(chosen["value"]) if chosen else 0
        if spec.get("priority") not in (None, value):
            raise asked.refuse(f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; priority "
                               f"admission controller computed {value} from the given PriorityClass name")
        spec["priority"] = value
        if chosen and not name:
            spec["priorityClassName"] = chosen["metadata"]["name"]
        policy = (chosen or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        if spec.get("preemptionPolicy") not in (None, policy):
            raise asked.refuse(f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod "
                               f"spec; priority admission controller computed {policy} from the given PriorityClass name")
        spec["preemptionPolicy"] = policy

    def _class(self, name: str) -> Object | None:
        if name in SYSTEM:
            return {"metadata": {"name": name}, "value": SYSTEM[name]}
        return found(self._cluster, "priorityclasses", "", name)

    def _default(self) -> Object | None:
        there = [each for each in every(self._cluster, "priorityclasses") if each.get("globalDefault")]
        return min(there, key=lambda each: each.get("value", 0)) if there else None

    def check(self, asked: Asked) -> None:
        """One default class at most, and no class above the system's."""
        if asked.plural != "priorityclasses":
            return
        if int(asked.obj.get("value") or 0) > HIGHEST_OF_USERS and asked.name not in SYSTEM:
            raise asked.refuse(f"maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}")
        if asked.obj.get("globalDefault"):
            for each in every(self._cluster, "priorityclasses"):
                if each.get("globalDefault") and each["metadata"]["name"] != asked.name:
                    raise asked.refuse(f"PriorityClass {each['metadata']['name']} is already marked as default. Only one "
                                       "default can exist")
