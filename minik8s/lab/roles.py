"""Makes the role flanneld needs to keep its leases at the nodes' objects: a job of the first node's init.

    python -m minik8s.lab.roles KUBECONFIG

Read next: `minik8s/lab/api.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minik8s.lab.api import Api
from nodecore.daemon.entry import run

USER = "flannel"
API = "rbac.authorization.k8s.io"
RULES: list[dict[str, list[str]]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]


def objects() -> dict[str, dict[str, Any]]:
    """flannel's ClusterRole and its binding, by plural."""
    head = {"apiVersion": f"{API}/v1", "metadata": {"name": USER}}
    return {
        "clusterroles": {**head, "kind": "ClusterRole", "rules": RULES},
        "clusterrolebindings": {
            **head, "kind": "ClusterRoleBinding", "roleRef": {"apiGroup": API, "kind": "ClusterRole", "name": USER},
            "subjects": [{"apiGroup": API, "kind": "User", "name": USER}]},
    }


@click.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
def command(kubeconfig: Path) -> None:
    """Make flannel's role and binding where they are missing."""
    api = Api(kubeconfig)
    for plural, body in objects().items():
        api.create(f"/apis/{API}/v1/{plural}", body)


if __name__ == "__main__":
    run(command, "roles")
