"""Go kube-proxy and ours on one node, live: whoever starts takes over, and nobody's connection notices.

The real one (1.20, skipped until `tests/original.py` has built it) asks the same real API server as ours, each in its way:
protobuf and Endpoints there, JSON and EndpointSlices here. It knows no nftables mode: of that there is a table as it writes it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import VARIANTS, Agent, clear_rules, listen
from proxy_api import Api
from proxy_net import NODE, PODS, World, endpoints, eventually, service
from test_iptables_agent import saved, traffic

from netscope.directory import Directory, Place
from netscope.drawing import draw
from netscope.flow import TCP, End
from netscope.trace import Request, run
from nodecore.net import Family
from tests.cuttable import forwarder
from tests.original import KUBE_PROXY
from tests.plane import TOKEN, Plane

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow]
A, B, C = PODS.values()
VIP = "10.96.1.1"
PORTS = (("t", "TCP", 8080),)
TABLE = f"""table ip kube-proxy {{
set cluster-ips {{ type ipv4_addr; comment "Active ClusterIPs"; elements = {{ {VIP} }}; }}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {VIP} . tcp . 80 : goto service-a }}; }}
map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
chain endpoint-1 {{ ip saddr {B} jump mark-for-masquerade; meta l4proto tcp dnat to {B}:8080; }}
chain endpoint-2 {{ ip saddr {C} jump mark-for-masquerade; meta l4proto tcp dnat to {C}:8080; }}
chain service-a {{ numgen random mod 2 vmap {{ 0 : goto endpoint-1, 1 : goto endpoint-2 }}; }}
chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade fully-random; }}
chain cluster-ips-check {{ ip daddr @cluster-ips reject comment "invalid port"; }}
chain filter-forward {{ type filter hook forward priority -110; ct state new jump cluster-ips-check; }}
}}
"""


@pytest.fixture(scope="module")
def plane(net: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An API server with one Service; the port on the node's loopback where it is reached."""
    with Plane.start(tmp_path_factory.mktemp("plane")) as plane:
        web = service("web", VIP, ("t", "TCP", 80, 30090), type="NodePort")
        legacy = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [
            {"addresses": [{"ip": address, "nodeName": "node-1"} for address in (B, C)],
             "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}]}]}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
                "status": {"addresses": [{"type": "InternalIP", "address": NODE}]}}
        for made in (node, web, legacy, endpoints("web", B, C, ports=PORTS)):
            plane.kubectl("create", "-f", "-", body=made)
        sock, running, ended = listen(net), threading.Event(), asyncio.Event()

        async def forward() -> None:
            async with forwarder(plane.port, listen=sock):
                running.set()
                await ended.wait()

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(forward(),))
        thread.start()
        running.wait(10)
        try:
            yield plane.config(TOKEN, sock.getsockname()[1])
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()
            loop.close()


