"""The kinds served at this moment: those of the catalogue, and those that CustomResourceDefinitions add and take away.

    registry.find(("apps", "v1", "deployments"))     the Kind behind a URL, None where there is none
    registry.version                                 grows with each change: what was made from the kinds is to be made anew

Must not know: HTTP, storage, where definitions come from. Read next: `catalogue.py`, `discovery.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from minik8s.apiserver.kinds.catalogue import BINDINGS, BY_RESOURCE, COMPONENTS, KINDS, REFUSED, REVIEWS, Kind, Review

Place = tuple[str, str, str]


class Registry:
    """Who is served, by group, version and plural."""

    def __init__(self) -> None:
        self.version = 1
        self._by_place: dict[Place, Kind] = dict(BY_RESOURCE)
        self._custom: dict[str, tuple[Kind, ...]] = {}

    def find(self, place: Place) -> Kind | None:
        """The kind of this group, version and plural."""
        return self._by_place.get(place)

    def custom(self, name: str) -> tuple[Kind, ...]:
        """The versions of the kind that a definition added."""
        return self._custom.get(name, ())

    def custom_names(self) -> set[str]:
        """The definitions that have added kinds."""
        return set(self._custom)

    def members(self) -> tuple[Kind | Review, ...]:
        """All that is served, custom kinds last."""
        added = [kind for name in sorted(self._custom) for kind in self._custom[name]]
        return (*KINDS, COMPONENTS, BINDINGS, *REVIEWS, *added)

    def put(self, name: str, kinds: Iterable[Kind]) -> bool:
        """Serve these for the definition of that name, and nothing else that it had before; whether that is a change."""
        new = tuple(kinds)
        if self._custom.get(name, ()) == new:
            return False
        for kind in self._custom.pop(name, ()):
            del self._by_place[kind.place]
        if new:
            self._custom[name] = new
            self._by_place.update({kind.place: kind for kind in new})
        self.version += 1
        return True


def refusal(group: str, plural: str) -> str:
    """Why a kind of the original's is not served; empty for one that nobody knows."""
    why = REFUSED.get((group, plural), "") or REFUSED.get((group, ""), "")
    return f"{plural}{'.' if group else ''}{group} is not served: {why}" if why else ""
