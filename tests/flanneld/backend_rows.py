"""The table of backends and families, and the two nodes each row is tried on: what differs between backends, and nothing else.

A row says what is configured, what the kernel must hold then, and what may be done to it. What is asked of every row is in
`test_every_backend.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from site_of_nodes import PATIENCE, Node, Site, ping_once, until

from flanneld_py.attend.charon import find_charon
from flanneld_py.relay import control_address
from nodecore.kernel.netns import Netns
from tests.kernelmodules import need

NETWORKS = {"ipv4": {"Network": "10.5.0.0/16"}, "ipv6": {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:5::/48"}}
NETWORKS["dual"] = NETWORKS["ipv6"] | NETWORKS["ipv4"] | {"EnableIPv4": True}
UNDERLAY6 = "2001:db8:77::"
PSK = "1f2e" * 24
WG_PSK = b64encode(bytes(range(32))).decode()
STRANGER = b64encode(bytes([9] * 32)).decode()
LIBIPSEC = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"
NUMBER = re.compile(r"\d+:")  # of a link, which is another one when it is made again
STRONGSWAN = """charon {{
  load_modular = no
  load = random nonce openssl aes sha1 sha2 hmac gmp kdf gcm socket-default {kernel} vici
  filelog {{ stderr {{ default = 1 }} }}
}}
"""
SUBNETS = "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"


class RowNode(Node):
    """A node with an IPv6 address on the underlay too, and its own WireGuard key."""

    def __init__(self, number: int, ns: Netns, directory: Path) -> None:
        super().__init__(number, ns, directory)
        self.environment["WIREGUARD_KEY_FILE"] = str(self.directory / "wgkey")

    @property
    def ip6(self) -> str:
        return f"{UNDERLAY6}{self.number}"

    def sh(self, command: str) -> str:
        """What a command prints, nothing where it fails."""
        return self.ns.run(command.split(), check=False).stdout

    def close(self) -> None:
        """What outlives the daemon and is no device ends."""
        if pid := relay_pid(self):
            self.sh("ip link del flannel0")
            until(lambda: not alive(pid), "the relay ended")


class IpsecNode(RowNode):
    """A node whose /run, where charon keeps its socket and its process number, is its own."""

    kernel = "kernel-libipsec kernel-netlink"
    holder: subprocess.Popen[bytes] | None = None

    def arguments(self, *flags: str, **kw: str) -> list[str]:
        if not self.holder:
            self._own_run()
        return self.inside(*super().arguments(*flags, **kw))

    def inside(self, *argv: str) -> list[str]:
        assert self.holder
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", *argv]

    def _own_run(self) -> None:
        conf = self.directory / "strongswan.conf"
        conf.write_text(STRONGSWAN.format(kernel=self.kernel))
        script = f"mount -t tmpfs none /run && mount --bind {conf} /etc/strongswan.conf && echo on && exec cat"
        self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout
        assert self.holder.stdout.readline() == b"on\n"

    def charon(self) -> int:
        """Its process number, 0 where there is none."""
        try:
            return int(Path(f"/proc/{self.holder.pid}/root/run/charon.pid").read_text()) if self.holder else 0
        except (OSError, ValueError):
            return 0

    def swanctl(self, *words: str) -> str:
        """What charon says of itself."""
        return self.ns.run(self.inside("swanctl", *words), check=False).stdout

    def close(self) -> None:
        if number := self.charon():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if self.holder:
            self.holder.kill()
            self.holder.communicate()


class KernelIpsecNode(IpsecNode):
    """The same with the kernel's own ESP."""

    kernel = "kernel-netlink"


def relays(ns: Netns, device: str = "flannel0") -> Iterator[dict[str, Any]]:
    """What the udp backend's relay in a namespace says of itself."""
    with ns.enter(), closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.settimeout(30)
        with suppress(OSError):
            sock.connect(control_address(device))
            sock.sendall(b'{"op": "show"}\n')
            with sock.makefile() as lines:
                yield json.loads(lines.readline())


def relay_pid(node: Node) -> int:
    return next((int(found["pid"]) for found in relays(node.ns)), 0)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def has_esp() -> bool:
    """Whether the kernel can do ESP."""
    with Netns.create() as ns:
        state = "ip xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 7 mode tunnel aead rfc4106(gcm(aes))"
        return ns.run([*state.split(), "0x" + "11" * 20, "128"], check=False).returncode == 0


def need_charon() -> None:
    if not find_charon() or not os.path.exists(LIBIPSEC) or not shutil.which("swanctl"):
        pytest.skip("needs strongswan-charon, strongswan-swanctl, libcharon-extra-plugins (kernel-libipsec)")


