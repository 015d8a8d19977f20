"""Leases in Kubernetes: real daemons in network namespaces against our own API server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcdserver import make_pki
from plane import TOKEN, Agent
from site_of_nodes import ETCD_IP, Node, Site, ping_once, until

from nodecore.kernel.netns import Netns

PREFIX = "flannel.alpha.coreos.com"
CONF = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
PORT = 6443
pytestmark = [pytest.mark.etcd, pytest.mark.kernel]


class KubeNode(Node):
    """A node whose flanneld keeps its lease in the API."""

    def __init__(self, number: int, ns: Netns, directory: Path) -> None:
        super().__init__(number, ns, directory)
        self.name = f"node-{number}"
        self.conf = self.directory / "net-conf.json"
        self.conf.write_text(json.dumps(CONF))

    def arguments(self, *flags: str, etcd: str = "") -> list[str]:
        where = ["-kube-subnet-mgr", f"-kubeconfig-file={self.directory.parent / 'kubeconfig'}", f"-net-config-path={self.conf}"]
        return ["env", f"NODE_NAME={self.name}", sys.executable, "-m", "flanneld_py", *where, "-iface=eth0",
                f"-subnet-file={self.subnet_file}", *flags]


class KubeSite(Site):
    """A site with an API server on its switch."""

    kind = KubeNode

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
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
            "--service-cluster-ip-range", "10.96.0.0/16", "--cache-dir", str(directory / "cache")]
        self.apiserver()

    def apiserver(self) -> None:
        """Start it (again)."""
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(path))
        log = self.directory / "apiserver.log"
        process = self.switch.popen(
            [sys.executable, "-m", "minik8s", "apiserver", *self.flags], stdout=log.open("ab"), stderr=subprocess.STDOUT,
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

    def close(self) -> None:
        self.api.stop()
        super().close()


def running(directory: Path) -> Iterator[KubeSite]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = KubeSite(directory)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeSite]:
    yield from running(tmp_path_factory.mktemp("kube"))


@pytest.fixture
def kube(shared: KubeSite) -> Iterator[KubeSite]:
    """The shared API server, without the nodes of the test before."""
    yield shared
    for node in shared.nodes:
        if node.daemon:
            node.stop()
        shared.kubectl("delete", "node", "--ignore-not-found", node.name)


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
