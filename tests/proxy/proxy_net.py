"""A small world in namespaces, with real sockets in it.

    pod-a .2, pod-b .3, pod-c .4 on a bridge 10.244.1.0/24 of `node` (192.168.50.1)
    `far` (192.168.50.3) is another node, with a pod's address 10.244.2.5
    `outside` (192.168.50.2) is nobody's pod; it routes the Services' network to the node
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nodecore.kernel.netns import Netns

PODS = {"pod-a": "10.244.1.2", "pod-b": "10.244.1.3", "pod-c": "10.244.1.4"}
FAR_POD, FAR_NODE, NODE, OUTSIDE, GATEWAY = "10.244.2.5", "192.168.50.3", "192.168.50.1", "192.168.50.2", "10.244.1.1"


@dataclass
class World:
    spaces: dict[str, Netns] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    sockets: list[socket.socket] = field(default_factory=list)

    def serve(self, space: str, address: str, port: int, name: str) -> None:
        """Answer `name` and the caller's address on TCP and UDP; a TCP connection echoes on until it is closed."""
        with self.spaces[space].enter():
            stream, packets = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (stream, packets):
            sock.bind((address, port))
            self.sockets.append(sock)
        stream.listen(64)
        threading.Thread(target=self._accept, args=(stream, name), daemon=True).start()
        threading.Thread(target=self._answer, args=(packets, name), daemon=True).start()

    def _accept(self, sock: socket.socket, name: str) -> None:
        while not self.stop.is_set():
            try:
                connection, (caller, _) = sock.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection, f"{name} {caller}"), daemon=True).start()

    def _answer(self, sock: socket.socket, name: str) -> None:
        while not self.stop.is_set():
            try:
                _, caller = sock.recvfrom(2048)
                if caller is None:  # shut down
                    return
                sock.sendto(f"{name} {caller[0]}".encode(), caller)
            except OSError:
                return

    def connect(self, space: str, address: str, port: int, timeout: float = 3) -> socket.socket:
        with self.spaces[space].enter():
            sock = socket.socket()
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, space: str, address: str, port: int, protocol: str = "tcp", timeout: float = 3) -> tuple[str, str]:
        """Who answered, and the caller's address as it saw it; or what went wrong, and nothing."""
        try:
            if protocol == "tcp":
                with self.connect(space, address, port, timeout) as sock:
                    reply = sock.recv(100)
            else:
                with self.spaces[space].enter():
                    sock = socket.socket(type=socket.SOCK_DGRAM)
                with sock:
                    sock.settimeout(timeout)
                    sock.connect((address, port))
                    sock.send(b"?")
                    reply = sock.recv(100)
        except (ConnectionRefusedError, PermissionError):  # the second is how a node's own UDP socket is told
            return "refused", ""
        except TimeoutError:
            return "timeout", ""
        name, _, caller = reply.decode().partition(" ")
        return name, caller

    def close(self) -> None:
        self.stop.set()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for space in self.spaces.values():
            space.close()


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
        sh(node, "ip link add cni0 address 02:00:00:00:00:01 type bridge; "
                 "ip addr add 10.244.1.1/24 dev cni0; ip link set cni0 up")
        sh(node, "ip link add lan address 02:00:00:00:00:02 type bridge; "
                 "ip addr add 192.168.50.1/24 dev lan; ip link set lan up")
        sh(node, "ip route add 10.244.2.0/24 via 192.168.50.3; ip route add default via 192.168.50.3")
        sh(node, "sysctl -qw net.ipv4.icmp_ratelimit=0")  # the kernel tells a peer of at most so many refusals
        for name, address in PODS.items():
            plug(made, name, "cni0", f"{address}/24")
            sh(made.spaces[name], "ip route add default via 10.244.1.1")
            made.serve(name, "0.0.0.0", 8080, name)
        plug(made, "far", "lan", f"{FAR_NODE}/24")
        plug(made, "outside", "lan", f"{OUTSIDE}/24")
        sh(made.spaces["far"], f"ip addr add {FAR_POD}/32 dev lo; ip route add 10.244.1.0/24 via {NODE}")
        sh(made.spaces["outside"], f"ip route add 10.96.0.0/16 via {NODE}")
        made.serve("far", FAR_POD, 8080, "far")
        made.serve("node", NODE, 9000, "host")
        yield made
    finally:
        made.close()


def plug(made: World, name: str, bridge: str, address: str) -> None:
    space = made.spaces[name]
    made.spaces["node"].run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(space.pid)])
    sh(made.spaces["node"], f"ip link set {name} master {bridge} up; bridge link set dev {name} hairpin on")
    sh(space, f"ip addr add {address} dev eth0; ip link set eth0 up")


def sh(space: Netns, script: str) -> str:
    return space.run(["sh", "-ec", script]).stdout


def eventually(true: Callable[[], object], within: float = 10.0, what: str = "") -> float:
    """Wait until it is true; says how long that took in seconds."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within, f"not within {within} s: {what or true}"
        time.sleep(0.01)
    return time.monotonic() - start


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
            "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": listed, "ports": [{"name": n, "protocol": protocol, "port": port} for n, protocol, port in ports]}


def shape(table: str) -> list[str]:
    """A listing without its order."""
    lines = table.replace("elements = { ", "").replace(" }", "").replace(",", "").splitlines()
    return sorted(line.strip() for line in lines if line.strip())