class Original:
    """Go kube-proxy on the node."""

    def __init__(self, net: World, directory: Path) -> None:
        self.net, self.directory, self.log = net, directory, directory / "go.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, variant: str = "") -> None:
        """With the host's iptables, or those of a variant."""
        programs = self.directory / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"):
            if variant:
                (programs / name).symlink_to(f"/usr/sbin/xtables-{variant}-multi")
        with self.log.open("ab") as log:
            self.process = self.net.spaces["node"].popen(
                [str(KUBE_PROXY), "--kubeconfig", str(self.directory / "kubeconfig"), "--proxy-mode", "iptables", "--v", "2",
                 "--hostname-override", "node-1", "--cluster-cidr", "10.244.0.0/16", "--conntrack-max-per-core", "0",
                 "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
                 "--feature-gates", "EndpointSliceProxying=false"], stdout=log, stderr=log,
                env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"})
        eventually(lambda: VIP in theirs(self.net), within=60, what="Go kube-proxy's rules")

    def end(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


def theirs(net: World) -> str:
    """Go kube-proxy's rules, in the variant that the host's iptables are."""
    return "\n".join(line for variant in VARIANTS for line in saved(net, variant).splitlines() if "KUBE-" in line)


@pytest.fixture
def both(net: World, plane: dict, tmp_path: Path) -> Iterator[tuple[Original, Agent]]:
    (tmp_path / "kubeconfig").write_text(json.dumps(plane))
    original, ours = Original(net, tmp_path), Agent(net, tmp_path)
    try:
        yield original, ours
    finally:
        original.end()
        ours.close()
        print(*(log.read_text()[-5000:] for log in (original.log, ours.log) if log.exists()), sep="\n")
        clear_rules(net)


@pytest.mark.parametrize("mode", ["nftables", *VARIANTS])
def test_its_nftables_are_taken_over_and_given_back(net: World, api: Api, agent: Agent, mode: str) -> None:
    """Its table is not touched by our cleaning up, once it stands again beside ours."""
    node, agent.mode = net.spaces["node"], mode
    node.run(["nft", "-f", "-"], input=TABLE)
    api.put(service("web", VIP, ("t", "TCP", 80, 0)), endpoints("web", B, C, ports=PORTS))
    with traffic(net, VIP, 80) as more:
        agent.start()
        more()
        assert "table ip kube-proxy" not in node.run(["nft", "list", "tables"]).stdout.splitlines()
        agent.kill()
        node.run(["nft", "-f", "-"], input=TABLE)
        more()
        node.run([sys.executable, "-m", "proxy", "--cleanup"])
        more()
    assert "service-a" in node.run(["nft", "list", "table", "ip", "kube-proxy"]).stdout
    assert all("KPY-" not in saved(net, variant) for variant in VARIANTS)
    assert agent.table() == ""


@pytest.mark.skipif(not KUBE_PROXY.exists(), reason="Go kube-proxy is not built: python -m tests.original")
@pytest.mark.parametrize("mode", ["nftables", *VARIANTS])
def test_one_for_the_other_and_back(net: World, both: tuple[Original, Agent], mode: str) -> None:
    original, ours = both
    ours.mode = mode
    original.start()
    assert net.ask("pod-a", VIP, 80)[0] in ("pod-b", "pod-c")
    with traffic(net, VIP, 80) as more:
        original.end()
        more()
        ours.start()
        more()
        assert [line for line in theirs(net).splitlines() if not re.search("HINT|KUBELET", line)] == []
        ours.kill()
        original.start()
        more()
        net.spaces["node"].run([sys.executable, "-m", "proxy", "--cleanup"])
        more()
        assert "KUBE-SVC" in theirs(net)
        assert all("KPY-" not in saved(net, variant) for variant in VARIANTS)
        assert ours.table() == ""
    assert {net.ask("outside", NODE, 30090)[0] for _ in range(40)} == {"pod-b", "pod-c"}  # ten are one of them in 1 of 512


@pytest.mark.skipif(not KUBE_PROXY.exists(), reason="Go kube-proxy is not built: python -m tests.original")
@pytest.mark.parametrize("variant", VARIANTS)
def test_netscope_follows_a_packet_through_its_rules(net: World, both: tuple[Original, Agent], variant: str) -> None:
    """While it runs: the rule that translated the probe is named, and one that keeps it, with what mends that."""
    both[0].start(variant.removeprefix("iptables-"))
    name = str(net.spaces["node"].pid)
    ends = tuple(End(address, 8080) for address in (B, C))
    directory = Directory((Place("node", name, (NODE,), name), *(Place("pod", f"default/{x}", (address,), name)
                                                                 for x, address in zip("abc", PODS.values(), strict=True)),
                           Place("service", "default/web", (VIP,), ports={(TCP, 80): ends})))
    request = Request("pod/a", "svc/web", 80, TCP, Family.IPV4, 3.0)
    via = f"nsenter --net=/proc/{{node}}/ns/net env PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m netscope agent"
    (story,) = run(request, directory, via)
    told = draw(story, directory)
    assert story.verdict.what == "answered", told
    assert all(word in told for word in ("KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", f"conntrack {A}:", VIP)), told
    net.spaces["node"].run([variant, "-w", "-I", "FORWARD", "-p", "tcp", "--dport", "8080", "-j", "DROP"])
    (story,) = run(request, directory, via)
    assert (story.verdict.what, "FORWARD: " in story.verdict.why, "dport 8080" in story.verdict.why) == ("dropped", True, True)
    net.spaces["node"].run(["sh", "-ec", story.verdict.mend])
    (story,) = run(request, directory, via)
    assert story.verdict.what == "answered"
