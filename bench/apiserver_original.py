"""Beside the original: Go kube-apiserver 1.20 and ours, each with an etcd of its own, the same load, one after the other.

The original has to be built once (`python -m tests.original kube-apiserver`). The parts are those of `apiserver.py`.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _api_load import ApiServer, site
from apiserver import requests, start, watches

from tests.labs import until
from tests.original import original

ROWS = {"ready_s": "ready, s", "mb_at_rest": "memory at rest, MB", "ready_with_5000_s": "ready with 5,000 pods, s",
        "mb_with_5000": "memory with 5,000 pods, MB", "get_per_s": "GET a pod, 1/s", "create_per_s": "create a pod, 1/s",
        "list_5000_s": "list of 5,000 pods, s", "watchers_1000_p99_ms": "a change to 1,000 watchers, p99, ms",
        "idle_10000_mb": "memory with 10,000 idle watches, MB"}


class Original(ApiServer):
    """Go kube-apiserver with the same certificates."""

    def argv(self) -> list[str]:
        return [
            str(original("kube-apiserver")), "--etcd-servers", self.etcd.endpoint, "--bind-address", "127.0.0.1",
            "--secure-port", str(self.port), "--advertise-address", "127.0.0.1", "--authorization-mode", "Node,RBAC",
            "--disable-admission-plugins", "ServiceAccount",  # there is no controller that makes tokens
            "--tls-cert-file", str(self.file("server.crt")), "--tls-private-key-file", str(self.file("server.key")),
            "--client-ca-file", str(self.file("ca.crt")), "--service-cluster-ip-range", "10.96.0.0/16",
            "--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file",
            str(self.file("server.crt")), "--service-account-signing-key-file", str(self.file("server.key")), *self.extra]

    def wait(self, seconds: float = 90) -> None:
        """It is ready before there is a namespace to work in."""
        super().wait(seconds)
        until(lambda: self.call("GET", "/api/v1/namespaces/default").code == 200)


def run(json_path: str | None) -> dict[str, Any]:
    if not original("kube-apiserver").exists():
        sys.exit("Go kube-apiserver is not built: python -m tests.original kube-apiserver")
    result: dict[str, dict[str, float]] = {}
    for who, kind in (("ours", ApiServer), ("Go 1.20", Original)):
        result[who] = {}
        for part in (start, requests, watches):
            with site(kind) as at:
                result[who] |= part(at)
    print(f"{'':<40}{'ours':>12}{'Go 1.20':>12}")
    for key, words in ROWS.items():
        print(f"{words:<40}{result['ours'][key]:>12,.2f}{result['Go 1.20'][key]:>12,.2f}")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
