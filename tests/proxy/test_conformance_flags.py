"""The conformance table's rows that take flags of their own: a proxy for each set of them, in each mode.

What follows from the defaults (NodePorts at every address, pods told by the cluster's CIDR) is in `test_conformance.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from asking import ask_until_all
from conformance_rows import BY_NODE, PROTOCOLS, REFUSED, A, B, Row, made
from conftest import VARIANTS, Agent, clear_rules, configure
from proxy_api import Api
from proxy_net import FAMILIES, FAR_POD, GATEWAY, NODE, World, eventually, in_family, of

from nodecore.net import Family
from tests.kernelmodules import need_ipvs

pytestmark = pytest.mark.kernel
ELSEWHERE = ("--cluster-cidr", "10.200.0.0/16,fd00::10:200:0:0/96")  # so that it is not this which tells a pod
NO_NETWORKS = ("--cluster-cidr", "")  # which serves both families all the same
PODS_HERE = ("--cluster-cidr", "10.244.0.0/16,fd00::10:244:0:0/96")
VIP, ANOTHER, NODE_PORT = "10.96.0.10", "10.96.0.11", 30070
SYSCTLS = {"nf_conntrack_tcp_timeout_established": "7200", "nf_conntrack_tcp_timeout_close_wait": "120",
           "nf_conntrack_udp_timeout": "40", "nf_conntrack_udp_timeout_stream": "200", "nf_conntrack_tcp_be_liberal": "1"}


@dataclass(frozen=True)
class Setting:
    """Flags, what our Node says, the questions; and the kernel's switches, below net.netfilter."""

    feature: str
    flags: tuple[str, ...]
    asks: tuple[tuple[str, str, int, dict[str, str]], ...]
    node: dict[str, Any] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)


A_POD = ("pod-a", VIP, 80, {"pod-b": A})  # known to be one
A_STRANGER = ("pod-a", VIP, 80, {"pod-b": GATEWAY})
FROM_OUTSIDE = ("outside", VIP, 80, {"pod-b": GATEWAY})
FROM_FAR = ("far", VIP, 80, {"pod-b": GATEWAY})
ON_NODE = ("outside", NODE, NODE_PORT, {"pod-b": GATEWAY})
NOT_ON_BRIDGE = ("node", GATEWAY, NODE_PORT, REFUSED)
ADDRESSES = [{"type": "InternalIP", "address": NODE}, {"type": "InternalIP", "address": of(Family.IPV6, NODE)},
             {"type": "Hostname", "address": "node-1"}]
POD_CIDRS = ["10.244.1.0/24", of(Family.IPV6, "10.244.1.0/24")]
SETTINGS = (
    Setting("nodePortAddresses: networks", (*PODS_HERE, "--nodeport-addresses", "192.168.50.0/24,fd00::192:168:50:0/112"),
            (ON_NODE, NOT_ON_BRIDGE)),
    Setting("nodePortAddresses: primary", (*PODS_HERE, "--nodeport-addresses", "primary"), (ON_NODE, NOT_ON_BRIDGE),
            {"status": {"addresses": ADDRESSES}}),
    Setting("nodePortAddresses: all", (*PODS_HERE, "--nodeport-addresses", "all"),
            (ON_NODE, ("node", GATEWAY, NODE_PORT, {"pod-b": GATEWAY}))),
    Setting("masqueradeAll", (*PODS_HERE, "--masquerade-all"),
            (A_STRANGER, FROM_OUTSIDE, ("pod-a", ANOTHER, 80, BY_NODE))),
    Setting("clusterCIDR: pods are elsewhere", ELSEWHERE, (A_STRANGER, FROM_OUTSIDE)),
    Setting("detectLocalMode ClusterCIDR", (*PODS_HERE, "--detect-local-mode", "ClusterCIDR"), (A_POD, FROM_OUTSIDE, FROM_FAR)),
    Setting("detectLocalMode NodeCIDR", (*NO_NETWORKS, "--detect-local-mode", "NodeCIDR"), (A_POD, FROM_OUTSIDE, FROM_FAR),
            {"spec": {"podCIDR": POD_CIDRS[0], "podCIDRs": POD_CIDRS}}),
    Setting("detectLocalMode BridgeInterface",
            (*NO_NETWORKS, "--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"),
            (A_POD, FROM_OUTSIDE, FROM_FAR)),
    Setting("detectLocalMode InterfaceNamePrefix",
            (*ELSEWHERE, "--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "cn"),
            (A_POD, FROM_OUTSIDE, FROM_FAR)),
    Setting("masqueradeBit", (*PODS_HERE, "--iptables-masquerade-bit", "20"), (A_POD, FROM_OUTSIDE, ON_NODE)),
    Setting("conntrack limits and timeouts",
            (*PODS_HERE, "--conntrack-tcp-timeout-established", "2h", "--conntrack-tcp-timeout-close-wait", "2m",
             "--conntrack-udp-timeout", "40s", "--conntrack-udp-timeout-stream", "200s"), (A_POD,), sysctls=SYSCTLS),
)
QUICK = ("nodePortAddresses: networks", "masqueradeAll", "detectLocalMode NodeCIDR")
CONFIGURED = [
    pytest.param((mode, setting), setting.feature, mode, id=f"{mode}-{setting.feature}",
                 marks=[] if mode == "nftables" and setting.feature in QUICK else pytest.mark.slow)
    for mode, setting in itertools.product(("nftables", *VARIANTS, "ipvs"), SETTINGS)]


@pytest.fixture(scope="module")
def configured(
    net: World, served: tuple[Api, int], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest,
) -> Iterator[Setting]:
    mode, setting = request.param
    if mode == "ipvs":
        need_ipvs()
    served[0].put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, **setting.node})
    for family in FAMILIES:
        served[0].put(*(in_family(family, item) for item in (
            *made("near", VIP, B, node_port=NODE_PORT), *made("another", ANOTHER, B, FAR_POD))))
    directory = tmp_path_factory.mktemp("proxy")
    configure(directory, served[1])
    agent = Agent(net, directory, *setting.flags, mode=mode)
    try:
        agent.start()
        for family in FAMILIES:
            vip = of(family, VIP)
            eventually(lambda at=vip: net.ask("pod-a", at, 80, timeout=0.3)[0] == "pod-b", within=30)
        yield setting
    finally:
        agent.close()
        clear_rules(net)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("configured", "feature", "mode"), CONFIGURED, indirect=["configured"], scope="module")
def test_follows_its_flags(net: World, configured: Setting, family: Family, protocol: str, feature: str, mode: str) -> None:
    for ask in configured.asks:
        ask_until_all(net, Row(feature, *ask), family, protocol)
    node = net.spaces["node"]
    found = {name: node.run(["sysctl", "-n", f"net.netfilter.{name}"]).stdout.strip() for name in configured.sysctls}
    assert found == configured.sysctls
