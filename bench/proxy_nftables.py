"""nftables at scale: cold install of N Services with 2 endpoints each, and one change at 10,000, by our layout and by another.

The other layout is one chain a Service with an anonymous map of its endpoints' chains. Both are written by `nft -f -`
in a fresh namespace; ours is timed from API objects to kernel, nft's part of it as well, the other one's text is ready
made. Medians; the large install of the other layout runs once, because it takes that long.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from _proxy_api import endpoint_slice, pod, service, vip

from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kube.objects import EndpointSlice, Service
from nodecore.net import Family
from proxy.config import Locality
from proxy.ledger import Ledger
from proxy.render.nftables import Layout
from proxy.render.settings import Settings
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


class Ours:
    """Our layout's words for `size` Services, from API objects."""

    def __init__(self, size: int) -> None:
        self.snapshot, self.ledger = Snapshot("node-1"), Ledger()
        for number in range(size):
            self.snapshot.put_service(f"default/s{number}", msgspec.convert(service(number), Service))
            self.put(number, 2 * number, 2 * number + 1)

    def put(self, number: int, *pods: int) -> None:
        """Have a Service answered by these."""
        self.snapshot.put_slice(f"default/s{number}", msgspec.convert(endpoint_slice(number, *pods), EndpointSlice))

    def fold(self) -> None:
        """Take up what has changed."""
        for key in self.snapshot.dirty:
            parts = [part for route in self.snapshot.routes(key, Family.IPV4)[0] for part in LAYOUT.fragments(route)]
            self.ledger.put(key, parts)
        self.snapshot.dirty = set()

    def script(self) -> str:
        """All of it, in one transaction."""
        self.fold()
        script = LAYOUT.full_script(self.ledger.everything())
        self.ledger.settle()
        return script


def install_ours(size: int) -> dict[str, float]:
    with Netns.create() as space:
        load, ours = loader(space), Ours(size)
        start = time.perf_counter()
        script = ours.script()
        nft = timed(lambda: load(script))
        install = time.perf_counter() - start

        def change(turn: int) -> None:
            ours.put(7, 14, 60_000 + turn)
            ours.fold()
            load(LAYOUT.delta_script(ours.ledger.pending()))
            ours.ledger.settle()

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
