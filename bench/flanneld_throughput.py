"""Pod to pod over flanneld alone, beside the same tunnel set up by hand with `ip`: iperf3, turn by turn in one run, medians.

Both pairs of nodes hang on one switch. Ours runs with flanneld's own default flags, and once more with --ip-masq, which has
the kernel track connections. Target: at least 0.98 of the hand-made one, by default. BENCH_THROUGHPUT_ROUNDS (9) scales it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.throughput import iperf

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "flanneld")]

from site_of_nodes import CONFIG, Node, Site  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_THROUGHPUT_ROUNDS", "9"))
TARGET = 0.98
CASES = {
    "vxlan": ("vxlan", "-ip-masq=false"), "vxlan, masquerading": ("vxlan", "-ip-masq"), "host-gw": ("host-gw", "-ip-masq=false"),
}
VXLAN = """ip link add vx address {mac} type vxlan id 9 local {ip} dev eth0 dstport 8472 nolearning
ip addr add {subnet}.0/32 dev vx
ip link set vx mtu 1450 up
ip neigh add {other_subnet}.0 lladdr {other_mac} dev vx nud permanent
bridge fdb add {other_mac} dev vx dst {other_ip} self permanent
ip route add {other_subnet}.0/24 via {other_subnet}.0 dev vx onlink"""
ROUTE = "ip route add {other_subnet}.0/24 via {other_ip}"
BY_HAND = {"vxlan": VXLAN, "host-gw": ROUTE}


def run(json_path: str | None) -> dict[str, Any]:
    results = {name: measure(backend, flag) for name, (backend, flag) in CASES.items()}
    for name, result in results.items():
        wanted = f"target {TARGET}" if "masquerading" not in name else "no target"
        print(f"{name:<20} ours {result['ours_gbit']:6.2f}   by hand {result['by_hand_gbit']:6.2f} Gbit/s   "
              f"ratio {result['ratio']:.3f}   {wanted}")
    if json_path:
        Path(json_path).write_text(json.dumps({"target": TARGET, "cases": results}, indent=1) + "\n")
    return results


def measure(backend: str, flag: str) -> dict[str, Any]:
    """One backend beside its like by hand."""
    with tempfile.TemporaryDirectory(prefix="bench-flanneld-") as directory:
        site = Site(Path(directory))
        try:
            site.etcd.start()
            site.configure({**CONFIG, "Backend": {"Type": backend}})
            ours, by_hand = [[site.add_node() for _ in range(2)] for _ in range(2)]
            for node in ours:
                node.start(flag)
            lay(backend, by_hand)
            site.add_pods()
            pairs = {"by_hand": by_hand, "ours": ours}
            gbit: dict[str, list[float]] = {name: [] for name in pairs}
            for _ in range(ROUNDS):
                for name, (one, two) in pairs.items():
                    assert one.pod
                    assert two.pod
                    gbit[name].append(iperf(one.pod.path, two.pod.path, two.pod_ip))
        finally:
            site.close()
    medians = {f"{name}_gbit": round(statistics.median(found), 3) for name, found in gbit.items()}
    return {**medians, "ratio": round(medians["ours_gbit"] / medians["by_hand_gbit"], 3), "gbit": gbit}


def lay(backend: str, nodes: list[Node]) -> None:
    """The same by hand, on two nodes without a daemon."""
    facts = [{"ip": node.ip, "subnet": f"10.5.{250 + index}", "mac": f"02:99:00:00:00:0{index}"}
             for index, node in enumerate(nodes)]
    for node, own, other in zip(nodes, facts, reversed(facts), strict=True):
        node.subnet_file.write_text(f"FLANNEL_SUBNET={own['subnet']}.1/24\n")
        node.ns.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        script = BY_HAND[backend].format(**own, **{f"other_{key}": value for key, value in other.items()})
        for line in script.splitlines():
            node.ns.run(line.split())
