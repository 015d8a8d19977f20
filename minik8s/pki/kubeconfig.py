"""Kubeconfig documents with everything inside: pure.

JSON, which is YAML too, so that agents need no YAML library. Read next: `minik8s/pki/authority.py`.
"""

from __future__ import annotations

import base64
import json
from typing import Any


def kubeconfig(server: str, ca: bytes, certificate: bytes, key: bytes, user: str, cluster: str) -> str:
    """The text of a kubeconfig for one user with a client certificate."""
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [{"name": user, "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    return json.dumps(document, indent=1) + "\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
