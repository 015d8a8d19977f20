"""What every mode asks of a way into a Service, and of the flags, before it says anything in its own words.

Pure. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

from ipaddress import collapse_addresses, ip_network

from nodecore.net import Family, IPNetwork

from ..policy import Choice
from ..services import ServicePort, Way
from ..snapshot import Route
from .settings import Settings


def claim_of(port: ServicePort, way: Way) -> str:
    """What only one Service can have."""
    return " . ".join(filter(None, (way.address, port.protocol, str(way.port))))


def local_of(route: Route) -> Choice | None:
    """Who answers under a Local policy; None where there is none, or nobody anywhere, so that all are told the same."""
    return route.local if route.local and (route.local.endpoints or route.local.elsewhere) else None


def callers_of(way: Way) -> list[str]:
    """The networks that may come this way, if not all may; a Service that calls itself by its load balancer always may."""
    networks = (ip_network(text) for text in (*(way.sources or ()), way.address))
    return [str(network) for network in collapse_addresses(networks)]  # type: ignore[type-var]  # one family


def of_family(networks: tuple[IPNetwork, ...], family: Family) -> list[IPNetwork]:
    """Those of one family."""
    return [network for network in networks if Family.of(network) is family]


def cluster_networks(settings: Settings, family: Family) -> list[IPNetwork]:
    """Where callers of the cluster are, if that is told by address."""
    return of_family(settings.locality.networks, family)


def node_port_networks(settings: Settings, family: Family) -> list[IPNetwork]:
    """Where alone NodePorts answer; none where they do everywhere."""
    return of_family(settings.node_port_addresses, family)
