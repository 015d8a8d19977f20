"""The cluster's objects, read from its API in one go: nodes, pods, Services with the endpoints behind them, policies.

Read next: `netscope/scene.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from netscope.directory import Directory
from netscope.policies import NetworkPolicy
from netscope.scene import Objects, directory_of
from nodecore.errors import Denied, NotFound
from nodecore.kube import resource as r
from nodecore.kube.config import KubeConfig, in_cluster, load
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.reading import Reader
from nodecore.kube.workload import Anything, Pod

POLICIES = r.Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")


def read(kubeconfig: str) -> Directory:
    """Everybody who has an address."""
    with _reader(kubeconfig) as reader:
        return directory_of(_addressed(reader))


def read_objects(kubeconfig: str) -> Objects:
    """All of them; policies and namespaces only where they may be read."""
    with _reader(kubeconfig) as reader:
        found = _addressed(reader)
        return Objects(found.nodes, found.pods, found.services, found.slices, _perhaps(reader, POLICIES, NetworkPolicy),
                       _perhaps(reader, r.NAMESPACES, Anything))


def config_of(kubeconfig: str) -> KubeConfig:
    """As kubectl looks for it: what is given, `KUBECONFIG`, the pod's ServiceAccount, `~/.kube/config`."""
    mine = Path("~/.kube/config").expanduser()
    if not (kubeconfig or os.environ.get("KUBECONFIG") or in_cluster()) and mine.is_file():
        return load(str(mine))
    return load(kubeconfig)


def _reader(kubeconfig: str) -> Reader:
    return Reader(config_of(kubeconfig), user_agent="netscope")


def _addressed(reader: Reader) -> Objects:
    return Objects(reader.list(r.NODES, Node), reader.list(r.PODS, Pod), reader.list(r.SERVICES, Service),
                   reader.list(r.ENDPOINT_SLICES, EndpointSlice))


def _perhaps(reader: Reader, resource: r.Resource, kind: Any) -> Any:
    try:
        return reader.list(resource, kind)
    except (Denied, NotFound):
        return ()
