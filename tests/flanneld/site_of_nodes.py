"""A site to test on: a switch in a namespace with a real etcd, and nodes on its bridge, each a namespace of its own."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from nodecore.kernel.netns import Netns
from tests.promised import in_time

PATIENT = {"ETCDCTL_DIAL_TIMEOUT": "60s", "ETCDCTL_COMMAND_TIMEOUT": "60s"}  # its own 5 s are little in a virtual machine
ETCD_IP = "192.168.77.254"
CONFIG = {"Network": "10.5.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan"}}


PATIENCE = 25.0  # for a loaded machine, but less than the 30 s after which a daemon looks at everything anyway


def until(what: Callable[[], object], why: str, seconds: float = PATIENCE, every: float = 0.01) -> float:
    """Wait for something to be true; returns how long it took."""
    start = time.monotonic()
    while not what():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds} s: {why}")
        time.sleep(every)
    return time.monotonic() - start


def heals(harm: Callable[[], object], whole: Callable[[], object], why: str, seconds: float) -> float:
    """Do harm and wait until all is whole: in one of three attempts as soon as promised; returns how long it took then."""
    def once() -> float:
        harm()
        return until(whole, why)

    return in_time(once, seconds, why)


class Etcd:
    """A real etcd inside a namespace."""

    def __init__(self, ns: Netns, directory: Path, address: str = ETCD_IP) -> None:
        self.ns, self.directory = ns, directory
        self.url = f"http://{address}:2379"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        peer = "http://127.0.0.1:2380"
        self.process = self.ns.popen(
            ["etcd", "--data-dir", str(self.directory / "etcd"), "--listen-client-urls", f"{self.url},http://127.0.0.1:2379",
             "--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}", "--unsafe-no-fsync", "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=(self.directory / "etcd.log").open("ab"),
        )
        until(self.answers, "etcd answers", 60)

    def answers(self) -> bool:
        try:
            with self.ns.enter(), socket.create_connection(("127.0.0.1", 2379), 1) as sock:
                sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b'"true"' in sock.recv(4096) + sock.recv(4096)
        except OSError:
            return False

    def ctl(self, *arguments: str) -> str:
        return self.ns.run(["etcdctl", *arguments], env=os.environ | {"ETCDCTL_API": "3"} | PATIENT).stdout

    def put(self, key: str, value: str, *more: str) -> None:
        self.ctl("put", key, value, *more)

    def subnets(self) -> dict[str, dict]:
        raw = json.loads(self.ctl("get", "--prefix", "/coreos.com/network/subnets/", "-w", "json"))
        import base64

        return {
            base64.b64decode(kv["key"]).decode().rsplit("/", 1)[1]: json.loads(base64.b64decode(kv["value"]))
            for kv in raw.get("kvs", [])
        }

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Node:
    """A namespace with eth0 on the switch, and maybe a flanneld and a pod."""

    def __init__(self, number: int, ns: Netns, directory: Path) -> None:
        self.number, self.ns = number, ns
        self.ip = f"192.168.77.{number}"
        self.directory = directory / f"node-{number}"
        self.directory.mkdir()
        self.subnet_file = self.directory / "subnet.env"
        self.log = self.directory / "flanneld.log"
        self.environment: dict[str, str] = {}  # more for the daemon
        self.daemon: subprocess.Popen[bytes] | None = None
        self.pod: Netns | None = None

    def arguments(self, *flags: str, etcd: str = f"http://{ETCD_IP}:2379") -> list[str]:
        where = [f"-etcd-endpoints={etcd}", "-iface=eth0", f"-subnet-file={self.subnet_file}"]
        return [sys.executable, "-m", "flanneld_py", *where, *flags]

    def start(self, *flags: str, wait: bool = True) -> None:
        """Start flanneld and wait for READY=1."""
        path = str(self.directory / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(path)
            try:
                environment = os.environ | {"NOTIFY_SOCKET": path} | self.environment
                argv = self.arguments(*(flags or ("-ip-masq",)))
                self.daemon = self.ns.popen(argv, stderr=self.log.open("ab"), env=environment)
                if wait:
                    self._await(ready)
            finally:
                os.unlink(path)

    def _await(self, ready: socket.socket) -> None:
        for _ in range(600):  # a minute, for machines in software
            if select.select([ready], [], [], 0.1)[0]:
                assert ready.recv(100) == b"READY=1"
                return
            assert self.daemon
            assert self.daemon.poll() is None, self.log.read_text()
        raise AssertionError(f"not ready:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGKILL) -> int:
        assert self.daemon
        self.daemon.send_signal(number)
        code = self.daemon.wait(30)
        self.daemon = None
        return code

    def shown(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """`flanneld-py show` here."""
        argv = self.arguments("-ip-masq", *flags)
        argv.insert(argv.index("flanneld_py") + 1, "show")
        return self.ns.run(argv, check=False)

    def show(self, *flags: str, code: int = 0) -> str:
        """What it prints."""
        done = self.shown(*flags)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    def env(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.subnet_file.read_text().splitlines())

    @property
    def subnet(self) -> str:
        """10.5.3.1/24 -> 10.5.3"""
        return self.env()["FLANNEL_SUBNET"].rsplit(".", 1)[0]

    @property
    def pod_ip(self) -> str:
        return f"{self.subnet}.10"

    def gateways(self) -> list[IPv4Interface | IPv6Interface]:
        """Its own address in each of its subnets."""
        env = self.env()
        return [ip_interface(env[key]) for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if key in env]

    def pod_ips(self) -> list[str]:
        """Its pod's address in each of its subnets."""
        return [str(gateway.network[10]) for gateway in self.gateways()]

    def add_pod(self, pod: Netns) -> None:
        """A pod on a bridge, as the CNI plugins would make it."""
        self.pod = pod
        mtu = self.env()["FLANNEL_MTU"]
        for command in (
            "ip link add cni0 type bridge", "ip link set cni0 up",
            f"ip link add pod0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod.pid}", "ip link set pod0 up master cni0",
        ):
            self.ns.run(command.split())
        pod.run(["ip", "link", "set", "eth0", "up"])
        for gateway in self.gateways():
            extra = ["nodad"] if gateway.version == 6 else []
            self.ns.run(["ip", "addr", "add", str(gateway), "dev", "cni0", *extra])
            pod.run(["ip", "addr", "add", f"{gateway.network[10]}/{gateway.network.prefixlen}", "dev", "eth0", *extra])
            pod.run(["ip", f"-{gateway.version}", "route", "add", "default", "via", str(gateway.ip)])

    def mac(self) -> str:
        return json.loads(self.ns.run(["ip", "-j", "link", "show", "flannel.1"]).stdout)[0]["address"]

    def state(self) -> str:
        """What the kernel holds, as its own tools say it, without what changes by itself."""
        commands = (
            "ip -d link show flannel.1", "ip addr show flannel.1", "ip neigh show dev flannel.1 nud permanent",
            "bridge fdb show dev flannel.1", "ip route show dev flannel.1", "nft -s list ruleset",
        )
        text = "\n".join(self.ns.run(command.split(), check=False).stdout for command in commands)
        return re.sub(r"^\d+: |tentative ?", "", text, flags=re.M).replace("link \n", "link\n")


