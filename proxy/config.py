"""What the proxy was told: flags over a KubeProxyConfiguration file over defaults, checked once.

Reads that file and the host's name only. What the flags are and which field each stands for: `proxy/flags.py`.
Read next: `proxy/agent.py`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.duration import parse_duration
from nodecore.errors import UserError
from nodecore.files import read_document
from nodecore.net import Family, IPAddress, IPNetwork, parse_address, parse_network, read_address

from .flags import FLAGS, IGNORED_SECTIONS, MODE_SECTIONS, Flag

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
MODES = ("nftables", "iptables", "ipvs")
LATER = {
    "userspace": "gone from Kubernetes", "kernelspace": "for Windows only",
}
LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq")  # a kernel's, ip_vs_NAME
INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
ALL, PRIMARY, LOOPBACK = "all", "primary", "localhost"  # words of --nodeport-addresses
IPV4_LOOPBACK = parse_network("127.0.0.0/8")
LOCALHOST = "iptables-localhost-nodeports"
LISTEN_IPV6 = {"healthz-bind-address": "[::]:10256", "metrics-bind-address": "[::1]:10249"}  # where --bind-address is IPv6
LOUDNESS = (("logging", "verbosity"), ("logging", "vmodule"))
BY_NAME = {flag.name: flag for flag in FLAGS}


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to serve HTTP on."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Locality:
    """How a packet from a pod is told from others: by its networks, or by the interface it came through (`*` at the end: any)."""

    networks: tuple[IPNetwork, ...] = ()
    interface: str = ""
    node_cidr: bool = False  # the networks are those of our Node, to be read


@dataclass(frozen=True, slots=True)
class ConntrackLimits:
    """What is to be set of connection tracking: counts, and seconds; 0 for what is to stay as it is."""

    per_core: int = 32768
    least: int = 131072
    tcp_established: float = 86400.0
    tcp_close_wait: float = 3600.0
    udp: float = 0.0
    udp_stream: float = 0.0
    tcp_be_liberal: bool = True


@dataclass(frozen=True, slots=True)
class IpvsOptions:
    """What only ipvs mode has; seconds, 0 for what is to stay as it is."""

    scheduler: str = "rr"
    excluded: tuple[IPNetwork, ...] = ()  # where virtual servers are somebody else's
    strict_arp: bool = False
    tcp: float = 0.0
    tcp_fin: float = 0.0
    udp: float = 0.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set, checked; times in seconds."""

    kubeconfig: str = ""
    master: str = ""
    mode: str = "nftables"
    node: str = ""
    families: tuple[Family, ...] = tuple(Family)  # of --cluster-cidr; all where it names none
    bind_address: IPAddress | None = None
    cluster_cidrs: tuple[IPNetwork, ...] = ()
    locality: Locality = field(default_factory=Locality)
    node_port_addresses: tuple[IPNetwork, ...] = ()
    node_ports_on_primary: bool = False
    loopback_node_ports: bool = False
    masquerade_all: bool = False
    masquerade_bit: int = 14
    conntrack: ConntrackLimits = field(default_factory=ConntrackLimits)
    ipvs: IpvsOptions = field(default_factory=IpvsOptions)
    oom_score_adj: int = -999
    healthz: Listen | None = None
    metrics: Listen | None = None
    bind_hard_fail: bool = False
    forget_tcp: bool = False
    traffic_metrics: bool = False
    verify_programming: bool = False
    sync_period: float = 30.0
    min_sync_period: float = 1.0
    verbosity: int = 0  # of the file, as the next: flags may say otherwise
    vmodule: str = ""
    unused: tuple[str, ...] = ()  # what was given and has no effect, each with its reason
    values: Mapping[str, Any] = field(default_factory=dict)  # every flag's value as it counts, for /configz and --write-config-to

    @property
    def masquerade_mark(self) -> int:
        """The bit, as a number."""
        return 1 << self.masquerade_bit


NUMBER = (int, float), "a number"
SORTS: dict[type, tuple[tuple[type, ...], str]] = {  # of what the file may say where a flag is of that type
    bool: ((bool,), "true or false"), int: NUMBER, float: NUMBER, str: ((str, int, float), "a text"), tuple: ((list,), "a list"),
    dict: ((dict,), "an object"),
}
Values = dict[str, Any]  # flag name -> value as given; absent where not given


