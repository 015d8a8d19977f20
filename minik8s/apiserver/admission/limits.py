"""LimitRanges: what containers get that ask for nothing, and what is too little, too much, or too far apart.

Read next: `chain.py`; `nodecore/kube/quantity.py` for the amounts.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from minik8s.apiserver.admission.asked import CREATE, Asked, Object, every
from minik8s.apiserver.cluster import Cluster
from nodecore.kube.quantity import parse_quantity

Amounts = dict[str, str]


class LimitRanger:
    """The plugin."""

    name = "LimitRanger"
    needs: tuple[str, ...] = ("limitranges",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def concerns(self, asked: Asked) -> bool:
        """Pods and claims that are created."""
        return asked.operation == CREATE and asked.plural in ("pods", "persistentvolumeclaims")

    def _items(self, asked: Asked, *types: str) -> Iterator[Object]:
        for limit in every(self._cluster, "limitranges", asked.namespace):
            for item in (limit.get("spec") or {}).get("limits") or ():
                if item.get("type") in types:
                    yield item

    def shape(self, asked: Asked) -> None:
        """Give containers the defaults of what they do not say."""
        if asked.plural != "pods":
            return
        for item in self._items(asked, "Container"):
            for container in _containers(asked.obj):
                resources = container.setdefault("resources", {})
                _fill(resources, "limits", item.get("default") or {})
                _fill(resources, "requests", item.get("defaultRequest") or {})
                _fill(resources, "requests", {key: value for key, value in (resources.get("limits") or {}).items()
                                              if key in (item.get("default") or {})})

    def check(self, asked: Asked) -> None:
        """Refuse what is outside the limits; all that is wrong at once."""
        wrong: list[str] = []
        if asked.plural == "persistentvolumeclaims":
            requests = ((asked.obj.get("spec") or {}).get("resources") or {}).get("requests") or {}
            for item in self._items(asked, "PersistentVolumeClaim"):
                wrong += _bounds(item, "PersistentVolumeClaim", requests, requests)
        else:
            for item in self._items(asked, "Container"):
                for container in _containers(asked.obj):
                    resources = container.get("resources") or {}
                    wrong += _bounds(item, "Container", resources.get("requests") or {}, resources.get("limits") or {})
            for item in self._items(asked, "Pod"):
                wrong += _bounds(item, "Pod", _total(asked.obj, "requests"), _total(asked.obj, "limits"))
        if wrong:
            raise asked.refuse(wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")


def _containers(pod: Object) -> list[Object]:
    return [each for part in ("initContainers", "containers") for each in pod["spec"].get(part) or ()]


def _fill(resources: Object, part: str, wanted: Amounts) -> None:
    missing = {key: value for key, value in wanted.items() if key not in (resources.get(part) or {})}
    if missing:
        resources[part] = {**(resources.get(part) or {}), **missing}


def _total(pod: Object, part: str) -> Amounts:
    found: dict[str, Fraction] = {}
    for container in pod["spec"].get("containers") or ():
        for key, value in ((container.get("resources") or {}).get(part) or {}).items():
            found[key] = found.get(key, Fraction(0)) + parse_quantity(value)
    for container in pod["spec"].get("initContainers") or ():
        for key, value in ((container.get("resources") or {}).get(part) or {}).items():
            found[key] = max(found.get(key, Fraction(0)), parse_quantity(value))
    return {key: str(value) for key, value in found.items()}


def _number(text: str) -> Fraction:
    return Fraction(text) if "/" in str(text) else parse_quantity(text)


def _bounds(item: Object, what: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for key, least in (item.get("min") or {}).items():
        if key not in requests:
            yield f"minimum {key} usage per {what} is {least}.  No request is specified"
        elif _number(requests[key]) < _number(least):
            yield f"minimum {key} usage per {what} is {least}, but request is {requests[key]}"
    for key, most in (item.get("max") or {}).items():
        if key not in limits:
            yield f"maximum {key} usage per {what} is {most}.  No limit is specified"
        elif _number(limits[key]) > _number(most):
            yield f"maximum {key} usage per {what} is {most}, but limit is {limits[key]}"
    for key, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        if key not in requests or key not in limits or not _number(requests[key]):
            yield f"{key} max limit to request ratio per {what} is {ratio}, but no request or limit is specified"
        elif _number(limits[key]) / _number(requests[key]) > _number(ratio):
            yield f"{key} max limit to request ratio per {what} is {ratio}, but provided ratio is higher"
