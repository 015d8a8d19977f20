"""The process: sockets and TLS, the HTTP server on them, and the tasks that run for ever.

    bound at once -> schema files -> caches fill from etcd -> default objects -> READY=1

Requests are answered from the first moment; those that need a cache wait for it. Read next: `handler.py`, `cluster.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path

from minik8s.apiserver import schema
from minik8s.apiserver.admission.chain import Chain
from minik8s.apiserver.auth.authenticate import read_tokens
from minik8s.apiserver.auth.guard import Guard
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.config import Flags
from minik8s.apiserver.connections import Connections
from minik8s.apiserver.ending import DRAIN_SECONDS, run_until_told
from minik8s.apiserver.handler import Handler
from minik8s.apiserver.health import Health
from minik8s.apiserver.storage.allocate import Allocator
from minik8s.apiserver.storage.sealed import SealedEtcd
from minik8s.apiserver.storage.sealing import read_sealing
from minik8s.apiserver.upkeep.account_secrets import AccountSecrets
from minik8s.apiserver.upkeep.default_objects import look_after
from minik8s.apiserver.upkeep.flow_objects import keep_conditions
from minik8s.apiserver.upkeep.namespace_objects import NamespaceObjects
from minik8s.apiserver.upkeep.policy_objects import aggregate_for_ever, ensure_policy
from minik8s.apiserver.upkeep.quota_status import keep_status
from minik8s.apiserver.upkeep.signing import Signer
from minik8s.apiserver.verbs.definitions import Definitions
from nodecore.daemon.heap import keep_small, settle
from nodecore.daemon.systemd import listen_sockets, notify, watchdog
from nodecore.etcd.client import EtcdClient
from nodecore.kube.http import web

log = logging.getLogger(__name__)
BACKLOG = 4096


async def serve(flags: Flags) -> None:
    """Serve until a signal ends it."""
    networks, (low, high), limits, bound = flags.networks(), flags.node_ports(), flags.limits(), flags.sockets()
    where = flags.advertised(bound[0].getsockname()[1])
    flags, own = flags.own_certificates(where)
    due = own.ensure() if own else 0.0
    etcd, tls, kubelets, tokens = flags.etcd(), flags.serving(), flags.kubelets(), read_tokens(flags.token_auth_file)
    event_ttl, root_ca = flags.event_seconds(), flags.root_ca()
    audit = flags.audit()
    signing, delay, sealing = flags.signing(), flags.shutdown_delay(), read_sealing(flags.encryption_provider_config)
    sockets = [*listen_sockets().values(), *bound]
    await asyncio.to_thread(schema.prepare, Path(flags.cache_dir))
    async with SealedEtcd(etcd, sealing) if sealing.rules else EtcdClient(etcd) as client:
        cluster = Cluster(client, Allocator(client, networks, low, high), passing_after=event_ttl)
        health = Health(cluster)
        client.observe = health.metrics.asked_etcd
        guard = Guard(cluster, flags.issuing(), tokens, anonymous=flags.anonymous_auth)
        cluster.gate = chain = Chain(cluster, guard.access)
        handler = Handler(cluster, health, guard, kubelets, where.text, audit, limits)
        runner = await _start(handler, sockets, tls.front)
        log.info("serving on %s", ", ".join(_name(sock) for sock in sockets))

        def prepared() -> None:
            if not health.prepared:
                health.prepared = True
                guard.settled.set()
                settle()
                notify("READY=1")
                log.info("ready")

        await run_until_told({
            **cluster.tasks(), "definitions": Definitions(cluster).run(),
            "default objects": look_after(cluster, where, ensure_policy, prepared),
            "certificates": Signer(cluster, guard.access, signing).run(),
            "conditions of flows": keep_conditions(cluster), "quotas": keep_status(cluster, chain.quota),
            "tokens of accounts": AccountSecrets(cluster, guard.accounts, root_ca).run(),
            "objects of namespaces": NamespaceObjects(cluster, flags.root_ca, where.text).run(),
            "aggregated roles": aggregate_for_ever(cluster), "heap": keep_small(), "serving certificates": tls.watch(),
            **({"own certificates": own.keep(due)} if own else {}),
            **({"certificate for kubelets": kubelets.watch()} if kubelets else {}),
            "watchdog": watchdog(lambda: True),
        }, runner, handler, health, delay)


async def _start(handler: Handler, sockets: list[socket.socket], tls: ssl.SSLContext) -> web.ServerRunner:
    runner = web.ServerRunner(Connections(handler), shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    for sock in sockets:
        sock.setblocking(False)  # noqa: FBT003
        await web.SockSite(runner, sock, ssl_context=tls, backlog=BACKLOG).start()
    return runner


def _name(sock: socket.socket) -> str:
    found = sock.getsockname()
    return f"{found[0]}:{found[1]}" if isinstance(found, tuple) else str(found)
