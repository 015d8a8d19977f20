"""Writes what the nodes find when they start: certificates, kubeconfigs, containerd's and CNI's configuration.

All of it below the lab's state directory, and only for nodes that do not run: a node's /etc is an overlay, whose
upper directory is not to be touched from outside. Read next: `minik8s/lab/up.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from minik8s.lab import agents, containerd, host, topology
from minik8s.lab.config import LabConfig
from minik8s.lab.images import write_images
from minik8s.lab.state import State, write_atomically
from minik8s.lab.topology import Node
from minik8s.pki.authority import Authority, Identity, Pair
from minik8s.pki.kubeconfig import kubeconfig
from nodecore.errors import Bug

NODE_DIRECTORIES = ("logs", "work", "cni-bin", "root/etc", "root/var/lib", "root/var/log", "root/var/cache", "root/tmp")
CNI_FLANNEL = """#!{python} -IS
import sys
sys.path.insert(0, {project!r})
from flanneld_py.cni import main
sys.exit(main())
"""


def authority(state: State) -> Authority:
    """The lab's authority: read back, or made and kept."""
    directory = state.path / "pki"
    try:
        return Authority(Pair((directory / "ca.crt").read_bytes(), (directory / "ca.key").read_bytes()))
    except FileNotFoundError:
        made = Authority()
        directory.mkdir(mode=0o700, exist_ok=True)
        write_atomically(directory / "ca.key", made.pair.key.decode())
        write_atomically(directory / "ca.crt", made.pair.certificate.decode())
        return made


def write_host_files(state: State, config: LabConfig, ca: Authority) -> None:
    """What the lab's commands on the host use: the administrator's kubeconfig and the images."""
    if not (state.path / "images.tar").exists():
        write_images(state.path / ".images.new")
        (state.path / ".images.new").replace(state.path / "images.tar")
    admin = ca.issue(Identity("admin", ("system:masters",)))
    write_kubeconfig(state.kubeconfig, f"https://127.0.0.1:{config.api_port}", ca, admin, "admin", config.name)


def write_kubeconfig(path: Path, server: str, ca: Authority, pair: Pair, user: str, cluster: str) -> None:
    """A kubeconfig for one user."""
    write_atomically(path, kubeconfig(server, ca.pair.certificate, pair.certificate, pair.key, user, cluster))


def write_switch(state: State, config: LabConfig, cgroups: list[str]) -> None:
    """What the switch's process reads."""
    state.switch.path.mkdir(exist_ok=True)
    spec = {
        "bridge": topology.BRIDGE, "mac": topology.SWITCH_MAC, "cgroups": cgroups,
        "addresses": topology.switch_cidrs(config.stack),
    }
    write_atomically(state.switch.path / "spec.json", json.dumps(spec))


def write_node(state: State, config: LabConfig, node: Node, ca: Authority, cgroups: list[str]) -> None:
    """Everything a node needs before it starts; what earlier lives left in /var stays."""
    directory = state.node(node.name).path
    for name in NODE_DIRECTORIES:
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "root/tmp").chmod(0o1777)
    _link(state.path / "images.tar", directory / "images.tar")
    _write_etc(directory / "root/etc", config, node, ca, host.snapshotter(state.path))
    _write_cni_bin(directory / "cni-bin")
    write_atomically(directory / "spec.json", json.dumps(node_spec(state, config, node, cgroups), indent=1))


def node_spec(state: State, config: LabConfig, node: Node, cgroups: list[str]) -> dict[str, object]:
    """What the node's init reads."""
    programs = host.programs(config.name, state.path)
    return {
        "name": node.name, "addresses": node.cidrs, "routes": topology.default_routes(config.stack),
        "mac": node.mac, "port": node.port, "bridge": topology.BRIDGE, "keep": host.kept(),
        "cgroups": cgroups, "sockets": [agents.API_SOCKET] if node.leads else [],
        "services": [agents.spec(agent) for agent in agents.agents(config, node, programs)],
    }


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.link(source, target)


