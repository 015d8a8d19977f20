"""A real etcd for tests: one member or several, plain or TLS, killed and brought back at will.

    with EtcdServer.start() as server:                 # one member on free ports, a temporary data directory
        EtcdClient(EtcdConfig(server.endpoints))
        server.kill9(); server.restart()               # same ports, same data
    with EtcdCluster.start(3) as cluster:              # cluster.members[0].kill9()
    with EtcdServer.start(tls=make_pki(tmp_path)) as server: EtcdConfig(server.endpoints, pki.ca, pki.cert, pki.key)

As pytest fixtures (import them into a conftest or a test module): `etcd_server` (one per test), `shared_etcd` (one per
module, for tests that use keys of their own). The durability of the disk is switched off: speed, not power cuts.
"""

from __future__ import annotations

import datetime
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ETCD = shutil.which("etcd") or "/usr/bin/etcd"


@dataclass(frozen=True)
class Pki:
    """PEM file names: one CA, one certificate that serves for server and client alike (127.0.0.1, localhost)."""

    ca: str
    cert: str
    key: str


PORTS = range(12000, 29000)  # below those the kernel gives out by itself, which may be taken again at any moment
CLAIMS: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, and that no other test process takes as long as this one lives, whoever listens there meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port, claim = random.SystemRandom().choice(PORTS), socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0flanneld-py-tests-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        CLAIMS.append(claim)
        found.append(port)
    return found


@dataclass
class EtcdServer:
    """One member; `endpoint` is its URL, `log` its output."""

    name: str
    client_port: int
    peer_port: int
    directory: Path
    tls: Pki | None = None
    extra: tuple[str, ...] = ()
    initial: str = ""
    client_auth: bool = True  # with tls: clients must have a certificate too
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def start(cls, *, tls: Pki | None = None, extra: tuple[str, ...] = (), client_auth: bool = True) -> EtcdServer:
        """A single member, answering."""
        client, peer = free_ports(2)
        server = cls("m0", client, peer, Path(tempfile.mkdtemp(prefix="etcd-test-")), tls, extra, client_auth=client_auth)
        try:
            server.restart()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self.endpoint,)

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def launch(self) -> None:
        """Start the process without waiting for it to answer."""
        argv = [
            ETCD, "--name", self.name, "--data-dir", str(self.directory / "data"), "--unsafe-no-fsync", "--logger", "zap",
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", self.initial or f"{self.name}={self.peer_url}",
            "--heartbeat-interval", "50", "--election-timeout", "500", *self.extra,
        ]
        if self.tls:
            argv += ["--cert-file", self.tls.cert, "--key-file", self.tls.key]
            argv += ["--trusted-ca-file", self.tls.ca, "--client-cert-auth"] if self.client_auth else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)

    def restart(self, timeout: float = 60) -> None:
        """Start it (again) and wait until it answers."""
        self.launch()
        self.wait(timeout)

    def wait(self, timeout: float = 60) -> None:
        """Wait until it says it is healthy, which takes a leader."""
        deadline = time.monotonic() + timeout
        while not self._healthy():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _healthy(self) -> bool:
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=self.tls.ca)
            context.load_cert_chain(self.tls.cert, self.tls.key)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
        )
        try:
            with opener.open(f"{self.endpoint}/health", timeout=10) as reply:
                return str(json.load(reply)["health"]).lower() == "true"
        except (OSError, ValueError):
            return False

    def kill9(self) -> None:
        """End it without a chance to say goodbye."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it where it stands: connections stay open, nothing answers (SIGSTOP); `resume` ends that."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> EtcdServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class EtcdCluster:
    """Several members of one cluster."""

    members: list[EtcdServer]

    @classmethod
    def start(cls, count: int = 3) -> EtcdCluster:
        ports = free_ports(2 * count)
        members = [
            EtcdServer(f"m{i}", ports[2 * i], ports[2 * i + 1], Path(tempfile.mkdtemp(prefix="etcd-test-"))) for i in range(count)
        ]
        initial = ",".join(f"{member.name}={member.peer_url}" for member in members)
        cluster = cls(members)
        try:
            for member in members:
                member.initial = initial
                member.launch()
            for member in members:
                member.wait()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def close(self) -> None:
        for member in self.members:
            member.close()

    def __enter__(self) -> EtcdCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def make_pki(directory: Path, *addresses: str) -> Pki:
    """A CA and one certificate of it, made in `directory`; for more addresses than 127.0.0.1, if given."""
    from minik8s.pki.authority import Authority, Identity

    authority = Authority()
    pair = authority.issue(Identity("etcd", names=("localhost", "127.0.0.1", *addresses)), datetime.timedelta(days=1))
    for name, text in (("ca.crt", authority.pair.certificate), ("etcd.crt", pair.certificate), ("etcd.key", pair.key)):
        (directory / name).write_bytes(text)
    return Pki(*(str(directory / name) for name in ("ca.crt", "etcd.crt", "etcd.key")))


@pytest.fixture
def etcd_server() -> Iterator[EtcdServer]:
    with EtcdServer.start() as server:
        yield server


@pytest.fixture(scope="module")
def shared_etcd() -> Iterator[EtcdServer]:
    with EtcdServer.start() as server:
        yield server
