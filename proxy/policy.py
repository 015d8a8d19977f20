"""Which endpoints answer: the ready ones, else those that are on their way out but still serve.

Under a `Local` policy, only those on this node. Else, of the ready ones, those meant for callers here by their hints, if
every one has a hint and somebody is meant for us: for this node before this zone.

Pure. Semantics: KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy), KEP-2433 and KEP-3015 (hints).
Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from .endpoints import Endpoint


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where this node is."""

    node: str = ""
    zone: str = ""


class Choice(msgspec.Struct, frozen=True, gc=False):
    """Who answers; `elsewhere` if nobody here may, though somebody on another node would."""

    endpoints: tuple[Endpoint, ...]
    elsewhere: bool = False


NOBODY = Choice(())


def choose(endpoints: Sequence[Endpoint], place: Place, *, unready_too: bool = False) -> Choice:
    """The endpoints to use, of one port of one Service, wherever they are."""
    ready = _ready(endpoints, unready_too=unready_too)
    return Choice(_nearby(ready, place) or ready or _leaving(endpoints))


def choose_local(endpoints: Sequence[Endpoint], *, unready_too: bool = False) -> Choice:
    """Those on this node alone."""
    here = [item for item in endpoints if item.local]
    found = _ready(here, unready_too=unready_too) or _leaving(here)
    return Choice(found, elsewhere=not found and bool(_ready(endpoints, unready_too=unready_too) or _leaving(endpoints)))


def _ready(endpoints: Sequence[Endpoint], *, unready_too: bool) -> tuple[Endpoint, ...]:
    return tuple(item for item in endpoints if item.ready or unready_too)


def _leaving(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(item for item in endpoints if item.serving and item.terminating)


def _nearby(ready: Sequence[Endpoint], place: Place) -> tuple[Endpoint, ...]:
    """Those meant for callers here; none where the hints do not settle it."""
    return _meant_for(place.node, ready, lambda item: item.nodes) or _meant_for(place.zone, ready, lambda item: item.zones)


def _meant_for(here: str, ready: Sequence[Endpoint], hints: Callable[[Endpoint], tuple[str, ...]]) -> tuple[Endpoint, ...]:
    if not here or not all(hints(item) for item in ready):
        return ()
    return tuple(item for item in ready if here in hints(item))
