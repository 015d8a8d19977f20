"""A small world in namespaces, with real sockets in it.

    pod-a .2, pod-b .3, pod-c .4 on a bridge 10.244.1.0/24 of `node` (192.168.50.1)
    `far` (192.168.50.3) is another node, with a pod's address 10.244.2.5
    `outside` (192.168.50.2) is nobody's pod
    both route the Services' network to the node

Every address has a sibling in IPv6, with the same numbers: 10.244.1.2 and fd00::10:244:1:2 (`of` says which).
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import sctp

from nodecore.kernel.netns import Netns
from nodecore.net import Family
from tests.promised import in_time

PODS = {"pod-a": "10.244.1.2", "pod-b": "10.244.1.3", "pod-c": "10.244.1.4"}
FAR_POD, FAR_NODE, NODE, OUTSIDE, GATEWAY = "10.244.2.5", "192.168.50.3", "192.168.50.1", "192.168.50.2", "10.244.1.1"
STRANGERS = ("outside", "far", "node")  # callers that are nobody's endpoint


OWNER = "kubernetes.io/service-name"
FAMILIES = (Family.IPV4, Family.IPV6)
ADDRESS = re.compile(r"^(\d+\.\d+\.\d+\.\d+)(?:/(\d+))?$")


def of(family: Family, value: Any) -> Any:
    """Addresses and networks in IPv4, wherever they are in an object, in the family asked for; IPv6 ones become IPv4 there."""
    if family is Family.IPV4:
        return value
    if isinstance(value, dict):
        return {key: of(family, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(of(family, inner) for inner in value)
    if value in ("IPv4", "127.0.0.1"):
        return {"IPv4": "IPv6", "127.0.0.1": "::1"}[value]
    if not isinstance(value, str):
        return value
    if value.startswith("fd00:"):
        return "10.99.0.0/16" if "/" in value else "10.99.0.8"
    if not (found := ADDRESS.match(value)):
        return value
    address = str(ip_address("fd00::" + found[1].replace(".", ":")))
    return f"{address}/{64 + int(found[2]) * 2}" if found[2] else address


@dataclass
class World:
    spaces: dict[str, Netns] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    sockets: list[socket.socket] = field(default_factory=list)
    served: dict[str, set[int]] = field(default_factory=dict)  # ports by address

    def serve(self, space: str, address: str, port: int, name: str) -> None:
        """Answer `name` and the caller's address on TCP, UDP and SCTP; a TCP connection echoes on until it is closed."""
        kind = kind_of(address)
        with self.spaces[space].enter():
            stream, packets = socket.socket(kind), socket.socket(kind, socket.SOCK_DGRAM)
            third = socket.socket(kind, socket.SOCK_STREAM if sctp.in_kernel() else socket.SOCK_RAW, sctp.SCTP)
        for sock in (stream, packets, third):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            self.sockets.append(sock)
            if sock.type is socket.SOCK_STREAM:
                sock.listen(64)
        self.served.setdefault(address, set()).add(port)
        for answer, sock in ((self._accept, stream), (self._answer, packets),
                             (self._accept if sctp.in_kernel() else self._associate, third)):
            threading.Thread(target=answer, args=(sock, name, port), daemon=True).start()

    def _accept(self, sock: socket.socket, name: str, _: int) -> None:
        while not self.stop.is_set():
            try:
                connection, caller = sock.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection, f"{name} {caller[0]}"), daemon=True).start()

    def _answer(self, sock: socket.socket, name: str, _: int) -> None:
        while not self.stop.is_set():
            try:
                _, caller = sock.recvfrom(2048)
                if caller is None:  # shut down
                    return
                sock.sendto(f"{name} {caller[0]}".encode(), caller)
            except OSError:
                return

    def _associate(self, sock: socket.socket, name: str, port: int) -> None:
        with contextlib.suppress(OSError, struct.error):  # shut down
            sctp.serve(sock, port, self.served[sock.getsockname()[0]], lambda caller: f"{name} {caller}".encode())

    def connect(self, space: str, address: str, port: int, timeout: float = 15, protocol: str = "tcp") -> socket.socket:
        with self.spaces[space].enter():
            sock = socket.socket(kind_of(address), socket.SOCK_STREAM, sctp.SCTP if protocol == "sctp" else 0)
            if protocol == "sctp":
                sctp.prepare(sock, address)
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, space: str, address: str, port: int, protocol: str = "tcp", timeout: float = 15) -> tuple[str, str]:
        """Who answered, and the caller's address as it saw it; or what went wrong, and nothing."""
        try:
            reply = self._reply(space, address, port, protocol, timeout)
        except (ConnectionRefusedError, PermissionError):  # the second is how a node's own UDP socket is told
            return "refused", ""
        except TimeoutError:
            return "timeout", ""
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise
            return "unreachable", ""
        name, _, caller = reply.decode().partition(" ")
        return name, caller

    def _reply(self, space: str, address: str, port: int, protocol: str, timeout: float) -> bytes:
        if protocol == "tcp" or (protocol == "sctp" and sctp.in_kernel()):
            with self.connect(space, address, port, timeout, protocol) as sock:
                return sock.recv(100)
        kind = (socket.SOCK_DGRAM, 0) if protocol == "udp" else (socket.SOCK_RAW, sctp.SCTP)
        with self.spaces[space].enter():
            sock = socket.socket(kind_of(address), *kind)
        with sock:
            sock.settimeout(timeout)
            if protocol == "sctp":
                return sctp.ask(sock, address, port)
            sock.connect((address, port))
            sock.send(b"?")
            return sock.recv(100)

    def close(self) -> None:
        self.stop.set()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for space in self.spaces.values():
            space.close()


