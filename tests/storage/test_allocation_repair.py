"""What a crash leaves of addresses and ports is found: leaks freed, missing keys taken, doubles named, others' let be."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from minik8s.apiserver.storage.allocate import IPS, PORTS, Allocator
from nodecore.etcd.client import EtcdClient
from nodecore.etcd.config import EtcdConfig, parse_endpoints
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd


def service(name: str, address: str, port: int) -> dict[str, Any]:
    spec = {"type": "NodePort", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "nodePort": port}]}
    return {"metadata": {"name": name, "namespace": "d", "uid": f"uid-{name}"}, "spec": spec}


@pytest_asyncio.fixture
async def etcd() -> AsyncIterator[EtcdClient]:
    with EtcdServer.start() as server:
        async with EtcdClient(EtcdConfig(parse_endpoints(server.endpoint, what="test"))) as client:
            yield client


async def test_repair(etcd: EtcdClient) -> None:
    allocator = Allocator(etcd, [ip_network("10.96.0.0/24")], 30000, 30100)
    one, two = service("one", "10.96.0.20", 30020), service("two", "10.96.0.20", 30021)
    leaked = {"owner": "uid-gone", "time": time.time() - 1000}
    await etcd.create(f"{PORTS}30099", msgspec.json.encode(leaked))
    young = {"owner": "uid-coming", "time": time.time()}
    await etcd.create(f"{PORTS}30098", msgspec.json.encode(young))
    foreign = {"metadata": {"name": "10.96.0.50"}, "spec": {"parentRef": {"resource": "gateways", "name": "g"}}}
    await etcd.create(f"{IPS}10.96.0.50", msgspec.json.encode(foreign))
    done = await allocator.repair([one, two])
    assert any("CONFLICT: the Services d/one and d/two both hold /registry/ipaddresses/10.96.0.20" in line for line in done)
    assert f"freed {PORTS}30099" in done
    keys = {kv.key for folder in (IPS, PORTS) for kv in (await etcd.range(folder)).items}
    assert keys == {f"{IPS}10.96.0.20", f"{IPS}10.96.0.50", f"{PORTS}30020", f"{PORTS}30021", f"{PORTS}30098"}
    assert [line for line in await allocator.repair([one]) if "CONFLICT" in line or "10.96.0.20" in line] == []
