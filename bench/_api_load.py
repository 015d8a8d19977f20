"""What the measurements of the API server share: a server with its etcd, wrk against it, and who used how much processor time.

wrk is written in C: 50 us of processor time a request. It is told beside the server's and etcd's, as all three share two
cores. Read next: `bench/apiserver.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodecore.etcd.client import EtcdClient

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tests.apiserver.apiprocess import ApiServer  # noqa: E402
from tests.etcdserver import EtcdServer  # noqa: E402

TOKEN = "bench-token"
TICKS = os.sysconf("SC_CLK_TCK")
PODS = "/api/v1/namespaces/default/pods"


def pod(number: int, **labels: str) -> dict[str, Any]:
    """About 3 kB of JSON, as a pod of the demo is once it runs."""
    name = f"web-6d4cf56db6-{number:06}"
    container = {
        "name": "web", "image": "registry.example/web:1.0", "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"VARIABLE_{i}", "value": f"value number {i} of {name}"} for i in range(12)],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}, "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": f"v{i}", "mountPath": f"/var/run/mounts/{i}", "readOnly": True} for i in range(4)],
    }
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-11-21T04:00:00Z"}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"00000000-0000-0000-0000-{number:012}",
                     "labels": {"app": "web", "pod-template-hash": "6d4cf56db6", **labels},
                     "creationTimestamp": "2026-11-21T04:00:00Z"},
        "spec": {"containers": [container], "nodeName": f"node-{number % 3 + 1}", "restartPolicy": "Always",
                 "volumes": [{"name": f"v{i}", "configMap": {"name": f"config-{i}", "defaultMode": 420}} for i in range(4)]},
        "status": {"phase": "Running", "podIP": "10.244.1.7", "hostIP": "192.168.77.11", "conditions": conditions},
    }


def new_pod() -> dict[str, Any]:
    """What a controller sends: a template's pod, 1 kB."""
    container = {"name": "web", "image": "registry.example/web:1.0", "ports": [{"containerPort": 8080}],
                 "env": [{"name": f"VARIABLE_{i}", "value": f"value {i}"} for i in range(6)],
                 "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                 "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}]}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "11111111-1111-1111-1111-111111111111",
             "controller": True, "blockOwnerDeletion": True}
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "name-of-it", "labels": {"app": "web"}, "ownerReferences": [owner]},
            "spec": {"containers": [container], "volumes": [{"name": "config", "configMap": {"name": "web"}}]}}


@dataclass
class Site:
    """One API server and its etcd."""

    etcd: EtcdServer
    api: ApiServer

    @property
    def pid(self) -> int:
        assert self.api.process
        return self.api.process.pid

    @property
    def resident(self) -> float:
        """Megabytes of the server."""
        return self.api.resident() / 1e6

    def cpu(self) -> tuple[float, float]:
        """Processor seconds of the server and of etcd so far."""
        assert self.etcd.process
        return cpu_of(self.pid), cpu_of(self.etcd.process.pid)

    def connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.api.port, timeout=60, context=self.api.context(""))

    def call(self, connection: http.client.HTTPSConnection, method: str, path: str, body: Any = None,
             content: str = "application/json") -> bytes:
        """One request on a connection that stays open; its body."""
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {TOKEN}", "Content-Type": content})
        with connection.getresponse() as reply:
            found = reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path}: {reply.status} {found[:300]!r}")
        return found

    def start(self) -> float:
        """Start the server; seconds until it is ready."""
        began = time.monotonic()
        self.api.launch()
        self.api.wait()
        return time.monotonic() - began

    def stop(self) -> None:
        assert self.api.process
        self.api.process.terminate()
        self.api.process.wait(20)


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def site(kind: type[ApiServer] = ApiServer) -> Iterator[Site]:
    """A server that was started once before, so that its schema files are there; not running yet."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    with EtcdServer.start() as etcd:
        tokens = Path(tempfile.mkstemp(prefix="tokens-")[1])
        tokens.write_text(f'{TOKEN},bench,bench-uid,"system:masters"\n')
        api = kind.start(etcd, "--token-auth-file", str(tokens))
        made = Site(etcd, api)
        made.stop()
        try:
            yield made
        finally:
            api.close()
            tokens.unlink()


def fill(etcd: EtcdServer, count: int) -> None:
    """So many pods, straight into etcd."""
    import asyncio

    from nodecore.etcd.client import EtcdClient, EtcdConfig

    async def write() -> None:
        async with EtcdClient(EtcdConfig(etcd.endpoints)) as client:
            await put_pods(client, count)

    asyncio.run(write())


async def put_pods(client: EtcdClient, count: int, **labels: str) -> None:
    from minik8s.apiserver.storage.objects import encode
    from nodecore.etcd.client import Put

    for first in range(0, count, 100):
        pods = (pod(number, **labels) for number in range(first, min(first + 100, count)))
        await client.txn([], [Put(f"/registry/pods/default/{each['metadata']['name']}", encode(each)) for each in pods])


def clear(etcd: EtcdServer) -> None:
    """No pods any more, all in one revision."""
    import asyncio

    from nodecore.etcd.client import EtcdClient, EtcdConfig

    async def remove() -> None:
        async with EtcdClient(EtcdConfig(etcd.endpoints), timeout=30) as client:
            await client.delete_prefix("/registry/pods/")

    asyncio.run(remove())


LUA = """
local count, name = 0, "{name}"
local head, tail = [==[{head}]==], [==[{tail}]==]
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "application/json"
request = function()
  if name == "" then return wrk.format("GET") end
  count = count + 1
  return wrk.format("POST", nil, nil, head .. name .. count .. tail)
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format('RESULT {{"requests":%d,"us":%d,"errors":%d,"p50":%f,"p99":%f}}', summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


def wrk(at: Site, path: str, *, create: str = "", connections: int = 64, seconds: int = 5) -> dict[str, float]:
    """Load for some seconds: GETs of a path, or creations with names that begin with `create`."""
    head, _, tail = json.dumps(new_pod()).partition("name-of-it")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.format(name=create, head=head, tail=tail, token=TOKEN))
        script.flush()
        before, spent = at.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, at.api.url + path],
                              capture_output=True, text=True, check=True, timeout=seconds + 30)
        after, used = at.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search("RESULT (.*)", done.stdout)
    if not match:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    found = json.loads(match[1])
    if found["errors"]:
        raise RuntimeError(f"wrk: {found['errors']} of {found['requests']} requests failed: {done.stdout}")
    per = 1e6 / found["requests"]
    client = used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime
    return {"per_s": found["requests"] / found["us"] * 1e6, "p50_ms": found["p50"], "p99_ms": found["p99"],
            "server_cpu_us": (after[0] - before[0]) * per, "etcd_cpu_us": (after[1] - before[1]) * per,
            "client_cpu_us": client * per}
