"""`minik8s install server|agent|flanneld|proxy` and `minik8s uninstall`: the commands.

Each may be given again, with other values or after an upgrade: only what differs is written. Read next: `plan.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from minik8s.install import service, writing
from minik8s.install.plan import NODE_KUBECONFIG, NODE_UNITS, PKI, TARGET, UNITS, Node, files
from nodecore.errors import UserError

ANYWHERE = "192.0.2.1"
SETTINGS = {"help_option_names": ["-h", "--help"]}


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags every role has."""
    command = click.option("--root", default="/", show_default=True, type=click.Path(path_type=Path),
                           help="Install below this directory, an image's; with --no-start.")(command)
    return click.option("--start/--no-start", default=True, show_default=True, help="Start now, and at every boot.")(command)


def node_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of roles that make this machine a node of ours."""
    for option in (
        click.option("--proxy-mode", default="nftables", show_default=True, help="The proxy's: nftables, iptables, ipvs."),
        click.option("--backend", default="vxlan", show_default=True, help="flanneld's: a type, or the whole object as JSON."),
        click.option("--cluster-cidr", default="10.244.0.0/16", show_default=True, help="The pods' network, one a family."),
        click.option("--service-cidr", default="10.96.0.0/16", show_default=True, help="The Services', one a family."),
        click.option("--node-ip", default="", help="This machine's address, one a family; that of its way to the server."),
        click.option("--node-name", default=socket.gethostname, help="The node's name; the host's."),
    ):
        command = option(command)
    return command


@click.group(context_settings=SETTINGS)
def command() -> None:
    """Install parts as systemd services on this machine."""


@command.command(context_settings=SETTINGS)
@node_options
@options
def server(*, start: bool, root: Path, **given: str) -> None:
    """A control plane, and a node: prints how others join."""
    check(root, start=start)
    node, there = node_of(given), writing.Root(root)
    check_ours(there)
    if start:
        service.require_room(UNITS["server"])
    from minik8s.install.secrets import put_secrets

    cut = start and service.begin()
    changed = put_secrets(there, node) or cut
    install("server", node, there, start=start, changed=changed)
    if start:
        from minik8s.access.api import Api
        from minik8s.install.roles import ensure

        ensure(Api.of_kubeconfig("/etc/kubernetes/admin.kubeconfig"))
        click.echo("serving  kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig get nodes\n"
                   "join     `minik8s token create` prints the token; on the other machine: "
                   f"minik8s install agent {node.host}:6443 --token T --discovery-token-ca-cert-hash H")


@command.command(context_settings=SETTINGS)
@click.argument("address", metavar="SERVER")
@click.option("--token", default="", help="Bootstrap token, from `minik8s token create`; not needed once joined.")
@click.option("--discovery-token-ca-cert-hash", "pin", default="", help="The CA's hash, sha256:HEX.")
@node_options
@options
def agent(*, address: str, token: str, pin: str, start: bool, root: Path, **given: str) -> None:
    """A node of the cluster at SERVER (HOST:PORT)."""
    check(root, start=start)
    url = server_of(address)
    node, there = node_of(given, towards=urlsplit(url).hostname or ""), writing.Root(root)
    check_ours(there)
    kubeconfig = there.at(NODE_KUBECONFIG)
    if kubeconfig.exists() and f'"{url}"' not in kubeconfig.read_text():
        raise UserError(f"{address}: {NODE_KUBECONFIG} is for another cluster; `minik8s uninstall --purge` leaves that")
    if start:
        service.require_room(UNITS["agent"])
    cut = start and service.begin()
    # `join` writes the certificate last: without it an earlier time was cut short
    joined = kubeconfig.exists() and there.at(f"{PKI}/kubelet.crt").exists()
    if not joined:
        if not token or not pin:
            raise UserError("--token, --discovery-token-ca-cert-hash: needed to join; `minik8s token create` prints them")
        from minik8s.access.join import join

        there.at("/etc/kubernetes").mkdir(parents=True, exist_ok=True)
        join(url, token, pin, node.name, list(node.addresses), there.at("/etc/kubernetes"))
    install("agent", node, there, start=start, changed=cut or not joined)


@command.command(context_settings=SETTINGS)
@options
def flanneld(*, start: bool, root: Path) -> None:
    """flanneld alone; its flags are in /etc/flanneld-py/flanneld-py.env."""
    check(root, start=start)
    install("flanneld", None, writing.Root(root), start=start, changed=start and service.begin())


@command.command(context_settings=SETTINGS)
@options
def proxy(*, start: bool, root: Path) -> None:
    """The proxy alone; its flags are in /etc/flanneld-py/kube-proxy-py.env."""
    check(root, start=start)
    install("proxy", None, writing.Root(root), start=start, changed=start and service.begin())


@click.command(context_settings=SETTINGS)
@click.option("--purge", is_flag=True, help="Remove configuration, certificates, etcd's data, pods, devices and rules as well.")
@click.option("--root", default="/", show_default=True, type=click.Path(path_type=Path), help="Uninstall from an image.")
def uninstall(*, purge: bool, root: Path) -> None:
    """Remove the services; pods, network and rules stay unless purged, until the agents' own --cleanup."""
    check(root, start=False)
    units, there = [*UNITS["server"]], writing.Root(root)
    if live := root == Path("/") and service.present():
        service.stop([TARGET, *(f"{unit}.service" for unit in units)])
        if purge and not writing.foreign(there):
            service.clean_up(writing.commands(), [unit for unit in NODE_UNITS if there.has_unit(unit)])
    writing.take_away(there, units, purge=purge)
    if live:
        service.call("systemctl", "daemon-reload")
        if purge:
            service.forget_users()


