"""The conformance table's switches from one mode to another, each to each: nothing is cut, and nothing of the old is left.

Its Service is dual-stack, and so are the connections. What traffic sees during the switch: `test_iptables_agent.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterable, Iterator

import pytest
import sctp
from asking import NODE_PORT, PATIENCE, VIP, WAYS, await_state, lines
from conformance_rows import B, C, dual
from conftest import VARIANTS, Agent
from proxy_api import Api
from proxy_net import FAMILIES, FAR_POD, World, eventually, kind_of, of

from nodecore.kernel.ipvs import Ipvs
from nodecore.kernel.virtualserver import Destination
from nodecore.net import Family
from tests.kernelmodules import need_ipvs

pytestmark = pytest.mark.kernel
FLAGS = ("--cluster-cidr", "10.244.0.0/16,fd00::10:244:0:0/96")
MODES = ("nftables", *VARIANTS, "ipvs")
TWO = {"pod-b", "pod-c"}


def servers(net: World) -> list[Destination]:
    with contextlib.closing(Ipvs(net.spaces["node"].path)) as kernel:
        found: list[Destination] = kernel.destinations([server.key for server in kernel.servers()])
    return found


def left(net: World, mode: str) -> bool:
    """Whether there is something of a mode."""
    node = net.spaces["node"]
    if mode in VARIANTS:
        return any("KPY-" in node.run([f"{program}{mode.removeprefix('iptables')}-save"]).stdout
                   for program in ("iptables", "ip6tables"))
    if mode == "ipvs":
        return bool(servers(net)) or "kube-ipvs0" in node.run(["ip", "-br", "link"]).stdout
    return "map cluster-endpoints" in node.run(["nft", "-t", "list", "maps"]).stdout


def switch(agent: Agent, mode: str) -> None:
    agent.kill()
    for variant in VARIANTS:
        agent.net.spaces["node"].run([variant, "-w", "-t", "mangle", "-X", "KUBE-IPTABLES-HINT"], check=False)
    agent.mode = mode
    agent.start()


@contextlib.contextmanager
def flows(net: World, family: Family) -> Iterator[list[socket.socket]]:
    """Of one socket each: UDP each way, and SCTP where the kernel has it."""
    made = []
    try:
        for caller, address, port in WAYS:
            with net.spaces[caller].enter():
                made.append(socket.socket(kind_of(of(family, address)), socket.SOCK_DGRAM))
            made[-1].settimeout(1)
            made[-1].connect((of(family, address), port))
        if sctp.in_kernel():
            made += [net.connect(caller, of(family, address), port, 60, "sctp") for caller, address, port in WAYS]
        yield made
    finally:
        for sock in made:
            sock.close()


def is_answered(flow: socket.socket) -> bool:
    flow.send(b"?")
    try:
        return bool(flow.recv(100))
    except (TimeoutError, ConnectionRefusedError):
        return False


def go_on(flows: Iterable[socket.socket]) -> None:
    for flow in flows:
        eventually(lambda flow=flow: is_answered(flow), PATIENCE, str(flow))


@pytest.mark.parametrize(("feature", "before", "mode"), [
    pytest.param(f"transition: the mode was {before}, dual-stack", before, after,
                 marks=[] if (before, after) == ("nftables", "iptables-nft") else pytest.mark.slow, id=f"{before} to {after}")
    for before, after in itertools.permutations(MODES, 2)])
def test_switched(net: World, api: Api, agent: Agent, feature: str, before: str, mode: str) -> None:
    """Connections of both families are there before and go on; who answers is the same, and nothing is left of the old mode."""
    if "ipvs" in (before, mode):
        need_ipvs()
    agent.flags, agent.mode = FLAGS, before
    api.put(*dual("dual", VIP, B, C, node_port=NODE_PORT))
    agent.start()
    for family in FAMILIES:
        await_state(net, family, TWO, TWO)
    with lines(net, Family.IPV4), lines(net, Family.IPV6), flows(net, Family.IPV4) as old, flows(net, Family.IPV6) as six:
        go_on(old + six)
        switch(agent, mode)
        go_on(old + six)
        for family in FAMILIES:
            await_state(net, family, TWO, TWO)
        if before != "ipvs":  # whose connections end where they began
            assert not left(net, before)
        else:
            assert {item.weight for item in servers(net)} <= {0}
        api.put(*dual("dual", VIP, C, FAR_POD, node_port=NODE_PORT))
        for family in FAMILIES:
            await_state(net, family, {"pod-c", "far"}, {"pod-c", "far"})
    if (before, mode) == ("ipvs", "nftables"):
        eventually(lambda: not left(net, before), within=200, what="virtual servers go with their connections")
