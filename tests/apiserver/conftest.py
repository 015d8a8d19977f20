"""One API server over one etcd for the whole package; tests use namespaces and names of their own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer


@pytest.fixture(scope="session")
def api_etcd() -> Iterator[EtcdServer]:
    with EtcdServer.start() as server:
        yield server


@pytest.fixture(scope="session")
def api(api_etcd: EtcdServer) -> Iterator[ApiServer]:
    server = ApiServer.start(api_etcd)
    try:
        yield server
        assert "Traceback" not in server.file("log").read_text(), "whatever all these tests sent is no reason for one"
    finally:
        server.close()


@pytest.fixture(scope="session")
def old_kubectl() -> str:
    """Debian's kubectl 1.20, unpacked from its package; skipped loudly where that cannot be had."""
    directory = Path(tempfile.gettempdir()) / "kubectl-debian"
    binary = directory / "usr/bin/kubectl"
    if not binary.exists():
        with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as place:
            command = ["apt-get", "download", "kubernetes-client"]
            fetched = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            packages = sorted(Path(place).glob("kubernetes-client_1.20.*.deb"))
            if not packages:
                pytest.skip(f"NOT TESTED with Debian 12's kubectl 1.20: {(fetched.stderr or fetched.stdout).strip()[-200:]}")
            subprocess.run(["dpkg", "-x", packages[-1].name, "whole"], cwd=place, check=True)
            with suppress(OSError):  # another process of these tests was quicker
                (Path(place) / "whole").rename(directory)
    return str(binary)
