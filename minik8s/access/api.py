"""The API as these commands use it: JSON there and back, by a kubeconfig, a token, or (for what is public) nothing.

Read next: `requests.py`.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from nodecore.errors import Conflict, Denied, Fault, NotFound, Unreachable, UserError
from nodecore.kube.config import load

TIMEOUT = 15.0
PATIENCE = 60.0
Object = dict[str, Any]


class Api:
    """One server; whoever asks is said by the TLS context or the token."""

    def __init__(self, server: str, context: ssl.SSLContext, token: str = "") -> None:
        self.server, self.context, self._token = server.rstrip("/"), context, token
        split = urlsplit(self.server)
        if split.scheme != "https" or not split.hostname:
            raise UserError(f"server: {server!r} is not an https:// address")
        self._host, self._port = split.hostname, split.port or 443

    @classmethod
    def of_kubeconfig(cls, path: str) -> Api:
        """As the user of a kubeconfig."""
        config = load(path)
        context = config.ssl_context()
        if context is None:
            raise UserError(f"--kubeconfig: {path}: its server is not reached by TLS")
        return cls(config.server, context, config.token or "")

    def ask(self, method: str, path: str, body: Object | None = None, *, content: str = "application/json") -> Object:
        """The answer's object; a Fault in the server's words for a refusal."""
        headers = {"Content-Type": content, "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=self.context)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            answer = json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{self.server}: {error}") from None
        finally:
            connection.close()
        if response.status >= 400:
            kind = {401: Denied, 403: Denied, 404: NotFound, 409: Conflict}.get(response.status, Fault)
            raise kind(str(answer.get("message") or response.status))
        return dict(answer)


def authority_of(pem: str) -> ssl.SSLContext:
    """A context that trusts one CA and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    return context


def wait_for(what: str, look: Any) -> Any:
    """Ask again and again until there is an answer; Unreachable after a minute."""
    end = time.monotonic() + PATIENCE
    while True:
        if found := look():
            return found
        if time.monotonic() > end:
            raise Unreachable(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.2)
