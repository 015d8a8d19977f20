"""Pod to pod over flanneld alone, beside the same tunnel set up by hand with `ip`: iperf3, in pairs, medians of their ratios.

Both pairs of nodes hang on one switch, and who is measured first changes with each round. Ours runs with flanneld's own
default flags, and once more with --ip-masq, which has the kernel track connections. Target: at least 0.98 of the hand-made
one, by default. Both have pods of the MTU in subnet.env.

`way_ratio` is the same for the way itself, without the two programs (bench/throughput.py): steady, even on a busy machine.

Of the tunnels those are measured that this kernel can make; the others are named (in the virtual machine of tests/vm there
are all, and the ratio is what counts there). BENCH_THROUGHPUT_ROUNDS (9) scales it, BENCH_THROUGHPUT_CASES chooses.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bench.throughput import costs, iperf

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "flanneld")]

from backend_rows import PSK, KernelIpsecNode, RowNode, has_esp  # noqa: E402
from site_of_nodes import CONFIG, Node, Site, ping_once, until  # noqa: E402

from tests.kernelmodules import lacks  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_THROUGHPUT_ROUNDS", "9"))
TARGET = 0.98
VXLAN = """ip link add hand address {mac} type vxlan id 9 local {ip} dev eth0 dstport 8472 nolearning
ip addr add {subnet}.0/32 dev hand
ip link set hand mtu 1450 up
ip neigh add {other_subnet}.0 lladdr {other_mac} dev hand nud permanent
bridge fdb add {other_mac} dev hand dst {other_ip} self permanent
ip route add {other_subnet}.0/24 via {other_subnet}.0 dev hand onlink"""
ROUTE = "ip route add {other_subnet}.0/24 via {other_ip}"
IPIP = """ip link add hand type ipip local {ip} ttl inherit nopmtudisc
ip addr add {subnet}.0/32 dev hand
ip link set hand mtu 1480 up
ip route add {other_subnet}.0/24 via {other_ip} dev hand onlink"""
WIREGUARD = """ip link add hand type wireguard
ip addr add {subnet}.0/32 dev hand
wg set hand private-key {key_file} listen-port 51820 peer {other_key} endpoint {other_ip}:51820 allowed-ips {other_subnet}.0/24
ip link set hand mtu 1420 up
ip route add {other_subnet}.0/24 dev hand"""
STATE = "proto esp spi {spi} reqid 1 mode tunnel replay-window 32 aead rfc4106(gcm(aes)) 0x" + "1f" * 20 + " 128"
IPSEC = f"""ip xfrm state add src {{ip}} dst {{other_ip}} {STATE.format(spi="{own_spi}")}
ip xfrm state add src {{other_ip}} dst {{ip}} {STATE.format(spi="{other_spi}")}
""" + "\n".join(
    f"ip xfrm policy add src {{{a}subnet}}.0/24 dst {{{b}subnet}}.0/24 dir {way} "
    f"tmpl src {{{a}ip}} dst {{{b}ip}} proto esp reqid 1 mode tunnel"
    for way, a, b in (("out", "", "other_"), ("fwd", "other_", ""), ("in", "other_", "")))


class Case(NamedTuple):
    """A backend, and its like by hand."""

    backend: str
    mtu: int
    by_hand: str
    flag: str = "-ip-masq=false"
    options: Mapping[str, Any] = MappingProxyType({})
    kind: type[Node] = RowNode

    def missing(self) -> str:
        """What this kernel lacks for it, if anything."""
        if self.backend == "ipsec":
            return "" if has_esp() else "this kernel has no ESP (module esp4)"
        return lacks(self.backend) if self.backend in ("ipip", "wireguard") else ""


CASES = {
    "vxlan": Case("vxlan", 1450, VXLAN), "vxlan, masquerading": Case("vxlan", 1450, VXLAN, "-ip-masq"),
    "host-gw": Case("host-gw", 1500, ROUTE), "ipip": Case("ipip", 1480, IPIP), "wireguard": Case("wireguard", 1420, WIREGUARD),
    "ipsec": Case("ipsec", 1423, IPSEC, options={"PSK": PSK}, kind=KernelIpsecNode),
}


def run(json_path: str | None) -> dict[str, Any]:
    chosen = os.environ.get("BENCH_THROUGHPUT_CASES", "").split(",")
    results = {}
    for name, case in CASES.items():
        if chosen != [""] and name not in chosen:
            continue
        if reason := case.missing():
            print(f"{name:<20} not measured: {reason}")
            continue
        result = results[name] = measure(case)
        wanted = f"target {TARGET}" if "masquerading" not in name else "no target"
        print(f"{name:<20} ours {result['ours_gbit']:6.3f}   by hand {result['by_hand_gbit']:6.3f} Gbit/s   "
              f"ratio {result['ratio']:.3f}   {wanted}   the way alone {result['way_ratio']:.3f}", flush=True)
    if json_path:
        Path(json_path).write_text(json.dumps({"target": TARGET, "cases": results}, indent=1) + "\n")
    return results


def measure(case: Case) -> dict[str, Any]:
    """One backend beside its like by hand."""
    with tempfile.TemporaryDirectory(prefix="bench-flanneld-") as directory:
        site = Site(Path(directory))
        site.kind = case.kind
        ours: list[Node] = []
        try:
            site.etcd.start()
            site.configure({**CONFIG, "Backend": {"Type": case.backend, **case.options}})
            ours += [site.add_node() for _ in range(2)]
            for node in ours:
                node.start(case.flag)
            site.kind = Node
            by_hand = [site.add_node() for _ in range(2)]
            lay(case, by_hand)
            site.add_pods()
            pairs = [("by_hand", by_hand), ("ours", ours)]
            for _, (one, two) in pairs:
                until(lambda: ping_once(one.pod, two.pod_ip, 0.5), "pods reach each other", 60)  # noqa: B023
            way = costs({name: (one.pod.path, two.pod.path, two.pod_ip) for name, (one, two) in pairs if one.pod and two.pod}, 5)
            gbit: dict[str, list[float]] = {name: [] for name, _ in pairs}
            for _ in range(ROUNDS):
                for name, (one, two) in pairs:
                    assert one.pod
                    assert two.pod
                    gbit[name].append(iperf(one.pod.path, two.pod.path, two.pod_ip))
                pairs.reverse()
        finally:
            for node in ours:
                if node.daemon:
                    node.stop()
                if isinstance(node, RowNode):
                    node.close()
            site.close()
    medians = {f"{name}_gbit": round(statistics.median(found), 3) for name, found in gbit.items()}
    ratios = [own / other for own, other in zip(gbit["ours"], gbit["by_hand"], strict=True)]
    way_ratio = round(way["by_hand"] / way["ours"], 3)
    return {**medians, "ratio": round(statistics.median(ratios), 3), "way_ratio": way_ratio, "cost_us": way, "gbit": gbit}


def lay(case: Case, nodes: list[Node]) -> None:
    """The same by hand, on two nodes without a daemon."""
    facts = [
        {"ip": node.ip, "subnet": f"10.5.{250 + index}", "mac": f"02:99:00:00:00:0{index}", "own_spi": f"0x10{index}",
         "key_file": str(node.directory / "key"), "key": key_of(case, node)} for index, node in enumerate(nodes)]
    for node, own, other in zip(nodes, facts, reversed(facts), strict=True):
        node.subnet_file.write_text(f"FLANNEL_SUBNET={own['subnet']}.1/24\nFLANNEL_MTU={case.mtu}\n")
        node.ns.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        words = {**own, **{f"other_{key}": value for key, value in other.items()}, "other_spi": other["own_spi"]}
        for line in case.by_hand.format(**words).splitlines():
            node.ns.run(line.split())


def key_of(case: Case, node: Node) -> str:
    """A fresh WireGuard key's public half; the other lies in the node's directory."""
    if case.backend != "wireguard":
        return ""
    private = node.ns.run(["wg", "genkey"]).stdout
    (node.directory / "key").write_text(private)
    return str(node.ns.run(["wg", "pubkey"], input=private).stdout.strip())
