"""Lists of the Kubernetes API for a command that reads a few and ends: one connection, one request after another, no asyncio.

aiohttp takes a quarter of a second to import, which is most of what such a command may take. Must not know: what the objects
mean. Read next: `nodecore/kube/client.py`, for agents that stay.
"""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException, HTTPSConnection
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from nodecore import errors
from nodecore.kube.answers import decoded, error_of
from nodecore.kube.config import KubeConfig
from nodecore.kube.resource import Resource

SECONDS = 30.0


class Reader:
    """One API server, one identity, from `with` to its end."""

    def __init__(self, config: KubeConfig, *, user_agent: str) -> None:
        self._config = config
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        if token := config.bearer():
            self._headers["Authorization"] = f"Bearer {token}"
        where = urlsplit(config.server)
        self._prefix = where.path.rstrip("/")
        host, context = where.hostname or "", config.ssl_context()
        self._connection = (HTTPSConnection(host, where.port, timeout=SECONDS, context=context) if context
                            else HTTPConnection(host, where.port, timeout=SECONDS))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def list(self, resource: Resource, into: Any) -> tuple[Any, ...]:
        """All objects of a kind, each as that type."""
        found = decoded(self._get(resource.path()), _list_of(into))
        return tuple(found.items or ())

    def _get(self, path: str) -> bytes:
        try:
            self._connection.request("GET", self._prefix + quote(path), headers=self._headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (HTTPException, OSError) as error:
            raise errors.Unreachable(f"API {self._config.server}: {error or type(error).__name__}") from None
        if answer.status >= 400:
            raise error_of(answer.status, data)
        return data


def _list_of(into: Any) -> Any:
    return msgspec.defstruct("Listed", [("items", list[into] | None, None)])
