"""What a node's agents may do beside the kubelet's own: flanneld and the proxy ask as the node they run on.

Read next: `minik8s/access/api.py`.
"""

from __future__ import annotations

import time

from minik8s.access.api import Api, Object
from nodecore.errors import Fault, NotFound, Unreachable

API = "rbac.authorization.k8s.io"
FLANNELD = "minik8s:flanneld"
RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]
PATIENCE = 120.0


def objects() -> dict[str, Object]:
    """The role of flanneld and who is bound to it and to the proxy's, by path."""
    head: Object = {"apiVersion": f"{API}/v1"}
    found: dict[str, Object] = {
        f"clusterroles/{FLANNELD}": {**head, "kind": "ClusterRole", "metadata": {"name": FLANNELD}, "rules": RULES}}
    for name, role in ((FLANNELD, FLANNELD), ("minik8s:node-proxier", "system:node-proxier")):
        found[f"clusterrolebindings/{name}"] = {
            **head, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": API, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": API, "kind": "Group", "name": "system:nodes"}]}
    return found


def ensure(api: Api) -> None:
    """Make what is missing, once the API serves."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            for path, body in objects().items():
                _make(api, path, body)
            return
        except (Unreachable, Fault) as fault:
            if time.monotonic() > end:
                raise Unreachable(f"{api.server}: not ready within {PATIENCE:g} s: {fault}; see `systemctl status minik8s-*`, "
                                  "and run this again") from None
            time.sleep(0.5)


def _make(api: Api, path: str, body: Object) -> None:
    try:
        api.ask("GET", f"/apis/{API}/v1/{path}")
    except NotFound:
        api.ask("POST", f"/apis/{API}/v1/{path.partition('/')[0]}", body)
