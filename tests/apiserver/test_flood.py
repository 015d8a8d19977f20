"""A flood: hundreds of clients that list everything and write without a pause. Nodes' heartbeats are answered all the while."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.apiserver.storage.objects import encode
from nodecore.etcd.client import EtcdClient, EtcdConfig, Put
from tests.apiserver.apiprocess import ROOT, ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
USERS, PODS, CONNECTIONS, BEATS = 8, 2000, 300, 15
KUBELET_SECONDS = 10  # a kubelet gives a lease's renewal up after a quarter of its 40 seconds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f'token-{number},user-{number},uid-{number},"crowd"\n' for number in range(USERS)))
    with EtcdServer.start() as etcd:
        asyncio.run(fill(etcd))
        api = ApiServer.start(etcd, "--token-auth-file", str(tokens))
        try:
            rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
            api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "crowd"}, "rules": rules})
            api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
                "metadata": {"name": "crowd"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                                                           "name": "crowd"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "crowd"}]})
            assert api.call("POST", "/api/v1/nodes", {"metadata": {"name": "node-1"}}).code == 201
            yield api
        finally:
            api.close()


async def fill(etcd: EtcdServer) -> None:
    def pod(number: int) -> Any:
        container = {"name": "c", "image": "i", "env": [{"name": f"N{i}", "value": "v" * 100} for i in range(15)]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}", "namespace": "default", "uid": f"u{number}",
                "labels": {"app": "web"}}, "spec": {"containers": [container]}}

    async with EtcdClient(EtcdConfig(etcd.endpoints)) as client:
        for first in range(0, PODS, 100):
            await client.txn([], [Put(f"/registry/pods/default/p{at}", encode(pod(at))) for at in range(first, first + 100)])


class Heartbeats(threading.Thread):
    """What a kubelet does: its lease renewed, its status written, its pods listed; each to be answered in time."""

    def __init__(self, api: ApiServer) -> None:
        super().__init__()
        self.api, self.over, self.answered, self.wrong = api, threading.Event(), 0, list[str]()

    def beat(self, method: str, path: str, body: Any = None) -> Any:
        content = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
        try:
            found = self.api.call(method, path, body, user="kubelet", content=content, seconds=KUBELET_SECONDS)
        except OSError as error:
            self.wrong.append(f"{method} {path}: {error}")
            return {}
        self.answered += found.code < 300
        if found.code >= 300:
            self.wrong.append(f"{method} {path}: {found.code} {found.body}")
        return found.body

    def run(self) -> None:
        lease = self.beat("POST", LEASES, {"metadata": {"name": "node-1"}, "spec": {"holderIdentity": "node-1"}})
        while not self.over.wait(0.2):
            lease["spec"]["renewTime"] = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            lease = self.beat("PUT", f"{LEASES}/node-1", lease) or lease
            condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "beating"}
            self.beat("PATCH", "/api/v1/nodes/node-1/status", {"status": {"conditions": [condition]}})
            self.beat("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&limit=500")


def test_heartbeats_outlive_a_flood(server: ApiServer) -> None:
    before = server.resident()
    argv = [sys.executable, str(ROOT / "tests/apiserver/flooding.py"), server.url, str(server.file("ca.crt")),
            ",".join(f"token-{number}" for number in range(USERS)), str(CONNECTIONS)]
    heart = Heartbeats(server)
    flood = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert flood.stdout
        assert flood.stdout.readline() == "begun\n"
        heart.start()
        until(lambda: heart.answered >= BEATS or heart.wrong, seconds=120, what="heartbeats")
        grown = server.resident() - before
        heart.over.set()
        heart.join(60)
        counts = json.loads(flood.communicate(timeout=60)[0])
    finally:
        heart.over.set()
        flood.kill()
        flood.communicate()
    print(f"{heart.answered} heartbeats; the flood: {counts}; grown by {grown / 1e6:.0f} MB")
    assert heart.wrong == []
    assert counts["200"] > 0
    assert counts["201"] > 50
    assert grown < 250_000_000
    assert "Traceback" not in server.file("log").read_text()


def test_those_who_read_nothing_cost_next_to_nothing(server: ApiServer) -> None:
    """Each has asked for a list of some megabytes that is not made for it alone; others are served meanwhile."""
    assert len(json.dumps(server.call("GET", "/api/v1/pods").body)) > 3_000_000
    before, held = server.resident(), []
    try:
        for _ in range(60):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            line = server.context().wrap_socket(sock, server_hostname="127.0.0.1")
            line.sendall(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n")
            assert line.recv(12) == b"HTTP/1.1 200"
            held.append(line)
        assert server.call("GET", "/api/v1/pods?limit=10").code == 200
        assert server.resident() - before < 90_000_000
    finally:
        for line in held:
            line.close()
