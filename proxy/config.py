"""What the proxy was told: flags over a KubeProxyConfiguration file over defaults, checked once.

Pure but for reading the file. Field names are those of `kubeproxy.config.k8s.io/v1alpha1`. Read next: `proxy/agent.py`.
"""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from nodecore.errors import UserError
from nodecore.net import Family, IPNetwork, parse_network

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
MODES = ("nftables",)
LATER = {
    "iptables": "not there yet", "ipvs": "not there yet", "userspace": "gone from Kubernetes", "kernelspace": "for Windows only",
}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to serve HTTP on."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set, checked; times in seconds."""

    kubeconfig: str = ""
    mode: str = "nftables"
    node: str = ""
    cluster_cidrs: tuple[IPNetwork, ...] = ()
    node_port_addresses: tuple[IPNetwork, ...] = ()
    masquerade_all: bool = False
    healthz: Listen | None = None
    metrics: Listen | None = None
    sync_period: float = 30.0
    min_sync_period: float = 1.0

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of the cluster's own networks; IPv4 where none is named."""
        named = {Family.of(network) for network in self.cluster_cidrs}
        return tuple(family for family in Family if family in named) or (Family.IPV4,)


Values = dict[str, Any]  # flag name -> value as given; absent where not given


def build(flags: Values, file: Values | None = None) -> Config:
    """Check the values of flags, and of the file where a flag is not given."""
    values = {**from_file(file or {}), **flags}
    return Config(
        kubeconfig=str(values.get("kubeconfig", "")),
        mode=parse_mode(str(values.get("proxy-mode", "") or "nftables")),
        node=str(values.get("hostname-override", "") or socket.gethostname()).strip().lower(),
        cluster_cidrs=_networks(values.get("cluster-cidr", ""), "--cluster-cidr"),
        node_port_addresses=_node_port_addresses(values.get("nodeport-addresses", "")),
        masquerade_all=bool(values.get("masquerade-all", False)),
        healthz=parse_listen(values.get("healthz-bind-address", "0.0.0.0:10256"), "--healthz-bind-address", 10256),
        metrics=parse_listen(values.get("metrics-bind-address", "127.0.0.1:10249"), "--metrics-bind-address", 10249),
        sync_period=parse_duration(values.get("iptables-sync-period", "30s"), "--iptables-sync-period"),
        min_sync_period=parse_duration(values.get("iptables-min-sync-period", "1s"), "--iptables-min-sync-period"),
    )


def parse_mode(text: str) -> str:
    """A mode we have, or a clear refusal."""
    if text in MODES:
        return text
    if text in LATER:
        raise UserError(f"--proxy-mode: {text} is {LATER[text]}; use nftables")
    raise UserError(f"--proxy-mode: {text!r} is unknown; use nftables")


def _networks(value: Any, what: str) -> tuple[IPNetwork, ...]:
    texts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(parse_network(str(text), what=what) for text in texts if str(text).strip())


def _node_port_addresses(value: Any) -> tuple[IPNetwork, ...]:
    what = "--nodeport-addresses"
    texts = [part.strip() for text in (value if isinstance(value, list | tuple) else [value]) for part in str(text).split(",")]
    words = [text for text in texts if text and "/" not in text]
    for word in words:
        if word != "all":
            raise UserError(f"{what}: {word!r} is neither `all` nor a CIDR")
    if words and len(words) < len([text for text in texts if text]):
        raise UserError(f"{what}: `all` stands alone")
    return () if words else _networks(texts, what)


def parse_listen(text: str, what: str, port: int) -> Listen | None:
    """`ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`; empty means not at all."""
    if not text:
        return None
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, number = text, str(port)
    host = host.strip("[]") or "0.0.0.0"
    try:
        ip_address(host)
        listen = Listen(host, int(number))
    except ValueError:
        raise UserError(f"{what}: {text!r} is not an address and port") from None
    if not 0 <= listen.port <= 65535:
        raise UserError(f"{what}: {listen.port} is not a port")
    return listen


def parse_duration(text: str | float, what: str) -> float:
    """Go's notation, such as `1s`, `500ms` or `1m30s`."""
    parts = DURATION.findall(str(text))
    if "".join(number + unit for number, unit in parts) != str(text) and str(text) != "0":
        raise UserError(f"{what}: {text!r} is not a duration such as 30s or 500ms")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def read_file(path: str) -> Values:
    """A KubeProxyConfiguration, in JSON or YAML."""
    try:
        raw = Path(path).read_text()
    except OSError as error:
        raise UserError(f"--config: {path}: {os.strerror(error.errno or 0)}") from None
    try:
        document = json.loads(raw)
    except ValueError:
        document = _yaml(raw, path)
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("apiVersion") != API_VERSION:
        raise UserError(f"--config: {path}: not a {KIND} of {API_VERSION}")
    return document


def _yaml(raw: str, path: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise UserError(f"--config: {path}: neither JSON nor YAML: {' '.join(str(error).split())}") from None


def from_file(document: Values) -> Values:
    """The fields that matter, by the names of their flags."""
    def section(name: str) -> Values:
        found = document.get(name) or {}
        if not isinstance(found, dict):
            raise UserError(f"--config: {name}: not an object")
        return found

    timing = section("nftables") or section("iptables")
    found = {
        "kubeconfig": section("clientConnection").get("kubeconfig"),
        "proxy-mode": document.get("mode"),
        "hostname-override": document.get("hostnameOverride"),
        "cluster-cidr": document.get("clusterCIDR") or section("detectLocal").get("clusterCIDRs"),
        "nodeport-addresses": document.get("nodePortAddresses"),
        "masquerade-all": timing.get("masqueradeAll"),
        "healthz-bind-address": document.get("healthzBindAddress"),
        "metrics-bind-address": document.get("metricsBindAddress"),
        "iptables-sync-period": timing.get("syncPeriod"),
        "iptables-min-sync-period": timing.get("minSyncPeriod"),
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}
