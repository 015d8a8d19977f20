"""The lab's own look at the API: GET and a JSON answer, with the standard library so that a command starts fast.

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
        assert self._server.hostname
        connection = http.client.HTTPSConnection(self._server.hostname, self._server.port, timeout=TIMEOUT, context=self._context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the API at {self._server.netloc} does not answer: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise Fault(f"GET {path}: {response.status} {body[:200].decode(errors='replace')}")
        return dict(json.loads(body))
