"""The command line: one clear line and exit code 2 for what cannot work."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minik8s.pki.authority import Authority, Identity


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority()
    pair = authority.issue(Identity("kubelet", (), ("127.0.0.1",)))
    for name, content in (("ca", authority.pair.certificate), ("crt", pair.certificate), ("key", pair.key)):
        (directory / name).write_bytes(content)
    (directory / "bad").write_text("no certificate")
    (directory / "kubeconfig").write_text("{}")
    return directory


def run(pki: Path, **flags: str) -> tuple[int, str]:
    given = {"kubeconfig": f"{pki}/kubeconfig", "hostname-override": "n", "node-ip": "127.0.0.1", "tls-cert-file": f"{pki}/crt",
             "tls-private-key-file": f"{pki}/key", "client-ca-file": f"{pki}/ca", "address": "127.0.0.1", "port": "0",
             "root-dir": f"{pki}/root", "pod-log-dir": f"{pki}/logs"}
    given |= {key.replace("_", "-"): value for key, value in flags.items()}
    argv = [sys.executable, "-m", "minik8s.kubelet", *(part for key, value in given.items() for part in (f"--{key}", value))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("flag", "value", "words"), [
    ("node_ip", "300.1.1.1", "--node-ip: '300.1.1.1' is not an IP address"),
    ("container_runtime_endpoint", "/run/x.sock", "--container-runtime-endpoint: '/run/x.sock' does not start with unix://"),
    ("cgroup_root", "lab", "--cgroup-root: 'lab' does not start with /"),
    ("tls_cert_file", "", "--tls-cert-file: not given"),
    ("client_ca_file", "/nowhere", "--client-ca-file: no file /nowhere"),
    ("node_labels", "a", "--node-labels: 'a' is not key=value"),
    ("kubeconfig", "/nowhere", "/nowhere: No such file or directory"),
])
def test_wrong_values(pki: Path, flag: str, value: str, words: str) -> None:
    code, text = run(pki, **{flag: value})
    assert (code, text) == (2, f"minik8s kubelet: {words}\n")


def test_wrong_certificates(pki: Path) -> None:
    for flag in ("client_ca_file", "tls_cert_file"):
        code, text = run(pki, **{flag: f"{pki}/bad"})
        assert code == 2
        assert text.startswith(f"minik8s kubelet: --{flag.replace('_', '-')}")
        assert text.count("\n") == 1


def test_a_port_in_use(pki: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = run(pki, port=str(port))
    assert (code, text) == (2, f"minik8s kubelet: --port: cannot listen on 127.0.0.1:{port}: Address already in use\n")