def build(flags: Values, file: Values | None = None) -> Config:
    """Check the values of flags, and of the file where a flag is not given."""
    told, strange = from_file(file or {}, str(flags.get("proxy-mode", "")))
    given = {**told, **flags}
    values = {flag.name: given.get(flag.name, flag.default) for flag in FLAGS}
    if Family.of(parse_address(str(values["bind-address"]), what="--bind-address")) is Family.IPV6:
        values |= {name: given.get(name, text) for name, text in LISTEN_IPV6.items()}
    values["feature-gates"] = _gates(values["feature-gates"])
    mode = parse_mode(str(values["proxy-mode"] or "nftables"))
    cidrs = _networks(values["cluster-cidr"], "--cluster-cidr")
    node_ports, on_primary = _node_port_addresses(values["nodeport-addresses"])
    return Config(
        kubeconfig=str(values["kubeconfig"]), master=str(values["master"]), mode=mode,
        node=str(values["hostname-override"] or socket.gethostname()).strip().lower(),
        bind_address=_bind_address(str(values["bind-address"])),
        families=_families(cidrs), cluster_cidrs=cidrs, locality=_locality(values, cidrs),
        node_port_addresses=node_ports, node_ports_on_primary=on_primary,
        loopback_node_ports=mode == "iptables" and _switch(values, LOCALHOST) and _has_loopback(node_ports, on_primary),
        masquerade_all=_switch(values, "masquerade-all"),
        masquerade_bit=_number(values, "iptables-masquerade-bit", 0, 31),
        conntrack=_conntrack(values), ipvs=_ipvs(values), oom_score_adj=_number(values, "oom-score-adj", -1000, 1000),
        healthz=parse_listen(str(values["healthz-bind-address"]), "--healthz-bind-address", 10256),
        metrics=parse_listen(str(values["metrics-bind-address"]), "--metrics-bind-address", 10249),
        bind_hard_fail=_switch(values, "bind-address-hard-fail"), forget_tcp=_switch(values, "conntrack-forget-removed-tcp"),
        traffic_metrics=_switch(values, "traffic-metrics"), verify_programming=_switch(values, "verify-programming"),
        **_periods(values), **_loudness(file or {}),
        unused=(*_without_effect(given), *_not_on_loopback(mode, flags, node_ports), *strange), values=values,
    )


def _families(cidrs: tuple[IPNetwork, ...]) -> tuple[Family, ...]:
    named = {Family.of(network) for network in cidrs}
    return tuple(family for family in Family if family in named) or tuple(Family)


def _periods(values: Values) -> Values:
    longest, least = "iptables-sync-period", "iptables-min-sync-period"
    found = {"sync_period": _seconds(values, longest), "min_sync_period": _seconds(values, least)}
    if not found["sync_period"]:
        raise UserError(f"--{longest}: {values[longest]!r} is not more than 0")
    if found["min_sync_period"] > found["sync_period"]:
        raise UserError(f"--{least}: {values[least]!r} is more than --{longest} {values[longest]!r}")
    return found


def _loudness(file: Values) -> Values:
    """The file's fields for what --v and --vmodule say."""
    number, patterns = (_at(file, path) for path in LOUDNESS)
    try:
        files = ",".join(f"{item['filePattern']}={int(item['verbosity'])}" for item in patterns or ())
        return {"verbosity": int(number or 0), "vmodule": files}
    except (TypeError, ValueError, KeyError):
        raise UserError("--config: logging: verbosity is a number, vmodule a list of filePattern and verbosity") from None


def _gates(value: Any) -> dict[str, bool]:
    """`A=true,B=false`, or the mapping of a file."""
    words = [part.strip() for text in value for part in str(text).split(",")] if not isinstance(value, dict) else []
    pairs = list(value.items()) if isinstance(value, dict) else [word.partition("=")[::2] for word in words if word]
    for name, gate in pairs:
        if str(gate).lower() not in ("true", "false"):
            raise UserError(f"--feature-gates: {name}={gate}: not true or false")
    return {str(name): str(gate).lower() == "true" for name, gate in pairs}


