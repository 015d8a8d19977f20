"""Real probes through real namespaces: the whole way is told, and where something is broken, what."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import net_by_hand
import pytest
from labs import until
from net_by_hand import Net

from netscope import probe
from netscope.crafted import crc32c
from netscope.drawing import draw
from netscope.records import Start
from netscope.story import Trace
from nodecore.net import Family

pytestmark = pytest.mark.kernel


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def interfaces(net: Net, trace: Trace) -> list[str]:
    names = {net.name(letter): letter for letter in "ab"}
    return [f"{names[hop.node]} {'->' if hop.seen.leaving else '<-'} {hop.seen.interface}" for hop in trace.there if hop.seen]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp"])
@pytest.mark.parametrize("family", Family)
def test_the_whole_way_is_told(family: Family, protocol: str) -> None:
    with ExitStack() as stack:
        net = net_by_hand.make(stack, family)
        stack.enter_context(answering(net.servers[1]))
        if protocol == "sctp":
            stack.enter_context(associating(net))
        trace, plan = net.trace(protocol), net.plan
        assert trace.verdict.what == "answered"
        assert interfaces(net, trace) == ["a <- pod", "a -> flannel.1", "a -> eth0", "b <- eth0", "b <- flannel.1", "b -> pod"]
        first, tunnel, outside, *_ = trace.there
        rule = f"{family.nft} daddr {plan.service} {protocol} dport 80 dnat to {plan.end(plan.pod(2), 8080)}"
        assert [hit.rule for hit in first.hits] == ["policy" if protocol == "icmp" else rule, "policy"]
        assert tunnel.way
        assert (tunnel.way.gateway, tunnel.way.mac, tunnel.way.host) == (plan.vtep(2), net_by_hand.VTEPS["b"], plan.node(2))
        assert outside.seen
        assert outside.seen.headers.tunnel
        assert outside.seen.headers.tunnel.vni == 1
        back = [hop.seen.headers for hop in trace.back if hop.seen]
        assert (back[0].source, back[-1].source) == (plan.pod(2), plan.pod(2) if protocol == "icmp" else plan.service)
        assert all(before.time <= after.time for before, after in pairwise(trace.there))
        text = draw(trace, net.directory)
        assert ("(service/default/web)" in text) == (protocol != "icmp")
        assert f"neighbour {net_by_hand.VTEPS['b']} behind {plan.node(2)}" in text


@contextmanager
def associating(net: Net) -> Iterator[None]:
    """Pod b's SCTP, which this kernel need not have: it agrees to every association."""
    with net.pod["b"].enter():
        raw = socket.socket(net.plan.family.af, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    over = threading.Event()
    raw.settimeout(0.05)

    def agree() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                packet, where = raw.recvfrom(65536)
                rest = packet[20:] if net.plan.family is Family.IPV4 else packet
                source, port = struct.unpack_from("!HH", rest)
                if rest[12] == 1:
                    chunk = struct.pack("!BBHIIHHI", 2, 0, 20, 7, 65536, 1, 1, 7)
                    head = struct.pack("!HHI", port, source, struct.unpack_from("!I", rest, 16)[0])
                    raw.sendto(head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk, (where[0], 0))

    thread = threading.Thread(target=agree)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        raw.close()


@contextmanager
def answering(sock: socket.socket) -> Iterator[None]:
    """Datagrams are answered meanwhile."""
    over = threading.Event()
    sock.settimeout(0.05)

    def answer() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                sock.sendto(*sock.recvfrom(64))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_it_leaves_nothing_behind(net: Net) -> None:
    before = net.node["a"].run(["nft", "list", "ruleset"]).stdout
    net.trace()
    assert net.node["a"].run(["nft", "list", "ruleset"]).stdout == before


def test_killed_it_leaves_nothing_behind(net: Net) -> None:
    import msgspec

    from netscope.flow import TCP, End, Flow

    before = net.node["a"].run(["nft", "list", "ruleset"]).stdout
    agent = net.node["a"].popen(net_by_hand.VIA.split(" ", 2)[2].split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin
    assert agent.stdout
    agent.stdin.write(msgspec.json.encode(Start(Flow(Family.IPV4, TCP, 20000, (End("10.2.0.2", 8080),)))) + b"\n")
    agent.stdin.flush()
    assert agent.stdout.readline() == b'{"type":"Ready"}\n'
    assert "netscope" in net.node["a"].run(["nft", "list", "ruleset"]).stdout
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    until(lambda: net.node["a"].run(["nft", "list", "ruleset"]).stdout == before)


def test_a_pod_of_another_cluster_with_the_same_address_is_not_asked(net: Net) -> None:
    with ExitStack() as stack:
        other = net_by_hand.make(stack)
        for each in (net, other):
            with each.node["a"].enter():
                path = probe.namespace_of("10.1.0.2")
                assert os.path.samefile(path, each.pod["a"].path)
                assert probe.namespace_of("10.2.0.2") == ""
