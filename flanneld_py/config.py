"""Go flanneld's flags as one checked value.

    -etcd-endpoints=http://127.0.0.1:2379   one dash or two, with `=` or a space; FLANNELD_ETCD_ENDPOINTS in the environment

Pure. What this daemon cannot do is refused by name, what it need not do is accepted and told.
Must not know: click. Read next: `flanneld_py/__main__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanneld_py.checksums import WISHES as CHECKSUM_WISHES
from flanneld_py.iface import Wishes
from flanneld_py.plan import Features
from nodecore.errors import UserError
from nodecore.net import Family, IPAddress, parse_address


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: its name, default, and what it says in the help; the default's type is the flag's."""

    name: str
    default: Any
    help: str
    many: bool = False


ON, OFF = True, False
FLAGS = (
    Flag("etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "Where etcd is, comma-separated."),
    Flag("etcd-prefix", "/coreos.com/network", "The keys of this network are below it."),
    Flag("etcd-keyfile", "", "Client key, PEM."),
    Flag("etcd-certfile", "", "Client certificate, PEM."),
    Flag("etcd-cafile", "", "Authority etcd's certificate is from, PEM."),
    Flag("etcd-username", "", "User for etcd."),
    Flag("etcd-password", "", "Password for etcd."),
    Flag("iface", "", "Underlay interface, by name or address; the first that fits.", many=True),
    Flag("iface-regex", "", "The same by pattern, on addresses, then on names.", many=True),
    Flag("iface-can-reach", "", "The interface by which this address is reached."),
    Flag("subnet-file", "/run/flannel/subnet.env", "Written for the CNI plugin."),
    Flag("public-ip", "", "Address the others reach us by; default the interface's."),
    Flag("public-ipv6", "", "The same for IPv6."),
    Flag("subnet-lease-renew-margin", 60, "Minutes before the end at which a lease is renewed, 1 to 1439."),
    Flag("ip-masq", OFF, "Masquerade what leaves the network."),
    Flag("ip-masq-fully-random-disable", OFF, "Masquerade without random source ports."),
    Flag("ip-blackhole-route", OFF, "A blackhole route for our own subnet, for pods that do not exist."),
    Flag("iptables-resync", 5, "Seconds after which iptables rules are looked at even if nothing was heard of a change."),
    Flag("iptables-forward-rules", ON, "Accept forwarded packets of the network."),
    Flag("vxlan-tx-checksum", "auto", "Whether the VXLAN device leaves checksums to the network card: auto, on or off."),
    Flag("healthz-ip", "0.0.0.0", "Address for /healthz, /readyz and /metrics."),
    Flag("healthz-port", 0, "Port for them; 0 for none."),
    Flag("kube-subnet-mgr", OFF, "Leases are annotations of Kubernetes' nodes, instead of keys in etcd."),
    Flag("kube-api-url", "", "Where the Kubernetes API is; goes before what the kubeconfig says."),
    Flag("kubeconfig-file", "", "Kubeconfig; without one, the service account of our pod."),
    Flag("kube-annotation-prefix", "flannel.alpha.coreos.com", "What the names of annotations begin with."),
    Flag("net-config-path", "/etc/kube-flannel/net-conf.json", "Network configuration, with --kube-subnet-mgr."),
    Flag("set-node-network-unavailable", ON, "Set our node's condition NetworkUnavailable."),
    Flag("v", 0, "Verbosity; 4 and up is debugging."),
    Flag("vmodule", "", "Verbosity by file: target=4,tun*=0."),
    Flag("log_backtrace_at", "", "Add the stack to the line logged at file.py:123."),
)


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """The flags of use with --kube-subnet-mgr."""

    api_url: str
    kubeconfig: str
    annotation_prefix: str
    net_config: Path
    set_condition: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """All flags, checked."""

    endpoints: str
    prefix: str
    ca: str
    cert: str
    key: str
    username: str
    password: str
    wishes: Wishes
    features: Features
    subnet_file: Path
    renew_margin: float
    rules_resync: float
    healthz: tuple[str, int]
    verbosity: int
    tx_checksum: str = "auto"
    vmodule: str = ""
    log_backtrace_at: str = ""
    kube: KubeSettings | None = None  # None: leases are in etcd


def build_settings(given: Mapping[str, Any]) -> Settings:
    """Check the flags' values, by their names; raises `UserError`."""
    if not given["etcd-prefix"].strip("/"):
        raise UserError(f"--etcd-prefix: {given['etcd-prefix']!r} is empty")
    margin, port = given["subnet-lease-renew-margin"], given["healthz-port"]
    if not 1 <= margin <= 1439:
        raise UserError(f"--subnet-lease-renew-margin: {margin} is not between 1 and 1439 minutes")
    if not 0 <= port <= 65535:
        raise UserError(f"--healthz-port: {port} is not a port")
    if given["iptables-resync"] < 1:
        raise UserError(f"--iptables-resync: {given['iptables-resync']} is not a number of seconds, at least 1")
    if given["vxlan-tx-checksum"] not in CHECKSUM_WISHES:
        raise UserError(f"--vxlan-tx-checksum: {given['vxlan-tx-checksum']!r} is not one of {', '.join(CHECKSUM_WISHES)}")
    return Settings(
        endpoints=given["etcd-endpoints"], prefix=given["etcd-prefix"],
        ca=given["etcd-cafile"], cert=given["etcd-certfile"], key=given["etcd-keyfile"],
        username=given["etcd-username"], password=given["etcd-password"],
        wishes=Wishes(tuple(given["iface"]), tuple(given["iface-regex"]), given["iface-can-reach"], _public(given)),
        features=Features(
            ip_masq=given["ip-masq"], fully_random=not given["ip-masq-fully-random-disable"],
            forward_rules=given["iptables-forward-rules"], blackhole_route=given["ip-blackhole-route"],
        ),
        subnet_file=Path(given["subnet-file"]), renew_margin=margin * 60.0, rules_resync=float(given["iptables-resync"]),
        healthz=(given["healthz-ip"], port), tx_checksum=given["vxlan-tx-checksum"],
        verbosity=given["v"], vmodule=given["vmodule"], log_backtrace_at=given["log_backtrace_at"],
        kube=_kube(given) if given["kube-subnet-mgr"] else None,
    )


def _kube(given: Mapping[str, Any]) -> KubeSettings:
    return KubeSettings(
        given["kube-api-url"], given["kubeconfig-file"], given["kube-annotation-prefix"], Path(given["net-config-path"]),
        given["set-node-network-unavailable"],
    )


def _public(given: Mapping[str, Any]) -> Mapping[Family, IPAddress]:
    found = {}
    for flag, family in (("public-ip", Family.IPV4), ("public-ipv6", Family.IPV6)):
        if given[flag]:
            address = parse_address(given[flag], what=f"--{flag}")
            if Family.of(address) is not family:
                raise UserError(f"--{flag}: {address} is not an IPv{family.value} address")
            found[family] = address
    return found
