"""The flags of the API server, read and checked: whatever is wrong becomes one line naming the flag.

Must not know: HTTP. Read next: `server.py`.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from minik8s.apiserver.auth.accounts import Issuing
from minik8s.apiserver.certificates import Certificates
from minik8s.apiserver.own_certificates import OwnCertificates
from minik8s.apiserver.request.audit import Audit, read_policy
from minik8s.apiserver.request.seats import Limits
from minik8s.apiserver.upkeep.default_objects import Advertised
from minik8s.apiserver.upkeep.signing import Signing
from nodecore.duration import parse_duration
from nodecore.errors import UserError
from nodecore.etcd.config import EtcdConfig, parse_endpoints
from nodecore.files import read_bytes
from nodecore.net import Family, IPNetwork, parse_address, parse_network

LARGEST_RANGE_BITS = 20
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags as they were given."""

    etcd_servers: str
    etcd_cafile: str
    etcd_certfile: str
    etcd_keyfile: str
    bind_address: str
    secure_port: int
    advertise_address: str
    cert_dir: str
    tls_cert_file: str
    tls_private_key_file: str
    client_ca_file: str
    service_cluster_ip_range: str
    service_node_port_range: str
    kubelet_client_certificate: str
    kubelet_client_key: str
    kubelet_certificate_authority: str
    token_auth_file: str
    anonymous_auth: bool
    service_account_issuer: str
    api_audiences: str
    service_account_signing_key_file: str
    service_account_key_file: tuple[str, ...]
    root_ca_file: str
    encryption_provider_config: str
    audit_policy_file: str
    audit_log_path: str
    audit_log_maxsize: int
    audit_log_maxbackup: int
    cluster_signing_cert_file: str
    cluster_signing_key_file: str
    cluster_signing_duration: str
    cache_dir: str
    event_ttl: str
    max_requests_inflight: int
    max_mutating_requests_inflight: int
    max_requests_per_second: int
    max_anonymous_requests_per_second: int
    request_timeout: str
    shutdown_delay_duration: str

    def etcd(self) -> EtcdConfig:
        """Where etcd is."""
        endpoints = parse_endpoints(self.etcd_servers, what="--etcd-servers")
        if bool(self.etcd_certfile) != bool(self.etcd_keyfile):
            raise UserError("--etcd-certfile and --etcd-keyfile go together")
        config = EtcdConfig(endpoints, self.etcd_cafile, self.etcd_certfile, self.etcd_keyfile)
        config.targets()
        config.check_files()
        return config

    def networks(self) -> tuple[IPNetwork, ...]:
        """The ranges of cluster IPs, one a family; the first is of the family Services have if they do not say."""
        flag = "--service-cluster-ip-range"
        networks = tuple(parse_network(text, what=flag) for text in self.service_cluster_ip_range.split(","))
        if len(networks) > len({network.version for network in networks}):
            raise UserError(f"{flag}: {self.service_cluster_ip_range!r} has two ranges of one family")
        for network in networks:
            if network.num_addresses < 8:
                raise UserError(f"{flag}: {network} is too small, it must have at least 8 addresses")
            if network.max_prefixlen - network.prefixlen > LARGEST_RANGE_BITS:
                raise UserError(f"{flag}: {network} is too large, at most {LARGEST_RANGE_BITS} bits may vary")
        return networks

    def node_ports(self) -> tuple[int, int]:
        """The first and last node port."""
        low, dash, high = self.service_node_port_range.partition("-")
        if not dash or not low.isdecimal() or not high.isdecimal() or not 1 <= int(low) <= int(high) <= 65535:
            text = self.service_node_port_range
            raise UserError(f"--service-node-port-range: {text!r} is not of the form LOW-HIGH, both 1-65535")
        return int(low), int(high)

    def event_seconds(self) -> float:
        """How long an Event lives."""
        seconds = parse_duration(self.event_ttl, what="--event-ttl")
        if seconds < 1:
            raise UserError(f"--event-ttl: {self.event_ttl} is too short, at least 1s")
        return seconds

    def advertised(self, port: int) -> Advertised:
        """Where others reach this server, which listens on this port."""
        network = self.networks()[0]
        text = self.advertise_address or self.bind_address
        address = parse_address(text, what="--advertise-address")
        if address.is_unspecified:
            address = ip_address(_own_address(Family.of(network)))
        if address.version != network.version:
            raise UserError(f"--advertise-address: {address} is not of the family of --service-cluster-ip-range {network}")
        return Advertised(address, port, network.network_address + 1, tuple(str(each) for each in self.networks()))

    def issuing(self) -> Issuing:
        """How ServiceAccount tokens are made and recognised."""
        if not self.service_account_issuer:
            raise UserError("--service-account-issuer: not given")
        audiences = tuple(each.strip() for each in self.api_audiences.split(",") if each.strip())
        files = (self.service_account_signing_key_file, self.service_account_key_file)
        return Issuing(self.service_account_issuer, audiences, *files)

    def signing(self) -> Signing:
        """How certificate requests are signed; without files they are not."""
        files = ("--cluster-signing-cert-file", "--cluster-signing-key-file")
        if bool(self.cluster_signing_cert_file) != bool(self.cluster_signing_key_file):
            raise UserError(f"{files[0]} and {files[1]} go together")
        for path, flag in zip((self.cluster_signing_cert_file, self.cluster_signing_key_file), files, strict=True):
            if path:
                read_bytes(path, flag)
        seconds = parse_duration(self.cluster_signing_duration, what="--cluster-signing-duration")
        return Signing(self.cluster_signing_cert_file, self.cluster_signing_key_file, seconds)

    def audit(self) -> Audit | None:
        """The audit log; None without a policy."""
        if bool(self.audit_policy_file) != bool(self.audit_log_path):
            raise UserError("--audit-policy-file and --audit-log-path go together")
        if not self.audit_policy_file:
            return None
        return Audit(read_policy(self.audit_policy_file), self.audit_log_path, megabytes=self.audit_log_maxsize,
                     backups=self.audit_log_maxbackup)

    def root_ca(self) -> str:
        """The CA pods are told to trust, as PEM; empty when we know none."""
        flag, path = ("--root-ca-file", self.root_ca_file) if self.root_ca_file else ("--client-ca-file", self.client_ca_file)
        if not path:
            return ""
        return read_bytes(path, flag).decode()

    def shutdown_delay(self) -> float:
        """How long this still serves after it was told to end."""
        return parse_duration(self.shutdown_delay_duration, what="--shutdown-delay-duration")

    def limits(self) -> Limits:
        """How much is answered at once, for how long, and to whom how often."""
        seconds = parse_duration(self.request_timeout, what="--request-timeout")
        if seconds <= 0:
            raise UserError(f"--request-timeout: {self.request_timeout} is no time")
        rates = (self.max_requests_per_second, self.max_anonymous_requests_per_second)
        return Limits(self.max_requests_inflight, self.max_mutating_requests_inflight, seconds, *rates)

    def own_certificates(self, where: Advertised) -> tuple[Flags, OwnCertificates | None]:
        """These flags with our own certificates where none are given, and what keeps those."""
        if self.tls_cert_file or self.tls_private_key_file:
            return self, None
        directory = Path(self.cert_dir)
        ca, key = str(directory / "ca.crt"), str(directory / "ca.key")
        bound = parse_address(self.bind_address, what="--bind-address")
        addresses = {str(each) for each in (where.address, where.service, bound) if not each.is_unspecified}
        names = (*sorted({*addresses, "127.0.0.1", "::1", "localhost", socket.gethostname()}), *SERVICE_NAMES)
        signs = not self.cluster_signing_cert_file and not self.cluster_signing_key_file
        return replace(
            self, tls_cert_file=str(directory / "apiserver.crt"), tls_private_key_file=str(directory / "apiserver.key"),
            client_ca_file=self.client_ca_file or ca, root_ca_file=self.root_ca_file or ca,
            cluster_signing_cert_file=ca if signs else self.cluster_signing_cert_file,
            cluster_signing_key_file=key if signs else self.cluster_signing_key_file,
        ), OwnCertificates(directory, names, f"https://{where.text}")

    def serving(self) -> Certificates:
        """Our side of TLS, read anew when its files change."""
        return Certificates(self.server_tls, (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file))

    def server_tls(self) -> ssl.SSLContext:
        """Our certificate, and the CA a client's certificate must be from if it shows one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load(context, self.tls_cert_file, self.tls_private_key_file, "--tls-cert-file", "--tls-private-key-file")
        if self.client_ca_file:
            _trust(context, self.client_ca_file, "--client-ca-file")
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def kubelets(self) -> Certificates | None:
        """How we show ourselves to kubelets, read anew when its files change; None when we are not told."""
        if not self.kubelet_client_certificate and not self.kubelet_client_key:
            return None
        files = (self.kubelet_client_certificate, self.kubelet_client_key, self.kubelet_certificate_authority)
        return Certificates(self.kubelet_tls, files)

    def kubelet_tls(self) -> ssl.SSLContext:
        """Our client certificate, and the CA that kubelets' certificates are from."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.kubelet_certificate_authority:
            _trust(context, self.kubelet_certificate_authority, "--kubelet-certificate-authority")
        else:  # as the original does without this flag
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        flags = ("--kubelet-client-certificate", "--kubelet-client-key")
        _load(context, self.kubelet_client_certificate, self.kubelet_client_key, *flags)
        return context

    def sockets(self) -> list[socket.socket]:
        """The socket bound to our own address."""
        address = parse_address(self.bind_address, what="--bind-address")
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(address), self.secure_port))
        except (OSError, OverflowError) as error:
            sock.close()
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--bind-address, --secure-port: cannot listen on {address}:{self.secure_port}: {why}") from None
        return [sock]


def _load(context: ssl.SSLContext, certificate: str, key: str, certificate_flag: str, key_flag: str) -> None:
    for path, flag in ((certificate, certificate_flag), (key, key_flag)):
        _readable(path, flag)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        why = f"{certificate} and {key} are no matching pair: {error.reason or error}"
        raise UserError(f"{certificate_flag}, {key_flag}: {why}") from None


def _trust(context: ssl.SSLContext, path: str, flag: str) -> None:
    _readable(path, flag)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise UserError(f"{flag}: {path} holds no certificate: {error.reason or error}") from None


def _readable(path: str, flag: str) -> None:
    if not path:
        raise UserError(f"{flag}: not given")
    read_bytes(path, flag)


def _own_address(family: Family) -> str:
    """The address of the default route; nothing is sent."""
    with socket.socket(family.af, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1" if family is Family.IPV4 else "2001:db8::1", 9))
        except OSError:
            raise UserError("--advertise-address: not given, and this host has no default route to choose one by") from None
        return str(sock.getsockname()[0])
