"""Which of the nodes that can take a pod is best: apart from its siblings, then where most is left.

    4 x spread of the owner's pods + 1 x spread of the Services' pods + 1 x room left + preferences

Each part runs from 0 to 100, so siblings part company whatever the loads are. Pure.
Read next: `minik8s/scheduler/decide.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodecore.kube import placement
from nodecore.kube.labels import contains

from .cluster import Load, Place
from .fit import taints_of

OWNER, SERVICE, ROOM, PREFERENCE = 4.0, 1.0, 1.0, 2.0


def room(load: Load, place: Place) -> float:
    """The share of cpu and memory left once the pod is there, in percent."""
    left = []
    for name, asked in load.weight.items():
        have = place.allocatable.get(name, 0)
        left.append(max(0.0, 1 - (place.weighed.get(name, 0) + asked) / have) if have else 0.0)
    return 100 * sum(left) / len(left)


def siblings(load: Load, place: Place) -> int:
    """How many pods of the same owner are there and mean to stay."""
    return sum(other.group == load.group and not other.pod.metadata.deletion_timestamp
               for other in place.loads.values()) if load.group else 0


def served(load: Load, place: Place, selectors: Sequence[Mapping[str, str]]) -> int:
    """How many pods of the same Services are there."""
    namespace = load.pod.metadata.namespace
    return sum(any(contains(other.pod.metadata.labels, selector) for selector in selectors)
               for other in place.loads.values() if other.pod.metadata.namespace == namespace) if selectors else 0


def preferred(load: Load, place: Place) -> int:
    """The weights of the preferences that the node fulfils."""
    affinity = load.pod.spec.affinity.node_affinity if load.pod.spec.affinity else None
    terms = affinity.preferred_during_scheduling_ignored_during_execution if affinity else None
    return sum(term.weight for term in terms or () if placement.term_matches(term.preference, place.node))


def disliked(load: Load, place: Place) -> int:
    """How many taints ask the pod to stay away if it can."""
    spec = load.pod.spec
    return sum(placement.untolerated(spec, [taint], (placement.PREFER_NO_SCHEDULE,)) is not None for taint in taints_of(place))


def _fewest(counts: Sequence[int]) -> list[float]:
    most = max(counts, default=0)
    return [100 * (1 - count / most) if most else 100.0 for count in counts]


def _most(counts: Sequence[int]) -> list[float]:
    most = max(counts, default=0)
    return [100 * count / most if most else 0.0 for count in counts]


def best(load: Load, places: Sequence[Place], selectors: Sequence[Mapping[str, str]]) -> Place:
    """The place with the highest score; among equals the one with fewest pods, then by name."""
    parts = (
        (OWNER, _fewest([siblings(load, place) for place in places])),
        (SERVICE, _fewest([served(load, place, selectors) for place in places])),
        (ROOM, [room(load, place) for place in places]),
        (PREFERENCE, _most([preferred(load, place) for place in places])),
        (PREFERENCE * OWNER, _fewest([disliked(load, place) for place in places])),
    )
    totals = [sum(weight * scores[index] for weight, scores in parts) for index in range(len(places))]
    order = [(-total, len(place.loads), place.node.metadata.name) for total, place in zip(totals, places, strict=True)]
    return places[min(range(len(places)), key=order.__getitem__)]
