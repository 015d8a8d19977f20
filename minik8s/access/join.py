"""`minik8s join`: this machine becomes a node's: it trusts the CA pinned by its hash, and has certificates by bootstrap token.

    the CA         kube-public/cluster-info, read from whoever answers, believed if its key has the pinned hash
    as a client    a request by the token, approved for who joins; then the node's own kubeconfig
    as a server    with --node-ip: the node says its addresses, and a request by the node itself is approved for them

Read next: `requests.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
from pathlib import Path

import click

from minik8s.access.api import Api, Object, authority_of
from nodecore.errors import Conflict, Denied, Fault, Invalid, UserError

INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("server")
@click.option("--token", required=True, help="Bootstrap token, from `minik8s token create`.")
@click.option("--discovery-token-ca-cert-hash", "pin", required=True, help="The CA's hash, sha256:HEX.")
@click.option("--node-name", default=socket.gethostname, help="Name of the node; this host's.")
@click.option("--node-ip", default="", help="Addresses of the node, comma-separated, to have a serving certificate for.")
@click.option("--directory", default="/etc/kubernetes", show_default=True, help="Where to write what kubelet needs.")
def command(server: str, token: str, pin: str, node_name: str, node_ip: str, directory: str) -> None:
    """Get what a kubelet of this machine needs to be a node of the cluster at SERVER (HOST:PORT)."""
    join(server if "://" in server else f"https://{server}", token, pin, node_name, [ip for ip in node_ip.split(",") if ip],
         Path(directory))


def join(server: str, token: str, pin: str, node: str, addresses: list[str], directory: Path) -> None:
    """Write the node's kubeconfig, the CA, and with addresses a serving certificate."""
    from minik8s.access.requests import obtain
    from minik8s.pki.authority import Identity
    from minik8s.pki.kubeconfig import kubeconfig
    from minik8s.pki.requests import KUBELET_CLIENT, KUBELET_SERVING

    ca = trusted_ca(server, pin)
    identity = Identity(f"system:node:{node}", ("system:nodes",))
    try:
        client = obtain(Api(server, authority_of(ca), token), KUBELET_CLIENT, identity)
    except Denied as error:
        raise UserError(f"--token: {server} refuses it ({error}): `minik8s token create` makes another") from None
    pki = directory / "pki"
    pki.mkdir(parents=True, exist_ok=True)
    config = directory / "kubelet.kubeconfig"
    _write(pki / "ca.crt", ca.encode(), 0o644)
    _write(config, kubeconfig(server, ca.encode(), client.certificate, client.key, "kubelet", "minik8s").encode(), 0o600)
    click.echo(f"{config}: the kubeconfig of node {node}")
    if addresses:
        api = Api.of_kubeconfig(str(config))
        announce(api, node, addresses)
        serving = obtain(api, KUBELET_SERVING, Identity(identity.common_name, identity.organizations, (node, *addresses)))
        _write(pki / "kubelet.key", serving.key, 0o600)
        _write(pki / "kubelet.crt", serving.certificate, 0o644)
        click.echo(f"{pki}/kubelet.crt, .key: its serving certificate")


def trusted_ca(server: str, pin: str) -> str:
    """The cluster's CA, from anybody, believed because of its hash."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", pin.lower()):
        raise UserError(f"--discovery-token-ca-cert-hash: {pin!r} is not sha256: and 64 hexadecimal digits")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    pem = ca_of(Api(server, context))
    if not hmac.compare_digest(pin_of(pem).lower(), pin.lower()):
        raise UserError(f"--discovery-token-ca-cert-hash: the cluster at {server} has another CA")
    return pem


def ca_of(api: Api) -> str:
    """The CA a cluster says it has, as PEM."""
    info = json.loads(api.ask("GET", INFO)["data"]["kubeconfig"])
    return base64.b64decode(info["clusters"][0]["cluster"]["certificate-authority-data"]).decode()


def pin_of(pem: str) -> str:
    """The hash by which a CA is pinned: that of its public key, as kubeadm has it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except ValueError as error:
        raise Invalid(f"the CA is no certificate: {error}") from None
    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def announce(api: Api, node: str, addresses: list[str]) -> None:
    """Make the node's object and write its addresses into it."""
    body: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}}
    try:
        api.ask("POST", "/api/v1/nodes", body)
    except Fault as fault:
        if "already exists" not in str(fault) and not isinstance(fault, Conflict):
            raise
    listed = [*({"type": "InternalIP", "address": ip} for ip in addresses), {"type": "Hostname", "address": node}]
    api.ask("PATCH", f"/api/v1/nodes/{node}/status", {"status": {"addresses": listed}}, content="application/merge-patch+json")


def _write(path: Path, data: bytes, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=mode)
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}") from None
