"""What runs on which node, with which flags: pure, from the lab's configuration.

    every node   containerd, images (a job), flanneld, proxy, kubelet
    the first    etcd, network (a job: flannel's configuration in etcd), apiserver, controllers, scheduler as well
                 or, where leases are at the nodes' objects, roles (a job: flannel's role) in the place of network

The order is by readiness on the node itself; across nodes every agent retries by itself.
Read next: `minik8s/lab/files.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from minik8s.lab.config import LabConfig
from minik8s.lab.topology import Node, url_host
from nodecore.net import Family

PKI = "/etc/kubernetes/pki"
API_SOCKET = "host"


@dataclass(frozen=True, slots=True)
class Agent:
    """One process of a node, as its init reads it."""

    name: str
    argv: list[str]
    after: list[str] = field(default_factory=list)
    job: bool = False
    env: dict[str, str] = field(default_factory=dict)
    sockets: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the host has what the agents are started with."""

    python: str
    path: str
    machine: str
    cgroup: str
    snapshotter: str
    cache: str


def kubeconfig(user: str) -> str:
    """Where a node keeps a user's kubeconfig."""
    return f"/etc/kubernetes/{user}.kubeconfig"


def agents(config: LabConfig, node: Node, programs: Programs) -> list[Agent]:
    """Everything that runs on a node, in no particular order."""
    found = [*_containers(programs), _flanneld(config, node, programs), _proxy(config, node, programs), _kubelet(node, programs)]
    if node in config.etcd_nodes:
        found.insert(0, _etcd(config, node, programs))
    if node.leads:
        found += [_apiserver(config, node, programs), *_control_plane(config, programs)]
        if config.leases_are_annotations:
            argv = ["minik8s.lab.roles", kubeconfig("admin")]
            found.append(_python(programs, "roles", argv, after=["apiserver"], job=True))
        else:
            found.append(_network(config, programs))
    return found


def _env(programs: Programs) -> dict[str, str]:
    return {"PATH": programs.path, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}


def _python(programs: Programs, name: str, argv: list[str], **more: Any) -> Agent:
    return Agent(name, [programs.python, "-m", *argv], env=_env(programs), **more)


def _etcd(config: LabConfig, node: Node, programs: Programs) -> Agent:
    cluster = ",".join(f"{member.name}=https://{url_host(member.address)}:2380" for member in config.etcd_nodes)
    client, peer = (f"https://{url_host(node.address)}:{port}" for port in (2379, 2380))
    argv = [
        "etcd", "--name", node.name, "--data-dir", "/var/lib/etcd", "--logger", "zap", "--log-level", "warn",
        "--heartbeat-interval", "100", "--election-timeout", "500",
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", cluster, "--initial-cluster-token", "flanneld-py", "--auto-compaction-retention", "1h",
    ]
    for side in ("", "peer-"):
        argv += [f"--{side}cert-file", f"{PKI}/etcd/server.crt", f"--{side}key-file", f"{PKI}/etcd/server.key"]
        argv += [f"--{side}client-cert-auth", f"--{side}trusted-ca-file", f"{PKI}/ca.crt"]
    env = _env(programs)
    if programs.machine != "x86_64":
        env["ETCD_UNSUPPORTED_ARCH"] = {"aarch64": "arm64"}.get(programs.machine, programs.machine)
    return Agent("etcd", argv, env=env)


def etcd_client_flags(config: LabConfig, user: str, *, prefix: str = "--etcd-", servers: str = "servers") -> list[str]:
    """How an agent reaches etcd as `user`."""
    return [
        f"{prefix}{servers}", config.etcd_servers, f"{prefix}cafile", f"{PKI}/ca.crt",
        f"{prefix}certfile", f"{PKI}/{user}.crt", f"{prefix}keyfile", f"{PKI}/{user}.key",
    ]


def flannel_config(config: LabConfig) -> dict[str, Any]:
    """flannel's network configuration."""
    found: dict[str, Any] = {"EnableNFTables": True, "Backend": {"Type": config.backend}}
    for family, network in config.pods.items():
        found["Network" if family is Family.IPV4 else "IPv6Network"] = str(network)
    if Family.IPV6 in config.stack:
        found |= {"EnableIPv4": Family.IPV4 in config.stack, "EnableIPv6": True}
    return found


