"""The lab's own way to the API: JSON there and back, with the standard library so that a command starts fast.

Read next: `minik8s/lab/status.py`.
"""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nodecore.errors import Fault, Unreachable
from nodecore.kube.config import load

TIMEOUT = 10.0  # seconds; under emulation a TLS handshake alone takes two


class Api:
    """The API as the administrator sees it from the host."""

    def __init__(self, kubeconfig: Path) -> None:
        config = load(str(kubeconfig))
        self._context = config.ssl_context() or ssl.create_default_context()
        self._server = urlsplit(config.server)

    def get(self, path: str) -> dict[str, Any]:
        """The object or list at `path`."""
        return self._ask("GET", path, None, (200,))

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Make an object in a collection, if it is not there."""
        self._ask("POST", path, json.dumps(body), (201, 409))

    def _ask(self, method: str, path: str, sent: str | None, good: tuple[int, ...]) -> dict[str, Any]:
        assert self._server.hostname
        connection = http.client.HTTPSConnection(self._server.hostname, self._server.port, timeout=TIMEOUT, context=self._context)
        try:
            connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the API at {self._server.netloc} does not answer: {error}") from None
        finally:
            connection.close()
        if response.status not in good:
            raise Fault(f"{method} {path}: {response.status} {body[:200].decode(errors='replace')}")
        return dict(json.loads(body))
