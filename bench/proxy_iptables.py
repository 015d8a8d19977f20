"""iptables mode at scale, in both variants: cold install of Services with 2 endpoints each, one change, first packets.

Beside it the layout with a chain per Service and per endpoint. Both are written by `iptables-restore --noflush` in a fresh
namespace; ours is timed from API objects to kernel, the other one's text is ready made. Of first packets: TCP connects to
one Service among all, on the node itself. Medians and the worst change; large installs run once, because of what they take.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.ports import Variant
from nodecore.kube.objects import Endpoint, EndpointPort, EndpointSlice, ObjectMeta, Service, ServicePort, ServiceSpec
from nodecore.net import Family
from proxy.config import Locality
from proxy.ledger import Ledger
from proxy.render.iptables import Layout
from proxy.render.settings import Settings
from proxy.snapshot import Snapshot

SIZES = {Variant.LEGACY: (10, 1_000, 10_000), Variant.NFT: (10, 1_000, 10_000)}
CHANGES = 20
CONNECTS = 1_000
LAYOUT = Layout(Family.IPV4, Settings(Locality((ip_network("10.244.0.0/16"),))))
MEASURED = 7  # the number of the Service that changes and is called
HERE = "10.244.0.14"  # ... and its first endpoint


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for variant, sizes in SIZES.items():
        for size in sizes:
            row = {name: measure(variant, make(size)) for name, make in (("ours", Ours), ("chains", Chains))}
            result[f"{variant.value} {size}"] = row
            print_row(variant, size, row)
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=2) + "\n")
    return result


def print_row(variant: Variant, size: int, row: dict[str, dict[str, float]]) -> None:
    for name, found in row.items():
        print(f"{variant.value:>6} {size:>6} x 2  {name:>6}: cold {found['install_seconds']:>7.3f} s   "
              f"one change p50 {found['change_p50_ms']:>6.1f} ms, worst {found['change_worst_ms']:>6.1f} ms   "
              f"connect p50 {found['connect_p50_us']:>5.0f} us", flush=True)


class Ours:
    """What the proxy does, from objects to script."""

    def __init__(self, size: int) -> None:
        self.snapshot, self.ledger = Snapshot("node-1"), Ledger()
        for number in range(size):
            self.snapshot.put_service(f"default/s{number}", service(number))
            self.snapshot.put_slice(f"default/s{number}-1", endpoints(number, 2 * number, 2 * number + 1))

    def install(self) -> str:
        self.fold()
        script = LAYOUT.full_script(self.ledger.everything())
        self.ledger.settle()
        return script

    def change(self, turn: int) -> str:
        self.snapshot.put_slice(f"default/s{MEASURED}-1", endpoints(MEASURED, 2 * MEASURED, 60_000 + turn))
        self.fold()
        script = LAYOUT.delta_script(self.ledger.pending())
        self.ledger.settle()
        return script

    def restore(self) -> str:
        """The measured Service with the endpoint alone that answers here."""
        self.snapshot.put_slice(f"default/s{MEASURED}-1", endpoints(MEASURED, 2 * MEASURED))
        self.fold()
        return LAYOUT.delta_script(self.ledger.pending())

    def fold(self) -> None:
        for key in self.snapshot.dirty:
            routes, _ = self.snapshot.routes(key, Family.IPV4)
            self.ledger.put(key, [part for route in routes for part in LAYOUT.fragments(route)])
        self.snapshot.dirty = set()


class Chains:
    """A chain per Service and one per endpoint."""

    def __init__(self, size: int) -> None:
        order = [number for number in range(size) if number != MEASURED] + [MEASURED]  # the one that is called comes last
        chains = ["PORTALS", *(f"{kind}{number}" for number in order for kind in ("S", "A", "B"))]
        rules = [rule for number in order for rule in self.rules(number, 2 * number, 2 * number + 1)]
        self.script = "\n".join(["*nat", *(f":{name} - [0:0]" for name in chains), *rules, "-A OUTPUT -j PORTALS", "COMMIT", ""])

    @staticmethod
    def rules(number: int, first: int, second: int) -> Iterator[str]:
        to = f"-d {vip(number)}/32 -p tcp -m comment --comment \"default/s{number} cluster IP\" -m tcp --dport 80"
        yield f"-A PORTALS ! -s 10.244.0.0/16 {to} -j MARK --set-xmark 0x4000/0x4000"
        yield f"-A PORTALS {to} -j S{number}"
        comment = f"-m comment --comment default/s{number}"
        yield f"-A S{number} {comment} -m statistic --mode random --probability 0.5 -j A{number}"
        yield f"-A S{number} {comment} -j B{number}"
        for name, address in (("A", pod(first)), ("B", pod(second))):
            yield f"-A {name}{number} -s {address}/32 {comment} -j MARK --set-xmark 0x4000/0x4000"
            yield f"-A {name}{number} -p tcp {comment} -m tcp -j DNAT --to-destination {address}:8080"

    def install(self) -> str:
        return self.script

    def change(self, turn: int) -> str:
        return self.endpoint(60_000 + turn)

    def restore(self) -> str:
        return self.endpoint(2 * MEASURED)

    def endpoint(self, number: int) -> str:
        rules = [rule for rule in self.rules(MEASURED, 2 * MEASURED, number) if rule.startswith(f"-A B{MEASURED} ")]
        return "\n".join(["*nat", f":B{MEASURED} - [0:0]", *rules, "COMMIT", ""])


def measure(variant: Variant, layout: Ours | Chains) -> dict[str, float]:
    with Netns.create() as space:
        tool = Iptables(prefix=("nsenter", f"--net={space.path}"))

        def load(script: str) -> None:
            asyncio.run(tool.restore(variant, Family.IPV4, script))

        install = timed(lambda: load(layout.install()))
        load(layout.change(-1))
        changes = sorted(timed(lambda at=turn: load(layout.change(at))) for turn in range(CHANGES))
        load(layout.restore())
        return {"install_seconds": round(install, 3), "change_p50_ms": round(statistics.median(changes) * 1000, 1),
                "change_worst_ms": round(changes[-1] * 1000, 1), "connect_p50_us": round(connects(space), 1)}


def connects(space: Netns) -> float:
    """How long a TCP connect through the Service takes, in microseconds."""
    for command in (f"addr add {HERE}/32 dev lo", "link set lo up", "route add 10.96.0.0/16 dev lo"):
        space.run(["ip", *command.split()], check=False)
    took = []
    with space.enter():
        server = socket.create_server((HERE, 8080), backlog=1024)
        for _ in range(CONNECTS):
            caller = socket.socket()
            start = time.perf_counter()
            caller.connect((vip(MEASURED), 80))
            took.append(time.perf_counter() - start)
            server.accept()[0].close()
            caller.close()
    server.close()
    return statistics.median(took) * 1e6


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def vip(number: int) -> str:
    return f"10.96.{number >> 8}.{number & 255}"


def pod(number: int) -> str:
    return f"10.244.{number >> 8 & 255}.{number & 255}"


def service(number: int) -> Service:
    spec = ServiceSpec(cluster_ip=vip(number), ports=[ServicePort(80)])
    return Service(ObjectMeta(name=f"s{number}", namespace="default"), spec)


def endpoints(number: int, *pods: int) -> EndpointSlice:
    return EndpointSlice(
        ObjectMeta(name=f"s{number}-1", namespace="default", labels={"kubernetes.io/service-name": f"s{number}"}),
        endpoints=[Endpoint([pod(item)], node_name="elsewhere") for item in pods], ports=[EndpointPort(8080)],
    )


if __name__ == "__main__":
    run(None)
