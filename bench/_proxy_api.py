"""An API server that is never what one waits for: lists encoded beforehand, watches that are a write to a socket.

Objects have what a real API server sends with them, so that reading them costs what it costs there.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

PATHS = {"/api/v1/nodes": "Node", "/api/v1/services": "Service", "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
         "/apis/discovery.k8s.io/v1beta1/endpointslices": "EndpointSlice"}  # as kube-proxy 1.20 asks
WRITTEN = "2026-01-01T00:00:00Z"


def vip(number: int) -> str:
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod(number: int) -> str:
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def six(address: str) -> str:
    """The same in IPv6."""
    return "fd00:{}::{}:{}:{}".format(*address.split("."))


def meta(name: str, version: int, **more: Any) -> dict[str, Any]:
    fields = {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}}}
    written = [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": WRITTEN,
                "fieldsType": "FieldsV1", "fieldsV1": fields}]
    return {"name": name, "namespace": "default", "uid": f"00000000-0000-4000-8000-{version:012x}", "generation": 1,
            "resourceVersion": str(version), "creationTimestamp": WRITTEN, **more, "managedFields": written}


def service(number: int, version: int = 1, *, dual: bool = False) -> dict[str, Any]:
    addresses = [vip(number), six(vip(number))] if dual else [vip(number)]
    spec = {
        "clusterIP": vip(number), "clusterIPs": addresses, "type": "ClusterIP", "sessionAffinity": "None",
        "ipFamilies": ["IPv4", "IPv6"] if dual else ["IPv4"],
        "ipFamilyPolicy": "PreferDualStack" if dual else "SingleStack", "internalTrafficPolicy": "Cluster",
        "selector": {"app": f"s{number}"},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
    }
    return {"kind": "Service", "apiVersion": "v1", "metadata": meta(f"s{number}", version, labels={"app": f"s{number}"}),
            "spec": spec, "status": {"loadBalancer": {}}}


def endpoint_slice(number: int, *pods: int, version: int = 1, ipv6: bool = False) -> dict[str, Any]:
    labels = {"app": f"s{number}", "kubernetes.io/service-name": f"s{number}",
              "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    endpoints = [
        {"addresses": [six(pod(item)) if ipv6 else pod(item)], "nodeName": "elsewhere",
         "conditions": {"ready": True, "serving": True, "terminating": False},
         "targetRef": {"kind": "Pod", "namespace": "default", "name": f"s{number}-{item}",
                       "uid": f"10000000-0000-4000-8000-{item:012x}"}}
        for item in pods
    ]
    return {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv6" if ipv6 else "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "metadata": meta(f"s{number}-{'six' if ipv6 else 'abcde'}", version, labels=labels)}


class Api:
    """Lists and watches of `size` Services with two endpoints each, on a listening socket of whatever namespace."""

    def __init__(self, sock: socket.socket, size: int, *, dual: bool = False) -> None:
        self._sock, self._version = sock, 10
        self._watchers: dict[str, socket.socket] = {}
        self._slices = "discovery.k8s.io/v1"
        self._ready = threading.Condition()
        self._lists = {
            "Node": listed("Node", []),
            "Service": listed("Service", (service(number, dual=dual) for number in range(size))),
            "EndpointSlice": listed("EndpointSlice", (
                endpoint_slice(number, 2 * number, 2 * number + 1, ipv6=ipv6)
                for number in range(size) for ipv6 in ((False, True) if dual else (False,)))),
        }
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while line := stream.readline():
            path, _, query = line.split()[1].decode().partition("?")
            while stream.readline().strip():
                pass
            kind = PATHS.get(path, "")
            if not kind:  # one Node, or an Event
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            elif "watch=" in query:
                if kind == "EndpointSlice":
                    self._slices = path.removeprefix("/apis/").removesuffix("/endpointslices")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                with self._ready:
                    self._watchers[kind] = connection
                    self._ready.notify_all()
            else:
                connection.sendall(self._lists[kind])

    def await_watchers(self) -> None:
        """Return when both collections are watched, and so have been read."""
        with self._ready:
            if not self._ready.wait_for(lambda: {"Service", "EndpointSlice"} <= self._watchers.keys(), timeout=60):
                raise RuntimeError("nobody watches")

    def change(self, number: int, *pods: int) -> float:
        """Send one Service's new endpoints to who watches; the time at which they left."""
        self._version += 1
        item = endpoint_slice(number, *pods, version=self._version) | {"apiVersion": self._slices}
        line = json.dumps({"type": "MODIFIED", "object": item}).encode() + b"\n"
        chunk = b"%x\r\n%s\r\n" % (len(line), line)
        begun = time.perf_counter()
        self._watchers["EndpointSlice"].sendall(chunk)
        return begun

    def close(self) -> None:
        """Vanish."""
        self._sock.close()
        for connection in self._watchers.values():
            connection.close()


def listed(kind: str, items: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> bytes:
    """A whole answer."""
    body = b'{"kind":"%sList","metadata":{"resourceVersion":"10"},"items":[%s]}' % (
        kind.encode(), b",".join(json.dumps(item, separators=(",", ":")).encode() for item in items))
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
