"""A server's certificates and kubeconfigs: made once, kept from then on; made anew where they name other addresses.

Read next: `plan.py`, `minik8s/pki/authority.py`.
"""

from __future__ import annotations

from minik8s.install.plan import PKI, Node, certificates, users
from minik8s.install.writing import Root
from minik8s.pki.authority import Authority, Identity, Pair
from minik8s.pki.kubeconfig import kubeconfig


def put_secrets(root: Root, node: Node) -> bool:
    """Whatever of them is missing; says whether anything was written."""
    ca, changed = authority(root), False
    for name, identity in certificates(node).items():
        if serves(root, f"{PKI}/{name}.crt", identity):
            continue
        pair, changed = ca.issue(identity), True
        root.put(f"{PKI}/{name}.key", pair.key, 0o600)
        root.put(f"{PKI}/{name}.crt", pair.certificate)
    server = f"https://{node.host}:6443"
    for user, identity in users(node).items():
        path = f"/etc/kubernetes/{user}.kubeconfig"
        if not root.at(path).exists() or f'"{server}"' not in root.at(path).read_text():
            pair, changed = ca.issue(identity), True
            text = kubeconfig(server, ca.pair.certificate, pair.certificate, pair.key, user, "minik8s")
            root.put(path, text, 0o600)
    return changed


def authority(root: Root) -> Authority:
    """The cluster's authority: read back, or made and kept."""
    key, certificate = root.at(f"{PKI}/ca.key"), root.at(f"{PKI}/ca.crt")
    if key.exists():
        return Authority(Pair(certificate.read_bytes(), key.read_bytes()))
    made = Authority()
    root.put(f"{PKI}/ca.crt", made.pair.certificate)
    root.put(f"{PKI}/ca.key", made.pair.key, 0o600)
    return made


def serves(root: Root, path: str, identity: Identity) -> bool:
    """Whether a certificate is there and names all that it should."""
    from cryptography import x509

    if not root.at(path).exists():
        return False
    found = x509.load_pem_x509_certificate(root.at(path).read_bytes())
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not identity.names
    known = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    return set(identity.names) <= known
