"""The arithmetic of a rolling update: how far each ReplicaSet may grow or shrink now.

Two bounds hold at every step, whatever order pods become ready in:
  pods that are or will be there     <= replicas + surge
  pods that are and stay available   >= replicas - unavailable   (unless they fall ill by themselves)

Pure numbers. Read next: `minik8s/controllers/deployment.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from nodecore.kube.workload import RollingUpdate


@dataclass(frozen=True, slots=True)
class Count:
    """One ReplicaSet in numbers, of the pods seen: `present` still count as replicas, `available` are of use."""

    name: str
    spec: int
    present: int = 0
    available: int = 0

    @property
    def lasting(self) -> int:
        """Available pods that stay when the set has shrunk to its spec: those not ready go first."""
        return min(self.spec, self.available)

    @property
    def peak(self) -> int:
        """The most pods there are or will be."""
        return max(self.spec, self.present)


def resolve(value: int | str | None, replicas: int, *, up: bool) -> int:
    """A count, or a percentage of `replicas` rounded up or down."""
    text = "25%" if value is None else str(value)
    if text.endswith("%"):
        share = int(text[:-1] or 0) * replicas / 100
        return ceil(share) if up else floor(share)
    return int(text)


def limits(rolling: RollingUpdate | None, replicas: int) -> tuple[int, int]:
    """(surge, unavailable) as counts; never both zero, or nothing could move."""
    rolling = rolling or RollingUpdate()
    surge = resolve(rolling.max_surge, replicas, up=True)
    unavailable = min(resolve(rolling.max_unavailable, replicas, up=False), replicas)
    return surge, unavailable if surge or unavailable else 1


def grow_new(new: Count, old: Sequence[Count], replicas: int, surge: int) -> int:
    """The size the new set may have now."""
    if new.spec >= replicas:
        return replicas
    room = replicas + surge - new.peak - sum(each.peak for each in old)
    return new.spec + max(0, min(room, replicas - new.spec))


def shrink_old(new: Count, old: Sequence[Count], replicas: int, unavailable: int) -> dict[str, int]:
    """The sizes the old sets (oldest first) may have now; only those that change."""
    minimum = replicas - unavailable
    sizes = {each.name: each.spec for each in old}
    spare = sum(each.spec for each in old) - max(0, minimum - new.lasting)
    for each in old:
        sick = min(each.spec - each.lasting, max(0, spare))
        sizes[each.name] -= sick
        spare -= sick
    surplus = new.lasting + sum(each.lasting for each in old) - minimum
    for each in old:
        cut = max(0, min(surplus, each.lasting, sizes[each.name]))
        sizes[each.name] -= cut
        surplus -= cut
    return {each.name: sizes[each.name] for each in old if sizes[each.name] != each.spec}


def scale_in_proportion(sets: Mapping[str, int], total: int) -> dict[str, int]:
    """Spread a new total over sets in the proportion they have, largest first, what rounding leaves to the largest."""
    have = sum(sets.values())
    if have == 0 or total == have:
        return dict(sets)
    ordered = sorted(sets, key=lambda name: (-sets[name], name))
    sizes = {name: floor(sets[name] * total / have) for name in ordered}
    left = total - sum(sizes.values())
    for name in ordered:
        take = min(left, 1) if len(ordered) > 1 else left
        sizes[name] += take
        left -= take
    return sizes