def _without_effect(given: Values) -> list[str]:
    flags = [BY_NAME[name] for name in given]
    return [f"--{flag.name}: {flag.unused}" for flag in flags if flag.unused and given[flag.name] != flag.default]


def _not_on_loopback(mode: str, flags: Values, networks: tuple[IPNetwork, ...]) -> list[str]:
    """What asks for NodePorts on loopback where there are none: a flag that was given, a network."""
    asked = [f"--{LOCALHOST}"] if flags.get(LOCALHOST) is True and mode != "iptables" else []
    asked += [f"--nodeport-addresses: {network}" for network in networks
              if network.is_loopback and (mode != "iptables" or network.version == 6)]
    return [f"{what}: {mode} mode has no NodePorts on loopback{' of IPv6' * (mode == 'iptables')}" for what in asked]


def parse_mode(text: str) -> str:
    """A mode we have, or a clear refusal."""
    if text in MODES:
        return text
    if text in LATER:
        raise UserError(f"--proxy-mode: {text} is {LATER[text]}; use {' or '.join(MODES)}")
    raise UserError(f"--proxy-mode: {text!r} is unknown; use {' or '.join(MODES)}")


def _locality(values: Values, cidrs: tuple[IPNetwork, ...]) -> Locality:
    mode = str(values["detect-local-mode"] or "ClusterCIDR")
    if mode not in LOCAL_MODES:
        raise UserError(f"--detect-local-mode: {mode!r} is none of {', '.join(LOCAL_MODES)}")
    if mode == "ClusterCIDR":
        return Locality(cidrs)
    if mode == "NodeCIDR":
        return Locality(node_cidr=True)
    name = "pod-bridge-interface" if mode == "BridgeInterface" else "pod-interface-name-prefix"
    interface = str(values[name])
    if not INTERFACE.fullmatch(interface):
        raise UserError(f"--{name}: {interface!r} is not an interface's name; --detect-local-mode {mode} needs one")
    return Locality(interface=interface if mode == "BridgeInterface" else f"{interface}*")


def _conntrack(values: Values) -> ConntrackLimits:
    return ConntrackLimits(
        _number(values, "conntrack-max-per-core", 0, 1 << 31), _number(values, "conntrack-min", 0, 1 << 31),
        _seconds(values, "conntrack-tcp-timeout-established"), _seconds(values, "conntrack-tcp-timeout-close-wait"),
        _seconds(values, "conntrack-udp-timeout"), _seconds(values, "conntrack-udp-timeout-stream"),
        tcp_be_liberal=_switch(values, "conntrack-tcp-be-liberal"),
    )


def _ipvs(values: Values) -> IpvsOptions:
    scheduler = str(values["ipvs-scheduler"] or "rr")
    if scheduler not in SCHEDULERS:
        raise UserError(f"--ipvs-scheduler: {scheduler!r} is none of {', '.join(SCHEDULERS)}")
    excluded = [part for text in values["ipvs-exclude-cidrs"] for part in str(text).split(",")]
    return IpvsOptions(
        scheduler, _networks(excluded, "--ipvs-exclude-cidrs"), _switch(values, "ipvs-strict-arp"),
        _seconds(values, "ipvs-tcp-timeout"), _seconds(values, "ipvs-tcpfin-timeout"), _seconds(values, "ipvs-udp-timeout"),
    )


def _switch(values: Values, name: str) -> bool:
    if not isinstance(values[name], bool):
        raise UserError(f"--{name}: {values[name]!r} is neither true nor false")
    return bool(values[name])


def _number(values: Values, name: str, low: int, high: int) -> int:
    value = values[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"--{name}: {value!r} is not a number from {low} to {high}")
    return value


def _seconds(values: Values, name: str) -> float:
    return parse_duration(str(values[name]), what=f"--{name}")


def _bind_address(text: str) -> IPAddress | None:
    address = parse_address(text, what="--bind-address")
    return None if address.is_unspecified else address


def _networks(value: Any, what: str) -> tuple[IPNetwork, ...]:
    texts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(parse_network(str(text), what=what) for text in texts if str(text).strip())


