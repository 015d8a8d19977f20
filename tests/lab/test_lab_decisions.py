"""The lab's decisions: configuration, addresses, command lines, frames, images."""

from __future__ import annotations

import json
import tarfile
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from minik8s.lab import agents, cgroup, containerd, frames, images, topology
from minik8s.lab.config import LabConfig, check
from minik8s.lab.hostnet import host_routes
from minik8s.pki.kubeconfig import kubeconfig
from nodecore.errors import UserError
from nodecore.kube.config import parse

PROGRAMS = agents.Programs(
    "/venv/bin/python", "/bin", machine="x86_64", cgroup="/flanneld-py-lab", snapshotter="overlayfs", cache="/c")


def test_addresses_of_nodes_are_theirs_alone() -> None:
    nodes = topology.nodes(20, topology.CHOICES["dual"])
    taken = [address for node in nodes for address in node.addresses]
    assert len(set(taken)) == 40
    assert len({node.mac for node in nodes}) == len({node.port for node in nodes}) == 20
    assert not {gateway for _, gateway in topology.default_routes(topology.CHOICES["dual"])} & set(taken)
    assert nodes[19].cidrs == ("192.168.77.30/24", "fd00:77::30/64")


def test_a_route_of_the_host_refuses_both_networks() -> None:
    for option in ("pod_cidr", "service_cidr"):
        with pytest.raises(UserError, match="overlaps the host's route to"):
            check(LabConfig(**{option: "10.50.0.0/16"}), [IPv4Network("10.50.0.0/24")])
    check(LabConfig(families="dual"), [IPv4Network("10.50.0.0/24"), IPv6Network("fd00:11::/48")])
    with pytest.raises(UserError, match="overlaps the host's route to fd00:10:244:1::/64"):
        check(LabConfig(families="dual"), [IPv6Network("fd00:10:244:1::/64")])


