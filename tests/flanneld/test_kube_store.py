"""Leases in Kubernetes: real daemons in network namespaces against our own API server, and the original where it is built."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcdserver import make_pki
from plane import TOKEN, Agent
from site_of_nodes import ETCD_IP, Node, Site, ping_once, pinging, until

from nodecore.kernel.netns import Netns
from tests.original import original

PREFIX = "flannel.alpha.coreos.com"
CONF = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
PORT = 6443
pytestmark = [pytest.mark.etcd, pytest.mark.kernel, pytest.mark.slow]


class KubeNode(Node):
    """A node whose flanneld keeps its lease in the API."""

    def __init__(self, number: int, ns: Netns, directory: Path) -> None:
        super().__init__(number, ns, directory)
        self.name = f"node-{number}"
        self.conf = self.directory / "net-conf.json"
        self.conf.write_text(json.dumps(CONF))
        self.variables = [f"NODE_NAME={self.name}"]
        self.etcd = False

    def start_with_etcd(self, *flags: str) -> None:
        self.etcd = True
        self.start(*flags)

    def arguments(self, *flags: str, etcd: str = "") -> list[str]:
        if self.etcd:
            return super().arguments(*flags)
        where = ["-kube-subnet-mgr", f"-kubeconfig-file={self.directory.parent / 'kubeconfig'}", f"-net-config-path={self.conf}"]
        return ["env", *self.variables, sys.executable, "-m", "flanneld_py", *where, "-iface=eth0",
                f"-subnet-file={self.subnet_file}", *flags]


class KubeSite(Site):
    """A site with an API server on its switch."""

    kind = KubeNode

    def __init__(self, directory: Path, program: Path | None = None) -> None:
        super().__init__(directory)
        self.program = program
        self.etcd.start()
        pki = make_pki(directory, ETCD_IP)
        (directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"https://{ETCD_IP}:{PORT}", "certificate-authority": pki.ca}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))
        self.flags = [
            "--etcd-servers", "http://127.0.0.1:2379", "--bind-address", ETCD_IP, "--advertise-address", ETCD_IP,
            "--secure-port", str(PORT), "--tls-cert-file", pki.cert, "--tls-private-key-file", pki.key,
            "--client-ca-file", pki.ca, "--token-auth-file", str(directory / "tokens.csv"),
            "--service-cluster-ip-range", "10.96.0.0/16"]
        self.flags += ["--cache-dir", str(directory / "cache")] if program is None else [
            "--authorization-mode", "Node,RBAC", "--disable-admission-plugins", "ServiceAccount",
            "--feature-gates", "IPv6DualStack=true", "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", pki.cert, "--service-account-signing-key-file", pki.key]
        self.apiserver()

    def apiserver(self) -> None:
        """Start it (again)."""
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(path))
        log = self.directory / "apiserver.log"
        argv = [str(self.program)] if self.program else [sys.executable, "-m", "minik8s", "apiserver"]
        process = self.switch.popen([*argv, *self.flags], stdout=log.open("ab"), stderr=subprocess.STDOUT,
                                    env=os.environ | {"NOTIFY_SOCKET": str(path)})
        self.api = Agent("apiserver", process, log, notify)
        self.api.ready(60)

    def kubectl(self, *argv: str, body: Any = None) -> str:
        return self.switch.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.directory / "kubectl"), *argv],
            input=json.dumps(body) if body is not None else None).stdout

    def object(self, name: str) -> dict[str, Any]:
        return json.loads(self.kubectl("get", "node", name, "-o", "json"))

    def told(self, name: str) -> dict[str, str]:
        return self.object(name)["metadata"].get("annotations", {})

    def condition(self, name: str) -> dict[str, str]:
        found = self.object(name).get("status", {}).get("conditions", [])
        return next((condition for condition in found if condition["type"] == "NetworkUnavailable"), {})

    def register(self, name: str, *cidrs: str, **annotations: str) -> None:
        """Make a Node, as the kubelet and the controller manager would."""
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        named = {f"{PREFIX}/{key.replace('_', '-')}": text for key, text in annotations.items()}
        self.kubectl("create", "-f", "-", body={
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": named}, "spec": spec})

    def clear(self) -> None:
        """Away with all nodes."""
        for node in self.nodes:
            if node.daemon:
                node.stop()
            self.switch.run(["ip", "link", "del", f"veth{node.number}"])
            node.ns.close()
            if node.pod:
                node.pod.close()
            shutil.rmtree(node.directory)
        self.kubectl("delete", "node", "--all", "--wait=false")
        self.nodes.clear()

    def close(self) -> None:
        self.api.stop()
        super().close()


def running(directory: Path, program: Path | None = None) -> Iterator[KubeSite]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = KubeSite(directory, program)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module", params=["minik8s", "kube-apiserver"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeSite]:
    program = None if request.param == "minik8s" else original(request.param)
    if program and not program.exists():
        pytest.skip("Go kube-apiserver is not built: python -m tests.original kube-apiserver")
    yield from running(tmp_path_factory.mktemp("kube"), program)


@pytest.fixture
def kube(shared: KubeSite) -> Iterator[KubeSite]:
    """The shared API server, without the nodes of the test before."""
    yield shared
    shared.clear()


def test_two_nodes_find_each_other_through_their_annotations(kube: KubeSite) -> None:
    one, two = kube.add_node(), kube.add_node()
    for number, node in enumerate((one, two), 1):
        kube.register(node.name, f"10.5.{number}.0/24")
        node.start("-ip-masq")
    assert one.subnet_file.read_text() == (
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
    kube.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other")
    told = kube.told(one.name)
    assert told == {
        f"{PREFIX}/kube-subnet-manager": "true", f"{PREFIX}/backend-type": "vxlan", f"{PREFIX}/public-ip": one.ip,
        f"{PREFIX}/backend-data": f'{{"VNI":1,"VtepMAC":"{one.mac()}"}}',
    }
    until(lambda: kube.condition(one.name), "the condition is set")
    condition = kube.condition(one.name)
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False", "FlannelIsUp", "Flannel is running on this node")


def rss(node: Node) -> float:
    """In millions of bytes."""
    assert node.daemon
    pages = int(Path(f"/proc/{node.daemon.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def libraries(node: Node) -> set[str]:
    """Of the two HTTP libraries, those that are loaded."""
    assert node.daemon
    maps = Path(f"/proc/{node.daemon.pid}/maps").read_text()
    return {name for name in ("google", "aiohttp") if f"/{name}/" in maps}


def test_each_kind_of_store_loads_its_own_library_only(kube: KubeSite) -> None:
    one, two = kube.add_node(), kube.add_node()
    kube.register(one.name, "10.5.1.0/24")
    one.start("-healthz-port=8471")
    kube.configure()
    two.start_with_etcd("-healthz-port=8471")
    assert (libraries(one), libraries(two)) == ({"aiohttp"}, {"google"})
    for node in (one, two):
        until(lambda: rss(node) <= 55, f"{node.name} is small")  # noqa: B023
        print(f"{node.name}: {rss(node):.1f} MB")


def joined(kube: KubeSite, number: int, *flags: str, **annotations: str) -> KubeNode:
    node = kube.add_node()
    kube.register(node.name, f"10.5.{number}.0/24", **annotations)
    node.start(*flags)
    return node


@pytest.mark.slow
def test_what_is_missing_is_waited_for_by_name(kube: KubeSite) -> None:
    node = kube.add_node()
    node.start(wait=False)
    until(lambda: f"there is no node {node.name} yet" in node.log.read_text(), "it says that the Node is missing")
    kube.register(node.name)
    until(lambda: f"node {node.name} has no IPv4 podCIDR yet" in node.log.read_text(), "it says that the podCIDR is missing")
    assert not node.subnet_file.exists()
    kube.kubectl("patch", "node", node.name, "-p", json.dumps({"spec": {"podCIDR": "10.5.9.0/24", "podCIDRs": ["10.5.9.0/24"]}}))
    until(node.subnet_file.exists, "it starts")
    assert node.subnet == "10.5.9"
    assert node.log.read_text().count("has no IPv4 podCIDR yet") == 1, "told once, not at every try"


@pytest.mark.slow
@pytest.mark.parametrize(("cidr", "annotations", "words"), [
    ("10.6.1.0/24", {}, "podCIDR 10.6.1.0/24 of node NODE is not inside 10.5.0.0/16"),
    ("10.5.1.0/24", {"public_ip_overwrite": "here"}, f"annotation {PREFIX}/public-ip-overwrite: 'here' is not an IPv4 address"),
    ("10.5.1.0/24", {"node_public_ip": "::1"}, f"annotation {PREFIX}/node-public-ip: '::1' is not an IPv4 address"),
])
def test_what_cannot_be_ends_it_with_one_line(kube: KubeSite, cidr: str, annotations: dict[str, str], words: str) -> None:
    node = kube.add_node()
    kube.register(node.name, cidr, **annotations)
    done = node.ns.run(node.arguments(), check=False, timeout=120)
    assert (done.returncode, words.replace("NODE", node.name) in done.stderr.splitlines()[-1]) == (2, True), done.stderr
    assert "flannel" not in node.ns.run(["ip", "link"]).stdout
    assert f"{PREFIX}/public-ip" not in kube.told(node.name)


def test_what_go_flanneld_wrote_is_taken_over_unchanged(kube: KubeSite) -> None:
    """The MAC is the annotation's, though the device is gone; not one annotation changes, in our Node or in the peer's."""
    mac = "3a:9a:ba:bd:3d:7c"
    node = kube.add_node()
    written = {"kube_subnet_manager": "true", "backend_type": "vxlan", "public_ip": node.ip,
               "backend_data": f'{{"VNI":1,"VtepMAC":"{mac}"}}'}
    peer = written | {"public_ip": "192.168.77.99", "backend_data": '{"VNI":1,"VtepMAC":"0e:00:00:00:00:08"}'}
    kube.register(node.name, "10.5.75.0/24", **written)
    kube.register("go-peer", "10.5.8.0/24", **peer)
    kube.register("odd-peer", "10.5.7.0/24", **(peer | {"backend_data": "{"}))
    kube.register("no-peer", "10.5.6.0/24", public_ip="192.168.77.97")
    before = kube.told(node.name)
    node.start()
    assert (node.mac(), node.subnet) == (mac, "10.5.75")
    assert kube.told(node.name) == before
    until(lambda: "10.5.8.0/24 via 10.5.8.0" in node.ns.run(["ip", "route"]).stdout, "the peer's route")
    until(lambda: "0e:00:00:00:00:08 dst 192.168.77.99" in node.ns.run(["bridge", "fdb", "show", "dev", "flannel.1"]).stdout,
          "and its device")
    assert len(node.ns.run(["ip", "route", "show", "dev", "flannel.1"]).stdout.splitlines()) == 1
    assert "node odd-peer is no peer: annotation flannel.alpha.coreos.com/backend-data: not JSON" in node.log.read_text()


@pytest.mark.slow
def test_an_administrators_word_on_addresses(kube: KubeSite) -> None:
    one = joined(kube, 1, public_ip_overwrite="198.51.100.1")
    two = joined(kube, 2, "-public-ip=198.51.100.3", node_public_ip="198.51.100.2")
    assert kube.told(one.name)[f"{PREFIX}/public-ip"] == "198.51.100.1"
    assert kube.told(two.name)[f"{PREFIX}/public-ip"] == "198.51.100.2"
    until(lambda: "dst 198.51.100.2" in one.ns.run(["bridge", "fdb", "show", "dev", "flannel.1"]).stdout, "peers use it")


@pytest.mark.slow
def test_a_lost_lease_is_written_again_under_traffic(kube: KubeSite) -> None:
    """Annotations taken away, then the whole Node: the network stays, and all is told."""
    one, two = joined(kube, 1), joined(kube, 2)
    kube.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    until(lambda: kube.condition(one.name), "the condition is set")
    state = one.state()
    names = [name + "-" for name in kube.told(one.name)]
    kube.kubectl("annotate", "node", one.name, *names)
    until(lambda: f"{PREFIX}/backend-data" in kube.told(one.name), "the annotations are back", every=0.05)
    assert "our lease 10.5.1.0-24 is gone: revoked" in one.log.read_text()
    until(lambda: "lost and taken back" in kube.condition(one.name)["message"], "the condition tells", every=0.05)
    assert one.state() == state
    kube.kubectl("delete", "node", one.name)
    until(lambda: f"there is no node {one.name} yet" in one.log.read_text(), "it waits for its Node")
    assert one.state() == state
    kube.register(one.name, "10.5.7.0/24")
    until(lambda: one.subnet == "10.5.7", "the Node's new subnet is taken up")
    until(lambda: kube.condition(one.name).get("status") == "False", "and told", every=0.05)
    until(lambda: "10.5.7.0/24" in two.ns.run(["ip", "route"]).stdout, "to everybody")


@pytest.mark.slow
def test_no_lease_is_told_as_network_unavailable(kube: KubeSite) -> None:
    one = joined(kube, 1)
    until(lambda: kube.condition(one.name), "the condition is set")
    kube.kubectl("delete", "node", one.name)
    kube.register(one.name, "10.6.7.0/24")
    until(lambda: "10.6.7.0/24" in kube.condition(one.name).get("message", ""), "the condition tells why", every=0.05)
    condition = kube.condition(one.name)
    assert (condition["status"], condition["reason"]) == ("True", "FlannelLeaseLost")
    assert one.daemon
    assert one.daemon.poll() is None
    assert "flannel.1" in one.ns.run(["ip", "link"]).stdout


@pytest.mark.slow
def test_the_api_server_may_come_and_go(kube: KubeSite) -> None:
    """A restart without a drop, and peers that come and go meanwhile are there and gone afterwards."""
    one, two = joined(kube, 1), joined(kube, 2, "-set-node-network-unavailable=false")
    kube.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    with pinging(one.pod, two.pod_ip) as ping:
        kube.api.kill9()
        kube.apiserver()
    assert ping.lost == 0, f"{ping.lost} of {ping.sent}"
    three = joined(kube, 3)
    until(lambda: "10.5.3.0/24" in one.ns.run(["ip", "route"]).stdout, "the newcomer is heard of")
    kube.kubectl("delete", "node", three.name)
    until(lambda: "10.5.3.0/24" not in one.ns.run(["ip", "route"]).stdout, "the leaver too")
    assert kube.condition(two.name) == {}


@pytest.mark.slow
def test_several_networks_by_prefix(kube: KubeSite) -> None:
    conf = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7}}
    one, two = joined(kube, 1), kube.add_node()
    two.conf.write_text(json.dumps(conf))
    kube.register(two.name, "10.5.2.0/24")
    two.start("-kube-annotation-prefix=example.com/net2")
    assert set(kube.told(two.name)) == {f"example.com/net2-{name}" for name in (
        "kube-subnet-manager", "backend-type", "backend-data", "public-ip")}
    assert "flannel.7" in two.ns.run(["ip", "link"]).stdout
    assert one.ns.run(["ip", "route", "show", "dev", "flannel.1"]).stdout == ""


@pytest.mark.slow
def test_the_nodes_name_from_our_pod(kube: KubeSite) -> None:
    node = kube.add_node()
    kube.register(node.name, "10.5.1.0/24")
    kube.kubectl("create", "-f", "-", body={
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "flanneld", "namespace": "default"},
        "spec": {"nodeName": node.name, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 0}})
    node.variables = ["POD_NAME=flanneld", "POD_NAMESPACE=default"]
    node.start()
    assert kube.told(node.name)[f"{PREFIX}/public-ip"] == node.ip


@pytest.mark.slow
def test_two_families(kube: KubeSite) -> None:
    """And the dry run before: it tells, and writes nothing."""
    node = kube.add_node()
    node.ns.run(["ip", "addr", "add", f"2001:db8::{node.number}/64", "dev", "eth0", "nodad"])
    node.conf.write_text(json.dumps(CONF | {"EnableIPv6": True, "IPv6Network": "fd00:5::/48"}))
    kube.register(node.name, "10.5.1.0/24", "fd00:5:0:1::/64")
    dry = node.ns.run(node.arguments("--dry-run"), timeout=120)
    assert dry.stdout.startswith("lease 10.5.1.0/24 and fd00:5:0:1::/64 of 192.168.77.1 and 2001:db8::1\n")
    assert "Traceback" not in dry.stderr
    assert "destroyed" not in dry.stderr
    assert kube.told(node.name) == {}
    node.start()
    six = json.loads(kube.told(node.name)[f"{PREFIX}/backend-v6-data"])
    assert (six["VNI"], kube.told(node.name)[f"{PREFIX}/public-ipv6"]) == (1, "2001:db8::1")
    assert six["VtepMAC"] in node.ns.run(["ip", "link", "show", "flannel-v6.1"]).stdout
    assert "FLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64" in node.subnet_file.read_text()
