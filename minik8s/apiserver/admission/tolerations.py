"""Pods stay five minutes on a node that is not ready or not reachable, unless they say how long themselves.

Pure. Read next: `chain.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.admission.asked import CREATE, Asked

SECONDS = 300
TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class DefaultTolerationSeconds:
    """The plugin."""

    name = "DefaultTolerationSeconds"
    needs: tuple[str, ...] = ()

    def concerns(self, asked: Asked) -> bool:
        """Pods that are created."""
        return asked.operation == CREATE and asked.plural == "pods"

    def shape(self, asked: Asked) -> None:
        """Add the tolerations that are missing."""
        spec = asked.obj["spec"]
        there = [each for each in spec.get("tolerations") or () if isinstance(each, dict)]
        missing = [taint for taint in TAINTS if not any(_tolerates(each, taint) for each in there)]
        if missing:
            spec["tolerations"] = [*there, *({"key": taint, "operator": "Exists", "effect": "NoExecute",
                                              "tolerationSeconds": SECONDS} for taint in missing)]

    def check(self, asked: Asked) -> None:
        """Nothing."""


def _tolerates(toleration: dict[str, Any], taint: str) -> bool:
    return toleration.get("key") in (taint, "", None) and toleration.get("effect") in ("NoExecute", "", None)
