"""What is installed for which role: units, and the variables and files they find. Pure.

    server     a control plane and a node          etcd, apiserver, controllers, scheduler, and what an agent has
    agent      a node of somebody's cluster        kubelet, flanneld, proxy
    flanneld   only that, on a node of another Kubernetes        proxy    the same

Variables written here are in /etc/minik8s/installed; those of the administrator, in /etc/minik8s and /etc/flanneld-py, win.
Must not know: how things are written. Read next: `writing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from ipaddress import ip_network
from typing import TYPE_CHECKING

from nodecore.errors import UserError
from nodecore.net import Family, parse_address, parse_network

if TYPE_CHECKING:  # it needs `cryptography`, which a host that only wants flanneld or the proxy has not
    from minik8s.pki.authority import Identity

PKI = "/etc/kubernetes/pki"
NODE_KUBECONFIG = "/etc/kubernetes/kubelet.kubeconfig"
NET_CONF = "/etc/kube-flannel/net-conf.json"
NETWORK_AGENTS = ("flanneld-py", "kube-proxy-py")
NODE_UNITS = ("minik8s-kubelet", *NETWORK_AGENTS)
SERVER_UNITS = tuple(f"minik8s-{part}" for part in ("etcd", "apiserver", "controllers", "scheduler"))
UNITS: dict[str, tuple[str, ...]] = {
    "server": (*SERVER_UNITS, *NODE_UNITS), "agent": NODE_UNITS, "flanneld": ("flanneld-py",), "proxy": ("kube-proxy-py",)}
TARGET = "minik8s.target"
PORTS = {  # where a unit listens unless the administrator says otherwise
    "minik8s-etcd": ("127.0.0.1", (2379, 2380)), "minik8s-apiserver": ("0.0.0.0", (6443,)),
    "minik8s-kubelet": ("0.0.0.0", (10250,))}
PROGRAMS = {"minik8s-etcd": ("/usr/bin/etcd", "etcd-server"), "minik8s-kubelet": ("containerd", "containerd")}  # and its package
CONFLIST = {
    "name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}}]}


@dataclass(frozen=True, slots=True)
class Node:
    """This machine as a node, and the cluster's networks."""

    name: str
    addresses: tuple[str, ...]  # the first is the one it is known by
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    backend: str = "vxlan"
    proxy_mode: str = "nftables"

    @property
    def host(self) -> str:
        """The first address as it stands in a URL."""
        return f"[{self.addresses[0]}]" if ":" in self.addresses[0] else self.addresses[0]

    def check(self) -> None:
        """Raise `UserError` for a value that cannot work."""
        for address in self.addresses:
            parse_address(address, what="--node-ip")
        backend_of(self.backend)
        for flag, text in (("--cluster-cidr", self.cluster_cidr), ("--service-cidr", self.service_cidr)):
            for part in text.split(","):
                parse_network(part, what=flag)


def files(role: str, node: Node) -> dict[str, str]:
    """Configuration that is no secret, by path."""
    found = {f"/etc/minik8s/installed/{unit}.env": _lines(values) for unit, values in variables(role, node).items()}
    if role in ("server", "agent"):
        found[NET_CONF] = json.dumps(net_conf(node), indent=1) + "\n"
        found["/etc/cni/net.d/10-flannel.conflist"] = json.dumps(CONFLIST, indent=1) + "\n"
    return found


def variables(role: str, node: Node) -> dict[str, dict[str, str]]:
    """The flags of each unit, as variables."""
    if role not in ("server", "agent"):
        return {}
    found = _of_a_node(node)
    return {**_of_a_server(node), **found} if role == "server" else found


def _of_a_node(node: Node) -> dict[str, dict[str, str]]:
    return {
        "minik8s-kubelet": {
            "MINIK8S_KUBELET_KUBECONFIG": NODE_KUBECONFIG, "MINIK8S_KUBELET_HOSTNAME_OVERRIDE": node.name,
            "MINIK8S_KUBELET_NODE_IP": ",".join(node.addresses), "MINIK8S_KUBELET_TLS_CERT_FILE": f"{PKI}/kubelet.crt",
            "MINIK8S_KUBELET_TLS_PRIVATE_KEY_FILE": f"{PKI}/kubelet.key", "MINIK8S_KUBELET_CLIENT_CA_FILE": f"{PKI}/ca.crt"},
        "flanneld-py": {
            "NODE_NAME": node.name, "FLANNELD_KUBE_SUBNET_MGR": "true", "FLANNELD_KUBECONFIG_FILE": NODE_KUBECONFIG,
            "FLANNELD_NET_CONFIG_PATH": NET_CONF, "FLANNELD_IFACE": node.addresses[0], "FLANNELD_IP_MASQ": "true"},
        "kube-proxy-py": {
            "KUBE_PROXY_KUBECONFIG": NODE_KUBECONFIG, "KUBE_PROXY_HOSTNAME_OVERRIDE": node.name,
            "KUBE_PROXY_CLUSTER_CIDR": node.cluster_cidr, "KUBE_PROXY_PROXY_MODE": node.proxy_mode},
    }


