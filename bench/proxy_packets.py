"""nftables mode, what Services cost a connection: TCP connect through a Service's address, among 10 and among 50,000 of them.

Client, node and server are namespaces; the node forwards, so that the first packet takes the way a pod's does. Turn by turn in
one run; of the turns' medians that which a quarter are below, as what else the machine does can only add to them. Target: among
50,000 within 1.1 of among 10. Beside them a node with a chain a Service, 10 and 10,000 of them, and one without any rule.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_api import pod, vip
from _proxy_site import judged, load, percentile
from proxy_nftables import Ours, chains_script, loader

from nodecore.kernel.netns import Netns

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
CONNECTS = 300
TARGET = 1.1
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closed at once, the port is free again


class Road:
    """Client, node and server in a row; the server has the two pods of Service `number`."""

    def __init__(self, script: str, number: int) -> None:
        self._stack = contextlib.ExitStack()
        self.client, self.node, self.server = (self._stack.enter_context(Netns.create()) for _ in range(3))
        self.pods = [pod(2 * number), pod(2 * number + 1)]
        self._link(self.client, "c", "10.244.250")
        self._link(self.server, "s", "10.244.251")
        self.node.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        for address in self.pods:
            self.server.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
            self.node.run(["ip", "route", "add", f"{address}/32", "via", "10.244.251.2"])
            with self.server.enter():
                listener = self._stack.enter_context(socket.create_server((address, 8080), backlog=1024))
            threading.Thread(target=accept, args=(listener,), daemon=True).start()
        if script:
            loader(self.node)(script)

    def _link(self, space: Netns, name: str, network: str) -> None:
        self.node.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(space.pid)])
        self.node.run(["ip", "addr", "add", f"{network}.1/24", "dev", name])
        self.node.run(["ip", "link", "set", name, "up"])
        space.run(["ip", "addr", "add", f"{network}.2/24", "dev", "eth0"])
        space.run(["ip", "link", "set", "eth0", "up"])
        space.run(["ip", "route", "add", "default", "via", f"{network}.1"])

    def connects(self, address: str, port: int) -> float:
        """Median microseconds of a connect."""
        took = []
        with self.client.enter():
            for _ in range(CONNECTS):
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    begun = time.perf_counter()
                    sock.connect((address, port))
                    took.append(time.perf_counter() - begun)
        return statistics.median(took) * 1e6

    def close(self) -> None:
        self._stack.close()


def accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def run(json_path: str | None) -> dict[str, Any]:
    roads: dict[str, tuple[Road, str, int]] = {}
    try:
        for name, size, script in (
            ("no rule", 1, ""), ("ours, 10", 10, Ours(10).script()), ("ours, 50000", 50_000, Ours(50_000).script()),
            ("chains, 10", 10, chains(10)), ("chains, 10000", 10_000, chains(10_000)),
        ):
            number = size - 1  # the last one
            road = Road(script, number)
            roads[name] = road, *((vip(number), 80) if script else (pod(0), 8080))
        took: dict[str, list[float]] = {name: [] for name in roads}
        for turn in range(ROUNDS):
            for name in sorted(roads, key=lambda name: hash((name, turn))):  # in another order each time
                road, address, port = roads[name]
                took[name].append(road.connects(address, port))
    finally:
        for road, _, _ in roads.values():
            road.close()
    quarter = {name: round(percentile(found, 0.25), 1) for name, found in took.items()}
    print("   ".join(f"{name}: {value:.1f} us" for name, value in quarter.items()))
    ratio = judged("connect among 50,000 beside among 10", quarter["ours, 50000"] / quarter["ours, 10"], TARGET, "x")
    result = {"load": load(), "quarter_us": quarter, "targets": {"ratio": ratio}, "us": took}
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


def chains(size: int) -> str:
    return "\n".join(chains_script(size)) + "\n"


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
