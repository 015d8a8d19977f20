"""What the host's network leaves to a lab: the routes it has already, and a port for the API.

Reads the host and opens one socket. Read next: `minik8s/lab/config.py`, which judges.
"""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from nodecore.errors import UserError
from nodecore.net import IPNetwork

FIRST_API_PORT = 6443


def host_routes(four: Path = Path("/proc/net/route"), six: Path = Path("/proc/net/ipv6_route")) -> list[IPNetwork]:
    """The host's routes but for the default ones and what every host has."""
    return [*_routes_of_4(four.read_text()), *(_routes_of_6(six.read_text()) if six.exists() else [])]


def _routes_of_4(table: str) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(columns[index]), sys.byteorder) for index in (1, 7))
        if mask:
            found.append(IPv4Network((destination, mask.bit_count())))
    return found


def _routes_of_6(table: str) -> list[IPNetwork]:
    routes = {IPv6Network((int(columns[0], 16), int(columns[1], 16))) for columns in map(str.split, table.splitlines())}
    return [route for route in sorted(routes) if route.prefixlen and not (
        route.is_loopback or route.is_link_local or route.is_multicast)]


def listen_for_api(port: int) -> socket.socket:
    """The host's socket for the API: on the port asked for, or (0) on the first free one from 6443 on."""
    candidates = [port] if port else range(FIRST_API_PORT, FIRST_API_PORT + 1000)
    for candidate in candidates:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", candidate))
            sock.listen(4096)
        except OSError as error:
            sock.close()
            if port:
                raise UserError(f"--api-port: cannot listen on 127.0.0.1:{port}: {error.strerror}") from None
            continue
        return sock
    raise UserError("--api-port: no free port found from 6443 on; name one")
