"""Which endpoints answer: the ready ones, else those that are on their way out but still serve.

Under a `Local` policy, only those on this node.

Pure. Semantics: KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy). Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers; `elsewhere` if nobody here may, though somebody on another node would."""

    endpoints: tuple[Endpoint, ...]
    elsewhere: bool = False


def choose(endpoints: Sequence[Endpoint], *, local_only: bool = False, unready_too: bool = False) -> Choice:
    """The endpoints to use, of one port of one Service."""
    if not local_only:
        return Choice(_usable(endpoints, unready_too=unready_too))
    here = _usable([item for item in endpoints if item.local], unready_too=unready_too)
    return Choice(here, elsewhere=not here and bool(_usable(endpoints, unready_too=unready_too)))


def _usable(endpoints: Sequence[Endpoint], *, unready_too: bool) -> tuple[Endpoint, ...]:
    ready = tuple(item for item in endpoints if item.ready or unready_too)
    return ready or tuple(item for item in endpoints if item.serving and item.terminating)
