"""Certificate requests: who made one is written down; a verdict and a certificate need the right to them, for each signer.

Read next: `upkeep/signing.py`, which approves and signs.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.admission.asked import CREATE, Asked, Object
from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import Attributes

GROUP = "certificates.k8s.io"
VERDICTS = frozenset({"Approved", "Denied"})


class CertificateRequests:
    """The plugin."""

    name = "CertificateApproval"
    needs: tuple[str, ...] = ()

    def __init__(self, access: Access) -> None:
        self._access = access

    def concerns(self, asked: Asked) -> bool:
        """Certificate requests."""
        return asked.kind.resource.group == GROUP

    def shape(self, asked: Asked) -> None:
        """Write down who asks."""
        spec = asked.obj.setdefault("spec", {})
        for field in ("username", "uid", "groups", "extra"):
            spec.pop(field, None)
        user = asked.user
        spec["username"], spec["groups"] = user.name, list(user.groups)
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {key: list(values) for key, values in user.extra}

    def check(self, asked: Asked) -> None:
        """Refuse verdicts and certificates from those who may not give them; what is asked for stays."""
        if asked.operation == CREATE:
            return
        if asked.obj.get("spec") != asked.old.get("spec"):
            raise asked.refuse("spec: Forbidden: may not be changed")
        signer = str((asked.old.get("spec") or {}).get("signerName", ""))
        if _part(asked.old, verdicts=True) != _part(asked.obj, verdicts=True):
            if asked.sub != "approval":
                raise asked.refuse("status.conditions: Approved and Denied are given through the subresource approval")
            self._may(asked, "approve", signer)
            if {each.get("type") for each in _conditions(asked.obj)} >= VERDICTS:
                raise asked.refuse("status.conditions: Approved and Denied conditions are mutually exclusive")
        if asked.sub == "approval" and (_part(asked.old, verdicts=False) != _part(asked.obj, verdicts=False)
                                        or _certificate(asked.old) != _certificate(asked.obj)):
            raise asked.refuse("status: the subresource approval gives verdicts only")
        if _certificate(asked.old) != _certificate(asked.obj):
            self._may(asked, "sign", signer)

    def _may(self, asked: Asked, verb: str, signer: str) -> None:
        domain = f"{signer.partition('/')[0]}/*"
        if not any(self._access.allows(asked.user, Attributes(verb, GROUP, "signers", "", name)) for name in (signer, domain)):
            raise asked.refuse(f'user not permitted to {verb} requests with signerName "{signer}"')


def _conditions(obj: Object) -> list[Object]:
    return [each for each in (obj.get("status") or {}).get("conditions") or () if isinstance(each, dict)]


def _part(obj: Object, *, verdicts: bool) -> list[tuple[Any, Any]]:
    return [(each.get("type"), each.get("status")) for each in _conditions(obj) if (each.get("type") in VERDICTS) is verdicts]


def _certificate(obj: Object) -> Any:
    return (obj.get("status") or {}).get("certificate")
