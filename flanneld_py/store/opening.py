"""From the flags to the store they ask for, and what a start has to wait for there.

Only the client that is needed is imported: gRPC for etcd, aiohttp for Kubernetes; each costs tens of MB. That is the last of a
start's imports, so garbage is collected from then on.
Read next: `flanneld_py/store/port.py`.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flanneld_py.config import KubeSettings, Settings
from flanneld_py.netconf import NetConf, parse_netconf
from flanneld_py.store.port import LeaseStore
from nodecore.errors import NotFound, UserError
from nodecore.loop.persist import persist
from nodecore.net import Family, IPAddress

if TYPE_CHECKING:
    from nodecore.kube.client import KubeClient
    from nodecore.kube.config import KubeConfig

log = logging.getLogger(__name__)

QUEUE = "EVENT_QUEUE_DEPTH"


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[LeaseStore]:
    """The store, for as long as the block runs."""
    async with _open_kube(settings.kube) if settings.kube else _open_etcd(settings) as store:
        yield store


async def wait_for_config(store: LeaseStore) -> NetConf:
    """The network configuration, waiting for the store and for somebody to write it."""

    async def ask() -> str:
        text = await store.config()
        if text is None:
            raise NotFound("nobody has written the network config (the key config below --etcd-prefix)")
        return text

    return parse_netconf(await persist(ask, "Couldn't fetch the network config", log=log))


async def wait_for_public_addresses(store: LeaseStore) -> Mapping[Family, IPAddress]:
    """The addresses written down for this node."""
    return await persist(store.public_addresses, "Couldn't read what is written down for this node", log=log)


@asynccontextmanager
async def _open_etcd(settings: Settings) -> AsyncIterator[LeaseStore]:
    from flanneld_py.store.etcd import EtcdLeaseStore
    from nodecore.etcd.client import EtcdClient, EtcdConfig, parse_endpoints

    gc.enable()
    config = EtcdConfig(
        parse_endpoints(settings.endpoints, what="--etcd-endpoints"), settings.ca, settings.cert, settings.key,
        settings.username, settings.password,
    )
    plain = [target.address for target in config.targets() if not target.tls]
    if plain and (config.ca or config.cert):
        log.warning("--etcd-endpoints: %s is spoken to without TLS, whatever files are given: say https://", ", ".join(plain))
    async with EtcdClient(config) as client:
        yield EtcdLeaseStore(client, settings.prefix)


@asynccontextmanager
async def _open_kube(settings: KubeSettings) -> AsyncIterator[LeaseStore]:
    from flanneld_py.store.annotations import Annotations
    from flanneld_py.store.kube import SYNC_LIMIT, KubeLeaseStore, Place
    from nodecore.daemon import heap
    from nodecore.kube.client import KubeClient

    gc.enable()
    _tell_of_no_queue(os.environ.get(QUEUE, ""))
    names = Annotations.named(settings.annotation_prefix)
    limit = None if os.environ.get("CONT_WHEN_CACHE_NOT_READY", "").lower() == "true" else SYNC_LIMIT
    heap.stay_small()
    async with KubeClient(kube_config(settings)) as client:
        node = await _node_name(client)
        log.info("Leases are annotations of nodes, named %s*; ours is node %s", names.prefix, node)
        yield KubeLeaseStore(client, Place(node, names, settings.net_config, settings.set_condition, limit))


def _tell_of_no_queue(depth: str) -> None:
    """The depth of Go flanneld's queue of events; here the newest state replaces an older one."""
    if not depth:
        return
    if not re.fullmatch(r"[+]?\d+", depth):
        raise UserError(f"{QUEUE}: {depth!r} is not a number")
    log.info("%s=%s changes nothing: events are not queued, any number of them is one look at the newest state", QUEUE, depth)


def kube_config(settings: KubeSettings) -> KubeConfig:
    """Where the API is: the kubeconfig file, of which --kube-api-url overrides the server, or else this pod's service account."""
    from nodecore.kube import config

    url = settings.api_url.rstrip("/")
    if url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"--kube-api-url: {settings.api_url!r} is not of the form https://HOST:PORT")
    if settings.kubeconfig:
        found = config.load(settings.kubeconfig)
        return replace(found, server=url or found.server)
    if url:
        return config.KubeConfig(url)
    found_in_pod = config.in_cluster()
    if not found_in_pod:
        raise UserError("--kube-subnet-mgr: this is not a pod: give --kubeconfig-file or --kube-api-url")
    return found_in_pod


async def _node_name(client: KubeClient) -> str:
    """NODE_NAME, or else the node that the pod POD_NAME in POD_NAMESPACE runs on."""
    from nodecore.kube.resource import PODS

    node = os.environ.get("NODE_NAME", "")
    if node:
        return node
    name, namespace = os.environ.get("POD_NAME", ""), os.environ.get("POD_NAMESPACE", "")
    if not name or not namespace:
        raise UserError("--kube-subnet-mgr: which node is this? Set NODE_NAME, or POD_NAME and POD_NAMESPACE, in the environment")

    async def ask() -> str:
        found = await client.get(PODS, name, namespace)
        return str(found.get("spec", {}).get("nodeName") or "")

    node = await persist(ask, f"Couldn't read pod {namespace}/{name}", log=log)
    if not node:
        raise UserError(f"POD_NAME: pod {namespace}/{name} is on no node")
    return node