def _network(config: LabConfig, programs: Programs) -> Agent:
    argv = ["minik8s.lab.network", json.dumps(flannel_config(config))]
    return _python(programs, "network", [*argv, *etcd_client_flags(config, "flanneld-etcd-client")], after=["etcd"], job=True)


def _containers(programs: Programs) -> list[Agent]:
    address = "/run/containerd/containerd.sock"
    load = ["ctr", "--address", address, "--namespace", "k8s.io", "images", "import", "--snapshotter", programs.snapshotter,
            "/run/lab/images.tar"]
    return [
        Agent("containerd", ["containerd", "--config", "/etc/containerd/config.toml", "--log-level", "warn"], env=_env(programs)),
        Agent("images", load, after=["containerd"], job=True, env=_env(programs)),
    ]


def _flanneld(config: LabConfig, node: Node, programs: Programs) -> Agent:
    if config.leases_are_annotations:
        store = ["-kube-subnet-mgr", "-kubeconfig-file", kubeconfig("flanneld")]
    else:
        store = etcd_client_flags(config, "flanneld-etcd-client", prefix="-etcd-", servers="endpoints")
    switches = ["-ip-masq", "-iptables-forward-rules=false"]  # nothing here drops what is forwarded
    agent = _python(programs, "flanneld", ["flanneld_py", *store, "-iface", "eth0", *switches, "-healthz-port", "8471"])
    return replace(agent, env={**agent.env, "NODE_NAME": node.name})


def _proxy(config: LabConfig, node: Node, programs: Programs) -> Agent:
    return _python(programs, "proxy", [
        "proxy", "--kubeconfig", kubeconfig("proxy"), "--proxy-mode", config.proxy_mode,
        "--hostname-override", node.name, "--cluster-cidr", config.pod_cidr])


def _everywhere(node: Node) -> str:
    """All addresses, as a server says it."""
    return "::" if Family.IPV6 in node.families else "0.0.0.0"


def _kubelet(node: Node, programs: Programs) -> Agent:
    return _python(programs, "kubelet", [
        "minik8s", "kubelet", "--kubeconfig", kubeconfig("kubelet"), "--hostname-override", node.name,
        "--node-ip", ",".join(node.addresses),
        "--address", _everywhere(node),
        "--tls-cert-file", f"{PKI}/kubelet.crt", "--tls-private-key-file", f"{PKI}/kubelet.key",
        "--client-ca-file", f"{PKI}/ca.crt",
        "--cgroup-root", f"{programs.cgroup}/{node.name}"], after=["containerd", "images"])


def _apiserver(config: LabConfig, node: Node, programs: Programs) -> Agent:
    return _python(programs, "apiserver", [
        "minik8s", "apiserver", *etcd_client_flags(config, "apiserver-etcd-client"),
        "--bind-address", _everywhere(node), "--secure-port", "6443", "--advertise-address", node.address,
        "--tls-cert-file", f"{PKI}/apiserver.crt", "--tls-private-key-file", f"{PKI}/apiserver.key",
        "--client-ca-file", f"{PKI}/ca.crt", "--service-cluster-ip-range", config.service_cidr,
        "--service-node-port-range", "30000-32767",
        "--kubelet-client-certificate", f"{PKI}/apiserver-kubelet-client.crt",
        "--kubelet-client-key", f"{PKI}/apiserver-kubelet-client.key",
        "--kubelet-certificate-authority", f"{PKI}/ca.crt",
        "--cluster-signing-cert-file", f"{PKI}/ca.crt", "--cluster-signing-key-file", f"{PKI}/ca.key",
        "--cache-dir", programs.cache], after=["etcd"], sockets=[API_SOCKET])


def _control_plane(config: LabConfig, programs: Programs) -> list[Agent]:
    cidrs = ["--allocate-node-cidrs", "--cluster-cidr", config.pod_cidr] if config.leases_are_annotations else []
    return [
        _python(programs, name, ["minik8s", name, "--kubeconfig", kubeconfig(name), *more], after=["apiserver"])
        for name, more in (("controllers", cidrs), ("scheduler", []))
    ]


def spec(agent: Agent) -> dict[str, Any]:
    """As the node's init reads it."""
    return asdict(agent)
