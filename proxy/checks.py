"""What load balancers ask: does anybody on this node answer for the Service? One port per Service, its healthCheckNodePort.

200 while somebody local is ready and this proxy works, else 503; the body says how many.

Must not know: why. Semantics: KEP-1669, and the body cloud load balancers know from kube-proxy. Read next: `proxy/target.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for a request to arrive
LONGEST = 8192  # bytes of a request's head


@dataclass(frozen=True, slots=True)
class Check:
    """A Service, by `namespace/name`, and how many of its endpoints here are ready."""

    service: str
    ready: int


class Checks:
    """The listening ports; `keep` makes them those that are wanted."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._servers: dict[int, asyncio.Server] = {}
        self.now: Mapping[int, Check] = {}

    async def keep(self, wanted: Mapping[int, Check]) -> None:
        """Listen where that is wanted, and nowhere else; a port that is taken is told and tried again at the next call."""
        for port in self._servers.keys() - wanted.keys():
            self._servers.pop(port).close()
        self.now = dict(wanted)
        for port in wanted.keys() - self._servers.keys():
            try:
                answer = partial(self._answer, port, wanted[port].service)
                self._servers[port] = await asyncio.start_server(answer, port=port, limit=LONGEST)
            except OSError as error:
                log.error("healthCheckNodePort %d of Service %s: %s", port, wanted[port].service, error.strerror)
                self.now = {number: check for number, check in self.now.items() if number != port}

    async def close(self) -> None:
        """Listen no more."""
        await self.keep({})

    async def _answer(self, port: int, service: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
                check = self.now.get(port, Check(service, 0))  # who came just as the port was closed is answered as well
                writer.write(reply(check, healthy=self._healthy()))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or did not ask in HTTP
        finally:
            writer.close()


def reply(check: Check, *, healthy: bool) -> bytes:
    """The whole answer, whatever the path."""
    namespace, _, name = check.service.partition("/")
    body = json.dumps({
        "service": {"namespace": namespace, "name": name}, "localEndpoints": check.ready, "serviceProxyHealthy": healthy,
    }).encode()
    status = "200 OK" if healthy and check.ready else "503 Service Unavailable"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        f"X-Load-Balancing-Endpoint-Weight: {check.ready}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
