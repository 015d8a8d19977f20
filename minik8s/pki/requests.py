"""Certificate requests (PKCS#10): made by whoever joins, read by whoever signs, and which signer signs what.

    kubernetes.io/kube-apiserver-client-kubelet   a kubelet as a client: CN system:node:NAME, O system:nodes
    kubernetes.io/kubelet-serving                 a kubelet as a server: the same subject, names and addresses
    kubernetes.io/kube-apiserver-client           any client

Must not know: the API. Read next: `authority.py`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from minik8s.pki.authority import Authority, Identity, PublicKey, general
from nodecore.errors import Invalid

KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
CLIENT = "kubernetes.io/kube-apiserver-client"
USAGES = {KUBELET_CLIENT: "client auth", KUBELET_SERVING: "server auth", CLIENT: "client auth"}
ALLOWED = frozenset({"key encipherment", "digital signature"})
NODE, NODES, MASTERS = "system:node:", "system:nodes", "system:masters"
SHORTEST_RSA = 2048


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for."""

    identity: Identity
    addresses_or_names: bool
    key: PublicKey


def make(identity: Identity) -> tuple[bytes, bytes]:
    """A new key and a request for it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in identity.organizations]
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]))
    if identity.names:
        names = x509.SubjectAlternativeName([general(name) for name in identity.names])
        builder = builder.add_extension(names, critical=False)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read(pem: bytes) -> Request:
    """What a PEM request asks for; Invalid when it is none, or not signed by its own key."""
    try:
        found = x509.load_pem_x509_csr(pem)
        good = found.is_signature_valid
        key = found.public_key()
    except (ValueError, TypeError) as error:
        raise Invalid(f"not a certificate request: {error}") from None
    if not good:
        raise Invalid("the request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or (
            isinstance(key, rsa.RSAPublicKey) and key.key_size < SHORTEST_RSA):
        raise Invalid("the request's key is neither elliptic nor RSA of 2048 bits")
    common = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    try:
        wanted = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Request(Identity(common[0] if common else "", groups), addresses_or_names=False, key=key)
    names = (*wanted.get_values_for_type(x509.DNSName), *map(str, wanted.get_values_for_type(x509.IPAddress)))
    if len(names) != len(list(wanted)):
        raise Invalid("the request has alternative names other than of hosts and addresses")
    return Request(Identity(common[0] if common else "", groups, names), addresses_or_names=True, key=key)


def wrong(signer: str, request: Request, usages: list[str]) -> str:
    """Why a signer does not sign a request; empty when it does."""
    identity = request.identity
    needed = USAGES[signer]
    if needed not in usages or not set(usages) <= ALLOWED | {needed}:
        return f"usages are {needed} and at most key encipherment, digital signature"
    if signer == CLIENT:
        return "names of servers are not for clients" if request.addresses_or_names else \
            "nobody is made a member of system:masters" if MASTERS in identity.organizations else ""
    if identity.organizations != (NODES,) or not identity.common_name.startswith(NODE) or identity.common_name == NODE:
        return f"the subject of a kubelet is O={NODES}, CN={NODE}NAME"
    if signer == KUBELET_CLIENT and request.addresses_or_names:
        return "names of servers are not for clients"
    if signer == KUBELET_SERVING and not identity.names:
        return "a serving certificate needs names or addresses"
    return ""


def signed(authority: Authority, signer: str, request: Request, lifetime: datetime.timedelta) -> bytes:
    """The certificate, PEM."""
    use = ExtendedKeyUsageOID.SERVER_AUTH if signer == KUBELET_SERVING else ExtendedKeyUsageOID.CLIENT_AUTH
    return authority.sign(request.identity, request.key, [use], lifetime)
