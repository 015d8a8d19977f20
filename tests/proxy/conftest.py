from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_api import Api
from proxy_net import World, eventually, world

ROOT = Path(__file__).parents[2]


class Agent:
    """A running proxy on the world's node, as its own process, told to be ready through sd_notify."""

    def __init__(self, net: World, directory: Path, *flags: str) -> None:
        self.net, self.directory, self.flags = net, directory, flags
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "proxy.log"
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(str(directory / "notify"))
        self.ready.settimeout(10)

    def start(self, *, wait: bool = True) -> None:
        argv = [sys.executable, "-m", "proxy", "--kubeconfig", str(self.directory / "kubeconfig"), "--proxy-mode", "nftables",
                "--hostname-override", "node-1", "--cluster-cidr", "10.244.0.0/16", *self.flags]
        with self.log.open("ab") as log:
            self.process = self.net.spaces["node"].popen(
                argv, cwd=ROOT, stderr=log, stdout=log, env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")})
        if wait:
            try:
                assert self.ready.recv(100) == b"READY=1"
            except TimeoutError:
                pytest.fail(f"not ready, running: {self.process.poll()}\n{self.log.read_text()}")

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process = None
        return code

    def close(self) -> None:
        self.kill()
        self.ready.close()

    def table(self) -> str:
        found = self.net.spaces["node"].run(["nft", "-s", "list", "table", "ip", "kube-proxy"], check=False)
        return found.stdout


@pytest.fixture(scope="module")
def net() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with world() as made:
        yield made


def listen(net: World, port: int = 0) -> socket.socket:
    with net.spaces["node"].enter():
        sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    return sock


@pytest.fixture(scope="module")
def served(net: World) -> Iterator[tuple[Api, int]]:
    api, sock = Api(), listen(net)
    port = sock.getsockname()[1]
    api.start(sock)
    yield api, port
    api.stop()


@pytest.fixture
def api(served: tuple[Api, int]) -> Iterator[Api]:
    yield served[0]
    served[0].hold()
    served[0].clear()


@pytest.fixture
def agent(net: World, served: tuple[Api, int], api: Api, tmp_path: Path) -> Iterator[Agent]:
    """Not started yet."""
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{served[1]}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    (tmp_path / "kubeconfig").write_text(json.dumps(
        {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}))
    made = Agent(net, tmp_path)
    try:
        yield made
    finally:
        made.close()
        net.spaces["node"].run(["nft", "flush", "ruleset"])
        net.spaces["node"].run(["conntrack", "-F"], check=False)


@pytest.fixture(scope="module")
def running(net: World, served: tuple[Api, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One that serves a whole module."""
    directory = tmp_path_factory.mktemp("proxy")
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{served[1]}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    (directory / "kubeconfig").write_text(json.dumps(
        {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}))
    made = Agent(net, directory)
    try:
        made.start()
        yield made
    finally:
        made.close()


def settled(net: World, address: str, port: int, protocol: str = "tcp") -> None:
    """Wait until the map knows a Service's port."""
    element = f"{{ {address} . {protocol} . {port} }}"
    get = ["nft", "get", "element", "ip", "kube-proxy", "services", element]
    eventually(lambda: net.spaces["node"].run(get, check=False).returncode == 0, what=f"service {element}")