def _write_etc(etc: Path, config: LabConfig, node: Node, ca: Authority, snapshotter: str) -> None:
    for name in ("containerd", "cni/net.d", "kubernetes/pki/etcd"):
        (etc / name).mkdir(parents=True, exist_ok=True)
    toml = containerd.config_toml(runc=host.runc(), apparmor=host.apparmor(), snapshotter=snapshotter)
    write_atomically(etc / "containerd/config.toml", toml)
    write_atomically(etc / "cni/net.d/10-flannel.conflist", containerd.conflist())
    write_atomically(etc / "hostname", f"{node.name}\n", mode=0o644)
    hosts = "".join(f"{address} {other.name}\n" for other in config.every_node for address in other.addresses)
    write_atomically(etc / "hosts", f"127.0.0.1 localhost\n::1 localhost\n{hosts}", mode=0o644)
    if config.leases_are_annotations:
        (etc / "kube-flannel").mkdir(exist_ok=True)
        write_atomically(etc / "kube-flannel/net-conf.json", json.dumps(agents.flannel_config(config), indent=1), mode=0o644)
    pki = etc / "kubernetes/pki"
    write_atomically(pki / "ca.crt", ca.pair.certificate.decode(), mode=0o644)
    if node.leads:
        write_atomically(pki / "ca.key", ca.pair.key.decode())
    for name, identity in certificates(config, node).items():
        pair = ca.issue(identity)
        write_atomically(pki / f"{name}.crt", pair.certificate.decode(), mode=0o644)
        write_atomically(pki / f"{name}.key", pair.key.decode())
    for user, identity in users(config, node).items():
        write_kubeconfig(etc / f"kubernetes/{user}.kubeconfig", config.api_url, ca, ca.issue(identity), user, config.name)


def certificates(config: LabConfig, node: Node) -> dict[str, Identity]:
    """The certificates below /etc/kubernetes/pki, by file name."""
    local = (node.name, *node.addresses, "localhost", "127.0.0.1", "::1")
    found = {
        "kubelet": Identity(f"system:node:{node.name}", ("system:nodes",), local),
        "flanneld-etcd-client": Identity("flanneld"),
    }
    if node in config.etcd_nodes:
        found["etcd/server"] = Identity(f"etcd-{node.name}", names=local)
    if node.leads:
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
        services = (str(network[1]) for network in config.services.values())
        found["apiserver"] = Identity("kube-apiserver", names=(*local, *names, *services))
        found["apiserver-kubelet-client"] = Identity("kube-apiserver-kubelet-client")
        found["apiserver-etcd-client"] = Identity("kube-apiserver-etcd-client")
    return found


def users(config: LabConfig, node: Node) -> dict[str, Identity]:
    """The kubeconfigs below /etc/kubernetes, by file name."""
    found = {
        "kubelet": Identity(f"system:node:{node.name}", ("system:nodes",)),
        "proxy": Identity("system:kube-proxy", ("system:node-proxier",)),
    }
    if config.leases_are_annotations:
        found["flanneld"] = Identity("flannel")
    if node.leads:
        found["admin"] = Identity("admin", ("system:masters",))
        found["controllers"] = Identity("system:kube-controller-manager")
        found["scheduler"] = Identity("system:kube-scheduler")
    return found


def _write_cni_bin(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()
    for plugin in host.CNI_PLUGINS.iterdir():
        (directory / plugin.name).symlink_to(plugin)
    flannel = directory / "flannel"
    flannel.unlink(missing_ok=True)
    script = CNI_FLANNEL.format(python=host.programs("", directory).python, project=str(host.PROJECT))
    if len(script.partition("\n")[0]) > 250:
        raise Bug("the path of this Python is too long for the first line of a script")
    write_atomically(flannel, script, mode=0o755)