class Site:
    """Switch, etcd, nodes."""

    kind = Node

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = ExitStack()
        self.switch = self.stack.enter_context(Netns.create())
        for command in ("ip link add br0 type bridge", "ip link set br0 up", f"ip addr add {ETCD_IP}/24 dev br0"):
            self.switch.run(command.split())
        self.etcd = Etcd(self.switch, directory)
        self.nodes: list[Node] = []

    def add_node(self) -> Node:
        node = self.kind(len(self.nodes) + 1, self.stack.enter_context(Netns.create()), self.directory)
        self.nodes.append(node)
        self.wire(node)
        return node

    def wire(self, node: Node) -> None:
        """A cable from the switch to a node."""
        veth = f"ip link add veth{node.number} type veth peer name eth0 netns {node.ns.pid}"
        for command in (veth, f"ip link set veth{node.number} up master br0"):
            self.switch.run(command.split())
        for command in ("ip link set eth0 up", f"ip addr add {node.ip}/24 dev eth0", f"ip route add default via {ETCD_IP}"):
            node.ns.run(command.split())

    def add_pods(self) -> None:
        for node in self.nodes:
            node.add_pod(self.stack.enter_context(Netns.create()))

    def configure(self, config: dict | None = None) -> None:
        self.etcd.put("/coreos.com/network/config", json.dumps(config or CONFIG))

    def close(self) -> None:
        for node in self.nodes:
            if node.daemon:
                node.stop()
        self.etcd.kill()
        self.stack.close()
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)