def _of_a_server(node: Node) -> dict[str, dict[str, str]]:
    etcd, peer = "https://127.0.0.1:2379", "https://127.0.0.1:2380"
    sides = {f"ETCD_{side}{name}": value for side in ("", "PEER_") for name, value in (
        ("CERT_FILE", f"{PKI}/etcd/server.crt"), ("TRUSTED_CA_FILE", f"{PKI}/ca.crt"), ("CLIENT_CERT_AUTH", "true"))}
    api = {
        "ETCD_SERVERS": etcd, "ETCD_CAFILE": f"{PKI}/ca.crt", "ETCD_CERTFILE": f"{PKI}/apiserver-etcd-client.crt",
        "ADVERTISE_ADDRESS": node.addresses[0], "BIND_ADDRESS": "::" if ":" in "".join(node.addresses) else "0.0.0.0",
        "TLS_CERT_FILE": f"{PKI}/apiserver.crt", "CLIENT_CA_FILE": f"{PKI}/ca.crt",
        "SERVICE_CLUSTER_IP_RANGE": node.service_cidr, "CLUSTER_SIGNING_CERT_FILE": f"{PKI}/ca.crt",
        "KUBELET_CLIENT_CERTIFICATE": f"{PKI}/apiserver-kubelet-client.crt", "KUBELET_CERTIFICATE_AUTHORITY": f"{PKI}/ca.crt",
    }
    return {
        "minik8s-etcd": {
            "ETCD_NAME": node.name, "ETCD_LISTEN_CLIENT_URLS": etcd, "ETCD_ADVERTISE_CLIENT_URLS": etcd,
            "ETCD_LISTEN_PEER_URLS": peer, "ETCD_INITIAL_ADVERTISE_PEER_URLS": peer,
            "ETCD_INITIAL_CLUSTER": f"{node.name}={peer}", "ETCD_AUTO_COMPACTION_RETENTION": "1h", "ETCD_LOG_LEVEL": "warn",
            **sides},
        "minik8s-apiserver": {f"MINIK8S_APISERVER_{name}": value for name, value in api.items()},
        "minik8s-controllers": {
            "MINIK8S_CONTROLLERS_ALLOCATE_NODE_CIDRS": "true", "MINIK8S_CONTROLLERS_CLUSTER_CIDR": node.cluster_cidr},
    }


def net_conf(node: Node) -> dict[str, object]:
    """flannel's network configuration."""
    found: dict[str, object] = {"EnableNFTables": True, "EnableIPv4": False, "Backend": backend_of(node.backend)}
    for text in node.cluster_cidr.split(","):
        if ip_network(text).version == Family.IPV4.value:
            found |= {"Network": text, "EnableIPv4": True}
        else:
            found |= {"IPv6Network": text, "EnableIPv6": True}
    return found


def backend_of(text: str) -> dict[str, object]:
    """flanneld's backend: its type, or all that the network configuration says of it, as JSON."""
    if not text.startswith("{"):
        return {"Type": text}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--backend: {text!r} is no JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("Type"), str):
        raise UserError(f"--backend: {text!r} has no Type")
    return found


def certificates(node: Node) -> dict[str, Identity]:
    """A server's certificates, by file name below `PKI`."""
    from minik8s.pki.authority import Identity

    local = (node.name, *node.addresses, "localhost", "127.0.0.1", "::1")
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    services = tuple(str(ip_network(text)[1]) for text in node.service_cidr.split(","))
    return {
        "etcd/server": Identity(f"etcd-{node.name}", names=local),
        "apiserver": Identity("kube-apiserver", names=(*local, *names, *services)),
        "apiserver-kubelet-client": Identity("kube-apiserver-kubelet-client"),
        "apiserver-etcd-client": Identity("kube-apiserver-etcd-client"),
        "kubelet": Identity(f"system:node:{node.name}", ("system:nodes",), local),
    }


def users(node: Node) -> dict[str, Identity]:
    """A server's kubeconfigs, by file name below /etc/kubernetes."""
    from minik8s.pki.authority import Identity

    return {
        "admin": Identity("admin", ("system:masters",)),
        "controllers": Identity("system:kube-controller-manager"),
        "scheduler": Identity("system:kube-scheduler"),
        "kubelet": Identity(f"system:node:{node.name}", ("system:nodes",)),
    }


def _lines(values: Mapping[str, str]) -> str:
    version = metadata.version("flanneld-py")
    head = f"# Written by `minik8s install` {version}, anew each time; what the administrator's file of this name says wins.\n"
    return head + "".join(f"{name}={value}\n" for name, value in values.items())
