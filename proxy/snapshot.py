"""What the API says, kept by Service, and what follows from it for this node, as `Route`s.

Pure bookkeeping: informers put objects in, the agent takes the Services that changed and asks for their routes.
Must not know: packet filters. Read next: `proxy/ledger.py`.
"""

from __future__ import annotations

import msgspec

from nodecore.kube.objects import EndpointSlice, Service
from nodecore.net import Family

from .endpoints import Endpoint, read_endpoints, service_of
from .policy import Choice, Place, choose, choose_local
from .services import ServicePort, Skipped, read_service


class Route(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service with who answers.

    `cluster` for its ClusterIP, `anywhere` for the ways in from outside, and `local` for those under a `Local` policy
    when the caller is outside the cluster; the latter two where there are such ways. `known` are all endpoints, whatever
    state they are in: who is connected to one of them may stay so.
    """

    port: ServicePort
    cluster: Choice
    anywhere: Choice | None = None
    local: Choice | None = None
    known: tuple[Endpoint, ...] = ()


class Snapshot:
    """The Services and their slices; `dirty` are the Services to look at again."""

    def __init__(self, node: str) -> None:
        self._place = Place(node)
        self._services: dict[str, Service] = {}
        self._slices: dict[str, dict[str, EndpointSlice]] = {}
        self._service_of_slice: dict[str, str] = {}
        self.dirty: set[str] = set()

    def put_zone(self, zone: str) -> None:
        """Take the zone this node is in; all Services are looked at again when it is another one."""
        if zone != self._place.zone:
            self._place = Place(self._place.node, zone)
            self.dirty.update(self._services)

    def put_service(self, key: str, service: Service | None) -> None:
        """Take a Service as it is now; None for one that is gone."""
        if service is None:
            self._services.pop(key, None)
        else:
            self._services[key] = service
        self.dirty.add(key)

    def put_slice(self, key: str, item: EndpointSlice | None) -> None:
        """Take an EndpointSlice as it is now; None for one that is gone. It may move from one Service to another."""
        owner = service_of(item) if item else ""
        earlier = self._service_of_slice.pop(key, "")
        if earlier and earlier != owner:
            self._slices[earlier].pop(key)
            if not self._slices[earlier]:
                del self._slices[earlier]
            self.dirty.add(earlier)
        if item and owner:
            self._service_of_slice[key] = owner
            self._slices.setdefault(owner, {})[key] = item
            self.dirty.add(owner)

    def routes(self, key: str, family: Family) -> tuple[list[Route], list[Skipped]]:
        """What a Service comes to on this node in one family; nothing for one that is gone."""
        service = self._services.get(key)
        if service is None:
            return [], []
        ports, skipped = read_service(key, service, family)
        if not ports:
            return [], skipped
        endpoints, more = read_endpoints(sorted(self._slices.get(key, {}).items()), family, self._place.node)
        return [_route(port, endpoints.get((port.name, port.protocol), []), self._place) for port in ports], skipped + more


def _route(port: ServicePort, endpoints: list[Endpoint], place: Place) -> Route:
    anywhere = choose(endpoints, place, unready_too=port.unready_too)
    here = choose_local(endpoints, unready_too=port.unready_too)
    return Route(
        port,
        cluster=here if port.internal_local else anywhere,
        anywhere=anywhere if port.external else None,
        local=here if port.external and port.external_local else None,
        known=tuple(endpoints),
    )