@contextmanager
def pinging(source: Netns, target: str, every: float = 0.01) -> Iterator[Ping]:
    """A ping every 10 ms for as long as the block runs; `lost` is known afterwards."""
    ping = Ping(source, target)
    ping.start(every)
    try:
        yield ping
    finally:
        ping.finish()


class Ping:
    """UDP would ask the far side for an answering program: ICMP echo is answered by the kernel."""

    SCRIPT = """
import os, select, socket, struct, sys, time
target, every = sys.argv[1], float(sys.argv[2])
six = ':' in target
family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
request, reply, skip = (128, 129, 0) if six else (8, 0, 20)
sock = socket.socket(family, socket.SOCK_RAW, protocol)
sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: what comes while others have the processor is not lost
sock.connect((target, 0))
sent, got, ident = set(), set(), os.getpid() & 0xffff
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
def take(wait):
    if here := select.select([sock], [], [], wait)[0]:
        kind, _, _, who, number = struct.unpack('!BBHHH', sock.recv(2048)[skip:skip + 8])
        if kind == reply and who == ident:
            got.add(number)
    return here
def read(end):
    while (left := end - time.monotonic()) > 0:
        take(left)
print('on', flush=True)
number = 0
while not select.select([0], [], [], 0)[0]:
    packet = struct.pack('!BBHHH', request, 0, 0, ident, number)
    try:
        sock.send(struct.pack('!BBHHH', request, 0, checksum(packet), ident, number))
    except OSError:
        pass
    sent.add(number)
    number += 1
    read(time.monotonic() + every)  # a late one is not made up for: who only sends overflows its own buffer and calls it loss
end = time.monotonic() + 5
while sent - got and time.monotonic() < end:  # what is on its way still, had others the processor
    take(0.1)
print(len(sent), len(sent - got), flush=True)
"""

    def __init__(self, source: Netns, target: str) -> None:
        self.source, self.target = source, target
        self.sent = self.lost = -1

    def start(self, every: float) -> None:
        self.process = self.source.popen(
            [sys.executable, "-c", self.SCRIPT, self.target, str(every)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"on\n"

    def finish(self) -> None:
        out, _ = self.process.communicate(timeout=60)
        self.sent, self.lost = map(int, out.split())


def ping_once(source: Netns, target: str, wait: float = 5.0) -> bool:
    """Whether one small echo comes back."""
    return _echo(source, target, 60, wait, fragment=True)


def echo_passes(source: Netns, target: str, size: int, wait: float = 5.0) -> bool:
    """Whether an echo of `size` bytes, all headers counted, that may not be fragmented comes back."""
    return _echo(source, target, size, wait, fragment=False)


def _echo(source: Netns, target: str, size: int, wait: float, *, fragment: bool) -> bool:
    six = ":" in target
    with source.enter():
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    with sock:
        sock.settimeout(wait)
        if not fragment:
            level, option = (socket.IPPROTO_IPV6, 23) if six else (socket.IPPROTO_IP, 10)
            sock.setsockopt(level, option, 2)  # (IPV6|IP)_MTU_DISCOVER = DO
        body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 9, size) + bytes(size - (48 if six else 28))
        if not six:
            total = sum(struct.unpack("!4H", body[:8]))
            body = body[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + body[4:]
        try:
            sock.sendto(body, (target, 0))
            while True:
                answer = sock.recv(65536)[0 if six else 20:]
                if answer[0] == (129 if six else 0) and answer[6:8] == body[6:8]:
                    return True
        except OSError:
            return False


def serve_tcp(ns: Netns, port: int, address: str = "0.0.0.0") -> socket.socket:
    """A listening socket inside; the caller accepts."""
    with ns.enter():
        return socket.create_server((address, port))
