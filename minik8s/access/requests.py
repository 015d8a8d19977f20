"""A certificate by way of the API: asked for, approved if that is for us to do, waited for.

Read next: `minik8s/pki/requests.py`.
"""

from __future__ import annotations

import base64
import secrets

from minik8s.access.api import Api, Object, wait_for
from minik8s.pki import requests
from minik8s.pki.authority import Identity, Pair
from nodecore.errors import Denied

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def obtain(api: Api, signer: str, identity: Identity, *, approve: bool = False, seconds: int = 0) -> Pair:
    """A key of our own and its certificate."""
    key, request = requests.make(identity)
    name = f"{identity.common_name.replace(':', '-').lower()[:40]}-{secrets.token_hex(4)}"
    spec: Object = {"signerName": signer, "request": base64.b64encode(request).decode(),
                    "usages": ["digital signature", requests.USAGES[signer]]}
    if seconds:
        spec["expirationSeconds"] = seconds
    made = api.ask("POST", PATH, {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                                  "metadata": {"name": name}, "spec": spec})
    if approve:
        verdict = {"type": "Approved", "status": "True", "reason": "ByCommand", "message": "approved by who asked for it"}
        api.ask("PATCH", f"{PATH}/{name}/approval", {"status": {"conditions": [verdict]}}, content="application/merge-patch+json")
    certificate = wait_for(f"certificate request {name}", lambda: _certificate(api, made["metadata"]["name"]))
    return Pair(base64.b64decode(certificate), key)


def _certificate(api: Api, name: str) -> str:
    status = api.ask("GET", f"{PATH}/{name}").get("status") or {}
    for each in status.get("conditions") or ():
        if each.get("type") in ("Denied", "Failed"):
            raise Denied(f"certificate request {name}: {each['type']}: {each.get('message') or each.get('reason')}")
    return str(status.get("certificate") or "")
