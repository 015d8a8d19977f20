"""nftables at scale: cold install of N Services with 2 endpoints each, and one change at 10,000, by our layout and by another.

The other layout is one chain a Service with an anonymous map of its endpoints' chains. Both are written by `nft -f -`
in a fresh namespace; ours is timed from API objects to kernel, nft's part of it as well, the other one's text is ready
made. Medians; the large install of the other layout runs once, because it takes that long.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kube.objects import Endpoint, EndpointPort, EndpointSlice, ObjectMeta, Service, ServicePort, ServiceSpec
from nodecore.net import Family
from proxy.config import Locality
from proxy.ledger import Ledger
from proxy.render.nftables import Layout, Settings
from proxy.snapshot import Snapshot

SIZES = (1_000, 10_000)
CHANGES = 9
LAYOUT = Layout(Family.IPV4, Settings(Locality((ip_network("10.244.0.0/16"),))))


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for size in SIZES:
        rounds = 5 if size == SIZES[0] else 3
        ours = [install_ours(size) for _ in range(rounds)]
        chains = [install_chains(size) for _ in range(rounds if size == SIZES[0] else 1)]
        result[str(size)] = {
            "ours_seconds": median(ours, "install"), "ours_nft_seconds": median(ours, "nft"),
            "ours_change_seconds": median(ours, "change"),
            "chains_seconds": median(chains, "install"), "chains_change_seconds": median(chains, "change"),
            "rounds": {"ours": len(ours), "chains": len(chains)},
        }
    print_table(result)
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=2) + "\n")
    return result


def median(rounds: list[dict[str, float]], what: str) -> float:
    return round(statistics.median(item[what] for item in rounds), 4)


def print_table(result: dict[str, Any]) -> None:
    print("Services x 2   ours, cold  of it nft  chains, cold  ours, one change  chains, one change")
    for size, row in result.items():
        print(f"{size:>12} {row['ours_seconds']:>10.3f} s {row['ours_nft_seconds']:>8.3f} s {row['chains_seconds']:>11.3f} s "
              f"{row['ours_change_seconds'] * 1000:>14.1f} ms {row['chains_change_seconds'] * 1000:>16.1f} ms")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loader(space: Netns) -> Callable[[str], None]:
    nft = Nft(command=("nsenter", f"--net={space.path}", "nft"))
    return lambda script: asyncio.run(nft.load(script))


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


def install_ours(size: int) -> dict[str, float]:
    with Netns.create() as space:
        load, snapshot, ledger = loader(space), Snapshot("node-1"), Ledger()

        def fold() -> None:
            for key in snapshot.dirty:
                ledger.put(key, [part for route in snapshot.routes(key, Family.IPV4)[0] for part in LAYOUT.fragments(route)])
            snapshot.dirty = set()

        for number in range(size):
            snapshot.put_service(f"default/s{number}", service(number))
            snapshot.put_slice(f"default/s{number}-1", endpoints(number, 2 * number, 2 * number + 1))
        start = time.perf_counter()
        fold()
        script = LAYOUT.full_script(ledger.everything())
        ledger.settle()
        nft = timed(lambda: load(script))
        install = time.perf_counter() - start

        def change(turn: int) -> None:
            snapshot.put_slice("default/s7-1", endpoints(7, 14, 60_000 + turn))
            fold()
            load(LAYOUT.delta_script(ledger.pending()))
            ledger.settle()

        change(-1)
        changes = [timed(lambda at=turn: change(at)) for turn in range(CHANGES)]
        return {"install": install, "nft": nft, "change": statistics.median(changes)}


def install_chains(size: int) -> dict[str, float]:
    with Netns.create() as space:
        load = loader(space)
        script = "\n".join(chains_script(size)) + "\n"
        install = timed(lambda: load(script))
        turns = [timed(lambda at=turn: load("\n".join(chains_change(7, at)) + "\n")) for turn in range(3)]
        return {"install": install, "change": statistics.median(turns)}


def chains_script(size: int) -> Iterator[str]:
    yield "table ip chains {"
    yield "map services { type ipv4_addr . inet_proto . inet_service : verdict; }"
    yield "chain services {\nip daddr . meta l4proto . th dport vmap @services\n}"
    yield "chain output {\ntype nat hook output priority -100;\njump services\n}"
    yield "chain prerouting {\ntype nat hook prerouting priority dstnat;\njump services\n}"
    yield "}"
    for number in range(size):
        yield from (f"add chain ip chains {name}" for name in (f"s{number}", f"s{number}-a", f"s{number}-b"))
    for number in range(size):
        yield from chains_rules(number, pod(2 * number), pod(2 * number + 1))
    elements = [f"{vip(number)} . tcp . 80 : goto s{number}" for number in range(size)]
    for start in range(0, size, 2000):
        yield f"add element ip chains services {{ {', '.join(elements[start : start + 2000])} }}"


def chains_rules(number: int, *pods: str) -> Iterator[str]:
    name = f"s{number}"
    outside = "ip saddr != 10.244.0.0/16 meta mark set meta mark or 0x4000"
    yield f"add rule ip chains {name} ip daddr {vip(number)} tcp dport 80 {outside}"
    yield f"add rule ip chains {name} numgen random mod 2 vmap {{ 0 : goto {name}-a, 1 : goto {name}-b }}"
    for address, letter in zip(pods, "ab", strict=True):
        yield f"add rule ip chains {name}-{letter} ip saddr {address} meta mark set meta mark or 0x4000"
        yield f"add rule ip chains {name}-{letter} meta l4proto tcp dnat to {address}:8080"


def chains_change(number: int, turn: int) -> Iterator[str]:
    for suffix in ("", "-a", "-b"):
        yield f"flush chain ip chains s{number}{suffix}"
    yield from chains_rules(number, pod(2 * number), pod(60_000 + turn))


if __name__ == "__main__":
    run(None)
