from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_api import Api
from proxy_net import World, eventually, shape, world

from nodecore.kernel.ipvs import Ipvs
from tests.conformance import CELL
from tests.kernelmodules import need_ipvs

ROOT = Path(__file__).parents[2]
READY_SECONDS = 180  # a machine in a slow machine takes more than one minute
VARIANTS = ("iptables-nft", "iptables-legacy")
MODES = ("nftables", *(pytest.param(mode, marks=pytest.mark.slow) for mode in (*VARIANTS, "ipvs")))


class Agent:
    """A running proxy on the world's node, as its own process, told to be ready through sd_notify.

    Its mode is nftables, ipvs, or iptables in the variant that `mode` names.
    """

    def __init__(self, net: World, directory: Path, *flags: str, mode: str = "nftables") -> None:
        self.net, self.directory, self.flags, self.mode = net, directory, flags, mode
        self.program: tuple[str, ...] = ("-m", "proxy")
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "proxy.log"
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(str(directory / "notify"))
        self.ready.settimeout(READY_SECONDS)

    def start(self, *, wait: bool = True) -> None:
        mode, _, variant = self.mode.partition("-")
        argv = [sys.executable, *self.program, "--kubeconfig", str(self.directory / "kubeconfig"), "--proxy-mode", mode,
                "--hostname-override", "node-1", "--cluster-cidr", "10.244.0.0/16", *self.flags]
        if variant:
            use_variant(self.net, variant)
        environment = os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify"), "PYTHONPATH": str(ROOT)} | self.environment
        with self.log.open("ab") as log:
            self.process = self.net.spaces["node"].popen(argv, cwd=ROOT, stderr=log, stdout=log, env=environment)
        if wait:
            try:
                assert self.ready.recv(100) == b"READY=1"
            except TimeoutError:
                pytest.fail(f"not ready, running: {self.process.poll()}\n{self.log.read_text()}")

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def close(self) -> None:
        self.kill()
        self.ready.close()

    def rules(self) -> list[str]:
        """What is programmed in its mode, without order, counts and what only waits for its connections to end."""
        node, (mode, _, variant) = self.net.spaces["node"], self.mode.partition("-")
        if variant:
            text = node.run([f"{self.mode}-save"]).stdout
            return sorted(re.sub(r" \[\d+:\d+\]", "", line) for line in text.splitlines() if "KPY-" in line)
        if mode == "nftables":
            return shape(self.table())
        with contextlib.closing(Ipvs(node.path)) as kernel:
            servers = kernel.servers()
            found = kernel.destinations([server.key for server in servers])
        return [*shape(self.table()), *sorted(map(str, servers)),
                *sorted(f"{item.server} {item.address} {item.port}" for item in found if item.weight)]

    def table(self) -> str:
        found = self.net.spaces["node"].run(["nft", "-s", "list", "table", "ip", "kube-proxy-py"], check=False)
        return found.stdout


def use_variant(net: World, variant: str) -> None:
    """Have the node's iptables be of one variant: it is told by a chain of the kubelet's."""
    net.spaces["node"].run([f"iptables-{variant}", "-w", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"], check=False)


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


def configure(directory: Path, port: int) -> None:
    """Write the kubeconfig for the API at this port."""
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    (directory / "kubeconfig").write_text(json.dumps(
        {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}))


@pytest.fixture
def agent(net: World, served: tuple[Api, int], api: Api, tmp_path: Path) -> Iterator[Agent]:
    """Not started yet."""
    configure(tmp_path, served[1])
    made = Agent(net, tmp_path)
    try:
        yield made
    finally:
        made.close()
        print(made.log.read_text() if made.log.exists() else "never started")
        clear_rules(net)


@pytest.fixture(scope="module", params=MODES)
def running(
    net: World, served: tuple[Api, int], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Agent]:
    """One that serves a whole module, in each mode, with the module's `FLAGS`."""
    if request.param == "ipvs":
        need_ipvs()
    directory = tmp_path_factory.mktemp("proxy")
    configure(directory, served[1])
    made = Agent(net, directory, *getattr(request.module, "FLAGS", ()), mode=request.param)
    try:
        made.start()
        yield made
    finally:
        made.close()
        clear_rules(net)


def clear_rules(net: World) -> None:
    """A node without rules and connections."""
    node = net.spaces["node"]
    node.run(["nft", "flush", "ruleset"])
    for program, names in (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")):
        for table in node.run(["cat", f"/proc/net/{names}"], check=False).stdout.split():
            node.run([program, "-w", "-t", table, "-F"])
            node.run([program, "-w", "-t", table, "-X"])
    node.run(["ip", "link", "del", "kube-ipvs0"], check=False)
    node.run(["conntrack", "-F"], check=False)


def settled(net: World, address: str, port: int, protocol: str = "tcp", mode: str = "nftables") -> None:
    """Wait until the rules know a Service's port."""
    node, variant = net.spaces["node"], mode.partition("-")[2]
    element = f"{{ {address} . {protocol} . {port} }}"
    rule = f"-d {address}/32 -p {protocol} "
    if variant:
        eventually(lambda: rule in node.run([f"iptables-{variant}-save"]).stdout, what=rule)
    else:
        get = ["nft", "get", "element", "ip", "kube-proxy-py", "services", element]
        eventually(lambda: node.run(get, check=False).returncode == 0, what=f"service {element}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every row of test_conformance.py is a cell of the table that is printed in the end."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "feature" in params:
            family, protocol = params.get("family"), params.get("protocol", "all")
            column = f"{params.get('running', params.get('mode'))} {f'IPv{family.value}' if family else 'all'} {protocol}"
            item.user_properties.append((CELL, (params["feature"], column)))