def _node_port_addresses(value: Any) -> tuple[tuple[IPNetwork, ...], bool]:
    """The networks, none for all addresses, and whether NodePorts answer on the node's primary addresses."""
    what = "--nodeport-addresses"
    texts = [part.strip() for text in (value if isinstance(value, list | tuple) else [value]) for part in str(text).split(",")]
    texts = [text for text in texts if text]
    words = {text for text in texts if "/" not in text}
    for word in words - {ALL, PRIMARY, LOOPBACK}:
        raise UserError(f"{what}: {word!r} is neither `{ALL}` nor `{PRIMARY}` nor `{LOOPBACK}` nor a CIDR")
    whole = sorted(words - {LOOPBACK})
    if whole and set(texts) - {whole[0], LOOPBACK}:
        raise UserError(f"{what}: `{whole[0]}` goes with nothing but `{LOOPBACK}`")
    networks = [text for text in texts if text not in words] + ["127.0.0.0/8"] * (LOOPBACK in words)
    return () if ALL in words else _networks(networks, what), PRIMARY in words


def _has_loopback(networks: tuple[IPNetwork, ...], on_primary: bool) -> bool:  # noqa: FBT001
    """Whether NodePorts may answer on IPv4's loopback: on all addresses, or where a network says so."""
    return any(network.overlaps(IPV4_LOOPBACK) for network in networks) or not (networks or on_primary)


def parse_listen(text: str, what: str, port: int) -> Listen | None:
    """`ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`; empty means not at all."""
    if not text:
        return None
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, number = text, str(port)
    host = host.strip("[]") or "0.0.0.0"
    try:
        read_address(host)
        listen = Listen(host, int(number))
    except ValueError:
        raise UserError(f"{what}: {text!r} is not an address and port") from None
    if not 0 <= listen.port <= 65535:
        raise UserError(f"{what}: {listen.port} is not a port")
    return listen


def read_file(path: str) -> Values:
    """A KubeProxyConfiguration, in JSON or YAML."""
    document = read_document(path, "--config")
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("apiVersion") != API_VERSION:
        raise UserError(f"--config: {path}: not a {KIND} of {API_VERSION}")
    return document


def from_file(document: Values, mode: str = "") -> tuple[Values, list[str]]:
    """The fields by the names of their flags, and what of the document has no effect."""
    section = mode or str(document.get("mode") or "nftables")
    found: Values = {}
    known: set[tuple[str, ...]] = {("kind",), ("apiVersion",), *LOUDNESS}
    for flag in FLAGS:
        path = flag.path(section)
        known.add(path)
        value = _at(document, path)
        if flag.field and value not in (None, "", [], {}) and not (flag.zero_is_unsaid and _is_zero(value)):
            found[flag.name] = _converted(flag, value, ".".join(path))
    strange = [".".join(path) for path in _leaves(document) if path not in known and path[0] not in IGNORED_SECTIONS
               and not (path[0] in MODE_SECTIONS and path[0] != section)]
    return found, [f"--config: {name}: not a field that has an effect here" for name in strange]


def _is_zero(value: Any) -> bool:
    return value in (0, "0", "0s")


def _at(document: Values, path: tuple[str, ...]) -> Any:
    for index, name in enumerate(path):
        if not isinstance(document, dict):
            raise UserError(f"--config: {'.'.join(path[:index])}: not an object")
        document = document.get(name)  # type: ignore[assignment]
        if document is None:
            return None
    return document


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all fields that are no objects and not empty; `featureGates` counts as one."""
    if isinstance(value, dict) and path != ("featureGates",):
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, (*path, str(name)))]
    return [] if value in (None, "", [], {}, 0, False) else [path]


def _converted(flag: Flag, value: Any, path: str) -> Any:
    """A field's value as the flag would give it."""
    kind = dict if flag.field == "featureGates" else type(flag.default)
    if kind is tuple and isinstance(value, str):
        value = [value]
    taken, sort = SORTS[kind]
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"--config: {path}: {value!r:.100} is not {sort}")
    return value


def to_document(config: Config) -> Values:
    """The configuration as a KubeProxyConfiguration: what counts, with every default filled in."""
    document: Values = {"apiVersion": API_VERSION, "kind": KIND}
    for flag in FLAGS:
        if not flag.field:
            continue
        *sections, name = flag.path(config.mode)
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        value = config.values[flag.name]
        place[name] = list(value) if isinstance(value, tuple) else value
    document["logging"] |= {"verbosity": config.verbosity}
    return document | {"mode": config.mode}