def need_esp() -> None:
    need_charon()
    if not has_esp():
        pytest.skip("this kernel has no ESP (module esp4)")


def relay_state(node: RowNode) -> str:
    return str([(said["listen"], sorted(said["peers"].items())) for said in relays(node.ns)])


def wg_state(node: RowNode) -> str:
    """The devices with keys and peers, without what traffic changes."""
    found = [node.sh(f"wg show all {what}") for what in ("private-key", "listen-port", "preshared-keys", "allowed-ips",
                                                         "persistent-keepalive")]
    return "".join("\n".join(sorted(" ".join(sorted(line.split())) for line in text.splitlines())) for text in found)


def charon_state(node: RowNode) -> str:
    assert isinstance(node, IpsecNode)
    return node.swanctl("--list-conns")


@dataclass(frozen=True)
class Row:
    """One backend with its families. The templates of `lines` and `links` are filled with `facts`."""

    name: str
    mtu: int
    families: str = "ipv4"
    options: dict[str, Any] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)  # each device, as `ip -d -j link` tells it
    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what a command prints on one of the other
    data: Callable[[RowNode, str], dict[str, Any]] = lambda node, device: {}
    strangers: dict[str, Any] = field(default_factory=dict)
    tells: Callable[[RowNode], str] = lambda node: ""
    damage: tuple[str, ...] = ()
    need: Callable[[], None] = lambda: None
    kind: type[RowNode] = RowNode
    limit: int = 0  # where the way itself ends, if not where the pods' MTU does

    @property
    def type(self) -> str:
        return self.name.split()[0]

    @property
    def config(self) -> dict[str, Any]:
        backend = {"Type": self.type} if self.type != "udp" else {}
        return NETWORKS[self.families] | {"EnableNFTables": True, "Backend": backend | self.options}

    @property
    def tunnels(self) -> bool:
        """Whether packets for the other's pods go through a device of ours."""
        return any(f"dev {device} " in line for lines in self.lines.values() for line in lines for device in self.links)

    def lease(self, node: RowNode) -> tuple[str, dict[str, Any]]:
        """The key and value of a node's lease."""
        four, six = (ip_interface(node.env()[key]).network if key in node.env() else None for key in SUBNETS)
        return self._lease(four, six, node.ip, node.ip6, [self.data(node, device) for device in self.links] or [{}])

    def stranger(self) -> tuple[str, dict[str, Any]]:
        """The lease of a peer that is not there."""
        four, six = (ip_network("10.5.250.0/24"), ip_network("fd00:5:0:fa::/64"))
        return self._lease(four if self.families != "ipv6" else None, six if self.families != "ipv4" else None,
                           "192.168.77.99", f"{UNDERLAY6}99", [self.strangers])

    def _lease(self, four: Any, six: Any, ip: str, ip6: str, data: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        value: dict[str, Any] = {"PublicIP": ip if four else "0.0.0.0", "PublicIPv6": ip6 if six else None}
        value |= {"BackendType": self.type} if self.type != "udp" else {}
        value |= {"BackendData": data[0]} if four and data[0] else {}
        value |= {"BackendV6Data": data[-1]} if six and data[-1] else {}
        keys = [f"{net.network_address}-{net.prefixlen}" if net else "0.0.0.0-0" for net in (four, six)]
        return "&".join(keys if six else keys[:1]), value

    def state(self, node: RowNode) -> str:
        """What the kernel and its helpers hold of it, in their tools' words, but what changes by itself."""
        found = [self.tells(node), *(node.sh(f"ip -{family} route show proto 70") for family in (4, 6))]
        for device in self.links:
            found.append(str(sorted(link(node, device).items(), key=str)))
            known = (f"ip -o addr show dev {device} scope global", f"ip neigh show dev {device} nud permanent",
                     f"ip -6 neigh show dev {device} nud permanent", f"bridge fdb show dev {device}")
            words = [node.sh(command).split() for command in known]
            found += [str(sorted(word for word in line if not NUMBER.fullmatch(word))) for line in words]
        return "\n".join(found)


def link(node: RowNode, device: str) -> dict[str, Any]:
    """What `ip` tells of a device that stays as it is."""
    told = json.loads(node.sh(f"ip -d -j link show {device}") or "[{}]")[0]
    info = told.get("linkinfo", {})
    kept = {key: told.get(key) for key in ("ifname", "mtu", "address")} | {"up": "UP" in told.get("flags", [])}
    return kept | {"info_kind": info.get("info_kind")} | {key: value for key, value in info.get("info_data", {}).items()
                                                         if key not in ("numtxqueues", "numrxqueues", "numdisabled")}


def facts(own: RowNode, other: RowNode) -> dict[str, str]:
    """The words the templates are filled with."""
    words = {"ip": own.ip, "ip6": own.ip6, "other_ip": other.ip, "other_ip6": other.ip6, "psk": WG_PSK}
    for side, node in (("", own), ("other_", other)):
        for key, name in zip(SUBNETS, ("net", "net6"), strict=True):
            if text := node.env().get(key):
                network = ip_interface(text).network
                words |= {f"{side}{name}": str(network), f"{side}{name}_at": str(network.network_address)}
        words |= {f"{side}mac": mac_of(node, "flannel.1"), f"{side}mac6": mac_of(node, "flannel-v6.1")}
        for device, name in (("flannel-wg", "key"), ("flannel-wg-v6", "key6")):
            words[f"{side}{name}"] = node.sh(f"wg show {device} public-key").strip()
    return words


def mac_of(node: RowNode, device: str) -> str:
    return str(link(node, device)["address"])


# --- the table ---------------------------------------------------------------------------------------------------


def device_damage(*devices: str) -> tuple[str, ...]:
    """What anybody may do to a device."""
    return tuple(f"ip {what}" for device in devices for what in (
        f"link del {device}", f"link set {device} down", f"link set {device} mtu 1300", f"addr flush dev {device} scope global"))


def vxlan_data(node: RowNode, device: str) -> dict[str, Any]:
    return {"VNI": 1, "VtepMAC": mac_of(node, device)}


def wg_data(node: RowNode, device: str) -> dict[str, Any]:
    return {"PublicKey": node.sh(f"wg show {device} public-key").strip()}


VXLAN = {"info_kind": "vxlan", "id": 1, "port": 8472, "learning": False}
ROUTES = "ip -4 route show proto 70", "ip -6 route show proto 70"
FLUSH = "ip -4 route flush proto 70", "ip -6 route flush proto 70"

def vxlan(families: str, mtu: int) -> Row:
    devices = {"ipv4": ("flannel.1",), "ipv6": ("flannel-v6.1",), "dual": ("flannel.1", "flannel-v6.1")}[families]
    local = {"flannel.1": {"local": "{ip}"}, "flannel-v6.1": {"local6": "{ip6}"}}
    lines = {}
    if families != "ipv6":
        lines |= {ROUTES[0]: ("{other_net} via {other_net_at} dev flannel.1 onlink",),
                  "ip neigh show dev flannel.1 nud permanent": ("{other_net_at} lladdr {other_mac} PERMANENT",),
                  "bridge fdb show dev flannel.1": ("{other_mac} dst {other_ip} self permanent",)}
    if families != "ipv4":
        lines |= {ROUTES[1]: ("{other_net6} via {other_net6_at} dev flannel-v6.1 metric 1024 onlink pref medium",),
                  "ip -6 neigh show dev flannel-v6.1 nud permanent": ("{other_net6_at} lladdr {other_mac6} PERMANENT",),
                  "bridge fdb show dev flannel-v6.1": ("{other_mac6} dst {other_ip6} self permanent",)}
    return Row("vxlan", mtu, families, links={device: VXLAN | local[device] for device in devices}, lines=lines, data=vxlan_data,
               strangers={"VNI": 1, "VtepMAC": "02:00:00:00:00:99"},
               damage=(*device_damage(*devices), *FLUSH, *(f"bridge fdb flush dev {device}" for device in devices)))


def host_gw(families: str) -> Row:
    lines = {ROUTES[0]: ("{other_net} via {other_ip} dev eth0",) if families != "ipv6" else (),
             ROUTES[1]: ("{other_net6} via {other_ip6} dev eth0 metric 1024 pref medium",) if families != "ipv4" else ()}
    return Row("host-gw", 1500, families, lines=lines, damage=FLUSH)


def wireguard(families: str, mode: str = "", over: int = 4) -> Row:
    """With one device, or with one for each family."""
    devices = ["flannel-wg"]
    if not mode:
        devices = [device for device, only in (("flannel-wg", "ipv6"), ("flannel-wg-v6", "ipv4")) if families != only]
    lines = {ROUTES[0]: ("10.5.0.0/16 dev flannel-wg scope link",) if families != "ipv6" else (),
             ROUTES[1]: (f"fd00:5::/48 dev {devices[-1]} metric 1024 pref medium",) if families != "ipv4" else ()}
    for device in devices:
        six = device.endswith("v6")
        nets = "{other_net} {other_net6}" if mode else "{other_net6}" if six else "{other_net}"
        end = "[{other_ip6}]:51821" if six else "[{other_ip6}]:51820" if over == 6 else "{other_ip}:51820"
        peer = "{other_key6}" if six else "{other_key}"
        lines |= {f"wg show {device} allowed-ips": (f"{peer} {nets}",), f"wg show {device} endpoints": (f"{peer} {end}",),
                  f"wg show {device} preshared-keys": (f"{peer} {{psk}}",)}
    edits = (f"wg set {devices[-1]} peer {{other_key{'6' if devices[-1].endswith('v6') else ''}}} remove",
             f"wg set {devices[-1]} peer {STRANGER} allowed-ips {{other_net{'' if families == 'ipv4' else '6'}}}",
             f"wg set {devices[0]} listen-port 4000")
    options = {"PSK": WG_PSK, "PersistentKeepaliveInterval": 1} | ({"Mode": mode} if mode else {})
    return Row(f"wireguard {mode or 'separate'}", 1420, families, options=options, lines=lines, data=wg_data, tells=wg_state,
               links={device: {"info_kind": "wireguard"} for device in devices}, strangers={"PublicKey": STRANGER},
               damage=(*device_damage(*devices), *FLUSH, *edits), need=lambda: need("wireguard"))


IPIP = {"info_kind": "ipip", "local": "{ip}", "remote": "any", "ttl": 0, "pmtudisc": False}
UDP = {"type": "tun", "persist": True, "info_kind": "tun"}
ROWS = (
    vxlan("ipv4", 1450), vxlan("ipv6", 1430), vxlan("dual", 1430), host_gw("ipv4"), host_gw("ipv6"), host_gw("dual"),
    Row("udp", 1472, links={"flannel0": UDP}, lines={ROUTES[0]: ("10.5.0.0/16 dev flannel0 scope link",)}, tells=relay_state,
        damage=(*device_damage("flannel0"), FLUSH[0])),
    Row("ipip", 1480, links={"flannel.ipip": IPIP}, lines={ROUTES[0]: ("{other_net} via {other_ip} dev flannel.ipip onlink",)},
        damage=(*device_damage("flannel.ipip"), FLUSH[0]), need=lambda: need("ipip")),
    Row("ipip direct", 1480, options={"DirectRouting": True}, links={"flannel.ipip": IPIP},
        lines={ROUTES[0]: ("{other_net} via {other_ip} dev eth0",)}, damage=(FLUSH[0],), need=lambda: need("ipip"), limit=1500),
    wireguard("ipv4"), wireguard("ipv6"), wireguard("dual"), wireguard("dual", "auto", 6), wireguard("dual", "ipv4"),
    wireguard("dual", "ipv6", 6),
    Row("ipsec in user space", 1400, options={"PSK": PSK}, tells=charon_state, kind=IpsecNode, need=need_charon),
    Row("ipsec in the kernel", 1423, options={"PSK": PSK}, tells=charon_state, kind=KernelIpsecNode, need=need_esp, limit=1446),
    Row("ipsec encapsulated", 1415, options={"PSK": PSK, "UDPEncap": True}, tells=charon_state, kind=KernelIpsecNode,
        need=need_esp, limit=1438),
)


@contextmanager
def laid(row: Row, directory: Path) -> Iterator[tuple[RowNode, RowNode, Site]]:
    """Two nodes with pods on the backend of a row."""
    row.need()
    site = Site(directory)
    site.kind = row.kind
    try:
        site.etcd.start()
        site.switch.run(["ip", "addr", "add", f"{UNDERLAY6}fe/64", "dev", "br0", "nodad"])
        site.configure(row.config)
        for number in (1, 2):
            node = site.add_node()
            node.ns.run(["sysctl", "-qw", "net.ipv6.conf.eth0.keep_addr_on_down=1"])
            node.ns.run(["ip", "addr", "add", f"{UNDERLAY6}{number}/64", "dev", "eth0", "nodad"])
            node.start()
        site.add_pods()
        one, two = site.nodes
        reach(one, two, 60)
        yield one, two, site  # type: ignore[misc]
    finally:
        for node in site.nodes:
            if node.daemon:
                node.stop()
            node.close()  # type: ignore[attr-defined]
        site.close()


def reach(one: Node, two: Node, seconds: float = PATIENCE) -> float:
    """Wait until pods reach each other in every family, both ways; says how long it took."""
    return max(until(lambda: ping_once(here.pod, target, 0.3), f"{here.number} reaches {target}", seconds)  # type: ignore[arg-type]  # noqa: B023
               for here, there in ((one, two), (two, one)) for target in there.pod_ips())