def kind_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(connection: socket.socket, greeting: str) -> None:
    with connection, contextlib.suppress(OSError):
        connection.sendall(greeting.encode())
        while data := connection.recv(65536):
            connection.sendall(data)


@contextlib.contextmanager
def world() -> Iterator[World]:
    made = World()
    try:
        for name in ("node", "far", "outside", *PODS):
            made.spaces[name] = Netns.create()
        node = made.spaces["node"]
        sh(node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 "
                 "net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")  # the kernel tells of so many refusals only
        sh(node, "ip link add cni0 address 02:00:00:00:00:01 type bridge; ip link add lan address 02:00:00:00:00:02 type bridge;"
                 "ip link set cni0 up; ip link set lan up")
        sh(made.spaces["far"], "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")  # what is not for it ends there
        for name in (*PODS, "far", "outside"):
            plug(made, name, "cni0" if name in PODS else "lan")
        for family in FAMILIES:
            number(made, family)
        yield made
    finally:
        made.close()


def plug(made: World, name: str, bridge: str) -> None:
    space = made.spaces[name]
    made.spaces["node"].run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(space.pid)])
    sh(made.spaces["node"], f"ip link set {name} master {bridge} up; bridge link set dev {name} hairpin on")
    sh(space, "ip link set eth0 up")


def number(made: World, family: Family) -> None:
    """Addresses, routes and servers of one family."""
    def add(address: str, device: str) -> str:
        return f"ip addr add {of(family, address)} dev {device}{' nodad' if family is Family.IPV6 else ''};"

    def route(network: str, by: str) -> str:
        return f"ip -{family.value} route add {network if network == 'default' else of(family, network)} via {of(family, by)};"

    sh(made.spaces["node"], add(f"{GATEWAY}/24", "cni0") + add(f"{NODE}/24", "lan") + route("10.244.2.0/24", FAR_NODE)
       + route("default", FAR_NODE))
    for name, address in PODS.items():
        sh(made.spaces[name], add(f"{address}/24", "eth0") + route("default", GATEWAY))
        made.serve(name, of(family, address), 8080, name)
    made.serve("pod-b", of(family, PODS["pod-b"]), 8081, "pod-b-too")
    sh(made.spaces["far"], add(f"{FAR_NODE}/24", "eth0") + add(f"{FAR_POD}/32", "lo") + route("10.244.1.0/24", NODE)
       + route("10.96.0.0/16", NODE))
    sh(made.spaces["outside"], add(f"{OUTSIDE}/24", "eth0") + route("10.96.0.0/16", NODE))
    made.serve("far", of(family, FAR_POD), 8080, "far")
    made.serve("node", of(family, NODE), 9000, "host")


def sh(space: Netns, script: str) -> str:
    return space.run(["sh", "-ec", script]).stdout


PATIENT = 25.0  # for a loaded machine, but less than the 30 s after which the proxy looks at everything anyway


def eventually(true: Callable[[], object], within: float = PATIENT, what: str = "") -> float:
    """Wait until it is true; says how long that took in seconds."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within, f"not within {within} s: {what or true}"
        time.sleep(0.01)
    return time.monotonic() - start


def heals(harm: Callable[[], object], whole: Callable[[], object], limit: float, what: str = "") -> float:
    """Do harm and wait until all is whole: in one of three attempts as soon as promised; says how long it took then."""
    def once() -> float:
        harm()
        return eventually(whole, what=what)

    return in_time(once, limit, what or "healed")


def service(name: str, address: str, *ports: tuple[str, str, int, int], **spec: object) -> dict:
    """Ports are (name, protocol, port, node port)."""
    listed = [{"name": n, "protocol": protocol, "port": port} | ({"nodePort": node} if node else {})
              for n, protocol, port, node in ports]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": address, "ports": listed, **spec}}


def balanced(made: dict, *addresses: str, mode: str = "VIP") -> dict:
    """The Service after a load balancer has given it addresses."""
    return made | {"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": mode} for address in addresses]}}}


def endpoints(name: str, *members: str | dict, ports: tuple[tuple[str, str, int], ...], node: str = "node-1") -> dict:
    """Members are addresses, or whole endpoints; 10.244.1.0/24 lives on the node."""
    listed = [
        {"addresses": [member], "conditions": {"ready": True},
         "nodeName": node if member.startswith(("10.244.1.", NODE)) else "node-2"} if isinstance(member, str) else member
        for member in members
    ]
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {OWNER: name}},
            "endpoints": listed, "ports": [{"name": n, "protocol": protocol, "port": port} for n, protocol, port in ports]}


def in_family(family: Family, item: dict) -> dict:
    """An object of one family, by a name of its own in IPv6, and with a health check of its own."""
    if family is Family.IPV4:
        return item
    moved = of(family, item)
    moved["metadata"]["name"] += "-6"
    if OWNER in moved["metadata"].get("labels", {}):
        moved["metadata"]["labels"][OWNER] += "-6"
    if "healthCheckNodePort" in moved.get("spec", {}):
        moved["spec"]["healthCheckNodePort"] += 10
    return moved


def shape(table: str) -> list[str]:
    """A listing without its order."""
    lines = table.replace("elements = { ", "").replace(" }", "").replace(",", "").splitlines()
    return sorted(line.strip() for line in lines if line.strip())