def test_host_routes_are_read_without_the_default_one(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text("Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
                     "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\neth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    assert host_routes(table, tmp_path / "no-ipv6") == [IPv4Network("192.0.2.0/24")]
    six = tmp_path / "ipv6_route"
    routes = ("fd00:1000::/32", "::/0", "fe80::/64", "ff00::/8", "::1/128")
    lines = [f"{int(net.network_address):032x} {net.prefixlen:02x} {'0' * 32} 00" for net in map(IPv6Network, routes)]
    six.write_text("\n".join(lines))
    assert host_routes(table, six) == [IPv4Network("192.0.2.0/24"), IPv6Network("fd00:1000::/32")]


def test_what_runs_where() -> None:
    config = LabConfig(nodes=4, etcd_members=3)
    names = [{agent.name for agent in agents.agents(config, node, PROGRAMS)} for node in topology.nodes(4)]
    everywhere = {"containerd", "images", "flanneld", "proxy", "kubelet"}
    assert names[0] == everywhere | {"etcd", "network", "apiserver", "controllers", "scheduler"}
    assert names[1] == names[2] == everywhere | {"etcd"}
    assert names[3] == everywhere


def test_every_agent_waits_only_for_agents_of_its_node() -> None:
    for node in topology.nodes(3):
        found = agents.agents(LabConfig(), node, PROGRAMS)
        names = {agent.name for agent in found}
        assert all(name in names for agent in found for name in agent.after)


def test_three_etcd_members_reach_every_flag() -> None:
    leader = topology.nodes(3)[0]
    found = {agent.name: agent.argv for agent in agents.agents(LabConfig(etcd_members=3), leader, PROGRAMS)}
    servers = "https://192.168.77.11:2379,https://192.168.77.12:2379,https://192.168.77.13:2379"
    assert servers in found["apiserver"]
    assert servers in found["flanneld"]
    assert servers in found["network"]
    assert "node-3=https://192.168.77.13:2380" in " ".join(found["etcd"])


@pytest.mark.parametrize("families", ["ipv4", "ipv6", "dual"])
def test_families_reach_every_flag(families: str) -> None:
    config = LabConfig(families=families)
    check(config, [])
    leader = config.every_node[0]
    flags = {agent.name: " ".join(agent.argv) for agent in agents.agents(config, leader, PROGRAMS)}
    for text, wanted in (("192.168.77.11", families != "ipv6"), ("fd00:77::11", families != "ipv4")):
        assert (text in flags["kubelet"]) is wanted
    assert f"--service-cluster-ip-range {config.service_cidr} " in flags["apiserver"]
    assert f"--cluster-cidr {config.pod_cidr}" in flags["proxy"]
    host = "[fd00:77::11]" if families == "ipv6" else "192.168.77.11"
    assert f"--listen-client-urls https://{host}:2379 " in flags["etcd"]
    assert config.api_url == f"https://{host}:6443"


def test_leases_as_annotations() -> None:
    config = LabConfig(flannel_store="kube")
    check(config, [])
    found = {agent.name: agent for agent in agents.agents(config, config.every_node[0], PROGRAMS)}
    assert "network" not in found
    assert "-kube-subnet-mgr" in found["flanneld"].argv
    assert not any("etcd" in word for word in found["flanneld"].argv)
    assert found["flanneld"].env["NODE_NAME"] == "node-1"
    assert config.pod_cidr in found["controllers"].argv


def test_more_nodes_than_subnets_are_refused() -> None:
    check(LabConfig(nodes=3, pod_cidr="10.244.0.0/22"), [])
    with pytest.raises(UserError, match="room for 3 nodes"):
        check(LabConfig(nodes=4, pod_cidr="10.244.0.0/22"), [])


def test_a_backend_of_one_family_is_refused_in_others() -> None:
    check(LabConfig(backend="udp"), [])
    with pytest.raises(UserError, match="--backend"):
        check(LabConfig(backend="udp", families="dual"), [])


def test_the_network_configuration_of_flannel_by_family() -> None:
    four, six, dual = (agents.flannel_config(LabConfig(families=families)) for families in ("ipv4", "ipv6", "dual"))
    assert (four["Network"], "IPv6Network" in four, "EnableIPv6" in four) == ("10.244.0.0/16", False, False)
    assert (six["IPv6Network"], six["EnableIPv4"], six["EnableIPv6"]) == ("fd00:10:244::/56", False, True)
    assert (dual["Network"], dual["IPv6Network"], dual["EnableIPv4"]) == ("10.244.0.0/16", "fd00:10:244::/56", True)


@pytest.mark.parametrize(("option", "value", "families"), [
    ("pod_cidr", "10.244.0.0/16", "dual"), ("pod_cidr", "10.244.0.0/16,10.245.0.0/16", "dual"),
    ("service_cidr", "fd00::/112", "ipv4"), ("service_cidr", "fd00::/64", "ipv6"),
    ("pod_cidr", "fd00:1::/64", "ipv6"), ("pod_cidr", "fd00:77::/48", "ipv6"),
])
def test_a_network_of_the_wrong_family_or_size_is_named(option: str, value: str, families: str) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}"):
        check(LabConfig(**{"families": families, option: value}), [])


def test_hierarchies_of_control_groups_v1_v2_and_hybrid() -> None:
    v2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    v1 = ("31 25 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"
          "32 25 0:28 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,xattr,name=systemd\n")
    other = "33 25 0:29 / /proc rw shared:6 - proc proc rw\n"
    assert cgroup.hierarchies(v2 + other) == [(Path("/sys/fs/cgroup"), True)]
    assert cgroup.hierarchies(v1) == [(Path("/sys/fs/cgroup/memory"), False), (Path("/sys/fs/cgroup/systemd"), True)]


def test_containerd_configuration_is_toml() -> None:
    import tomllib

    document = tomllib.loads(containerd.config_toml(runc="/usr/sbin/runc", apparmor=False, snapshotter="overlayfs"))
    cri = document["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == containerd.PAUSE
    assert cri["disable_apparmor"] is True
    assert json.loads(containerd.conflist())["plugins"][0]["type"] == "flannel"


def test_a_kubeconfig_is_read_back_by_the_agents() -> None:
    document = json.loads(kubeconfig("https://127.0.0.1:6443", b"CA", b"CERT", b"KEY", "admin", "lab"))
    config = parse(document, base=Path("/"), name="test")
    assert (config.server, config.ca, config.certificate, config.key) == ("https://127.0.0.1:6443", b"CA", b"CERT", b"KEY")


def test_images_share_their_layers_and_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        images.write_images(tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        layers = set()
        for manifest in index["manifests"]:
            document = json.load(tar.extractfile("blobs/" + manifest["digest"].replace(":", "/")))  # type: ignore[arg-type]
            layers |= {layer["digest"] for layer in document["layers"]}
            config = json.load(tar.extractfile("blobs/" + document["config"]["digest"].replace(":", "/")))  # type: ignore[arg-type]
            assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in document["layers"]]
        assert len(index["manifests"]) == 4
        assert len(layers) == 2


def test_a_frame_made_by_scapy_is_read_and_drawn() -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    inner = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:03") / IP(src="10.244.1.2", dst="10.244.2.3", ttl=63)
    inner /= TCP(sport=40000, dport=8080, flags="PA") / b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    outer = Ether(src="02:77:00:00:01:01", dst="02:77:00:00:01:02") / IP(src="192.168.77.11", dst="192.168.77.12")
    packet = frames.read(bytes(outer / UDP(sport=51000, dport=8472) / VXLAN(vni=1) / inner))
    assert packet
    assert packet.tunnelled
    assert packet.vni == 1
    assert (str(packet.outer_ip.source), str(packet.inner_ip.target)) == ("192.168.77.11", "10.244.2.3")
    assert packet.tcp == frames.Ports(40000, 8080, ("PSH", "ACK"))
    drawing = frames.draw(packet, {"192.168.77.11": "node-1"})
    assert "192.168.77.11 (node-1)" in drawing
    assert "GET / HTTP/1.1" in drawing
    assert len({len(line) for line in drawing.splitlines()}) == 1


@pytest.mark.slow
def test_frames_of_other_backends_and_of_ipv6_are_read() -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    tcp = TCP(sport=40000, dport=8080, flags="PA") / b"GET / HTTP/1.1\r\n"
    pods, pods6 = IP(src="10.244.1.2", dst="10.244.2.3") / tcp, IPv6(src="fd00::1:2", dst="fd00::2:3") / tcp
    nodes, nodes6 = IP(src="192.168.77.11", dst="192.168.77.12"), IPv6(src="fd00:77::11", dst="fd00:77::12")
    for frame, tunnelled, inside in (
        (Ether() / pods, False, "10.244.2.3"), (Ether() / pods6, False, "fd00::2:3"),
        (Ether() / nodes / UDP(dport=8285) / pods, True, "10.244.2.3"), (Ether() / nodes / pods, True, "10.244.2.3"),
        (Ether() / nodes6 / UDP(dport=8472) / VXLAN(vni=1) / Ether() / pods6, True, "fd00::2:3"),
    ):
        packet = frames.read(bytes(frame))
        assert packet
        assert (packet.tunnelled, str(packet.inner_ip.target), packet.payload) == (tunnelled, inside, b"GET / HTTP/1.1\r\n")
        assert "HTTP/1.1" in frames.draw(packet, {})


@pytest.mark.parametrize("frame", [b"", b"\0" * 13, b"\0" * 60, b"\xff" * 200])
def test_other_frames_are_not_read(frame: bytes) -> None:
    assert frames.read(frame) is None
