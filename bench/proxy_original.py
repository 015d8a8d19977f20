"""Beside the original: Go kube-proxy 1.20 and ours on the same Services, cold start, one change, memory, in one run.

The original has to be built once (`python -m tests.original`); it has no nftables mode, so ours in that mode stands beside both
variants of iptables. Both have the same API. The original's cold start ends with its first sync, by its metrics; ours when it
says that it is ready. A change is timed from the event to the end of the sync that it causes, by the metrics of either.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, load

from tests.original import KUBE_PROXY

SIZE, CHANGES, MEASURED = 5_000, 5, 7
VARIANTS = ("legacy", "nft")
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:10249/metrics', timeout=30).read().decode())"
LAST = re.compile(r"^kubeproxy_sync_proxy_rules_last_timestamp_seconds (\S+)$", re.MULTILINE)


class Ours(Site):
    """A node with ours on it; its metrics have the original's names."""

    def synced(self, after: float) -> float:
        """When the first sync that ended later than that did."""
        while True:
            found = LAST.search(self.space.run([sys.executable, "-S", "-c", METRICS], check=False).stdout)
            if found and float(found[1]) > after:
                return float(found[1])
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text()[-3000:])
            time.sleep(0.05)

    def change(self, turn: int) -> float:
        begun = time.time()
        self.api.change(MEASURED, 2 * MEASURED, 60_000 + turn)
        return self.synced(begun) - begun


class Original(Ours):
    """The same node with Go kube-proxy on it."""

    def start(self, *flags: str) -> float:
        programs = self.directory / "bin"
        programs.mkdir()
        for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"):
            (programs / name).symlink_to(f"/usr/sbin/xtables-{self.variant}-multi")
        argv = [str(KUBE_PROXY), "--kubeconfig", str(self.directory / "kubeconfig"), "--proxy-mode", "iptables",
                "--kube-api-content-type", "application/json", "--bind-address", "127.0.0.1", "--cluster-cidr", "10.128.0.0/9",
                "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0",
                "--conntrack-tcp-timeout-close-wait", "0", "--hostname-override", "node-1", *flags]
        with (self.directory / "log").open("ab") as log:
            begun = time.time()
            self.process = self.space.popen(argv, stderr=log, stdout=log, env=os.environ | {
                "PATH": f"{programs}:{os.environ['PATH']}"})
        return self.synced(begun) - begun


def measure(site: Ours) -> dict[str, float]:
    with site:
        cold = site.start()
        site.api.await_watchers()
        changes = []
        for turn in range(CHANGES):
            time.sleep(2.5)
            changes.append(site.change(turn))
        return {"cold_seconds": round(cold, 2), "change_seconds": round(statistics.median(changes), 4),
                "memory_mb": round(site.memory()[0], 1)}


def run(json_path: str | None) -> dict[str, Any]:
    if not KUBE_PROXY.exists():
        sys.exit("Go kube-proxy is not built: python -m tests.original")
    result: dict[str, Any] = {"load": load(), "services": SIZE}
    rows = {"ours nftables": Ours(SIZE), **{
        f"{who} iptables-{variant}": make(SIZE, f"iptables-{variant}")
        for variant in VARIANTS for who, make in (("ours", Ours), ("Go 1.20", Original))}}
    for name, site in rows.items():
        result[name] = found = measure(site)
        print(f"{SIZE} x 2  {name:<24} cold {found['cold_seconds']:>6.2f} s   one change {found['change_seconds']:>8.4f} s   "
              f"{found['memory_mb']:>6.1f} MB", flush=True)
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