def install(role: str, node: Node | None, root: writing.Root, *, start: bool, changed: bool = False) -> None:
    """Write what a role has, and start it."""
    units = [f"{unit}.service" for unit in UNITS[role]]
    if role in ("server", "agent"):
        units.insert(0, TARGET)
        writing.put_cni_plugin(root)
    changed |= writing.put_units(root, UNITS[role], [TARGET] if node else [])
    if node:
        changed |= writing.put_files(root, files(role, node))
    elif role == "flanneld":
        writing.put_cni_plugin(root)
    if root.path == Path("/") and service.present():  # else the next boot does so
        service.prepare()
    if start:
        service.start(units, changed=changed)
        service.UNFINISHED.unlink(missing_ok=True)


def check(root: Path, *, start: bool) -> None:
    """Raise `UserError` for what cannot be."""
    if os.geteuid() != 0:
        raise UserError("not root: run it with sudo")
    if start and root != Path("/"):
        raise UserError("--root: nothing can be started in an image; give --no-start as well")
    if start:
        service.require()


def check_ours(root: writing.Root) -> None:
    """Raise `UserError` on a machine of another Kubernetes: its certificates and its CNI configuration would be overwritten."""
    if found := writing.foreign(root):
        raise UserError(f"{found}: this machine is another Kubernetes'; there `install flanneld` and `install proxy` are for")


def server_of(address: str) -> str:
    """HOST:PORT as a URL."""
    url = address if "://" in address else f"https://{address}"
    try:
        if urlsplit(url).port:
            return url
    except ValueError:
        pass
    raise UserError(f"SERVER: {address!r} is not HOST:PORT; a server that `minik8s install` made has port 6443")


def node_of(given: dict[str, Any], towards: str = "") -> Node:
    """The flags as a checked value."""
    addresses = [text for text in given.pop("node_ip").split(",") if text]
    node = Node(given.pop("node_name").strip().lower(), tuple(addresses or [own_address(towards or ANYWHERE)]), **given)
    node.check()
    return node


def own_address(towards: str) -> str:
    """The address that packets to there have: of several networks the one that the server is on. Nothing is sent."""
    try:
        family, _, _, _, there = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(there)
            return str(sock.getsockname()[0])
    except OSError as error:
        raise UserError(f"--node-ip: not given, and this host has no way to {towards} to choose one by: "
                        f"{error.strerror or error}") from None
