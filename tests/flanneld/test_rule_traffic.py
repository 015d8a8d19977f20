"""Where packets go by the traffic rules of each kind, and what becomes of them while one kind replaces another."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rule_hosts import KINDS, PLANS, V4, V6, Crossing, Plan, RuleHost, needs_iptables, seen_as, wanted
from site_of_nodes import until

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
NOTHING = wanted(nftables=True, plans=())


@pytest.fixture(scope="module")
def crossing() -> Iterator[Crossing]:
    needs_iptables()
    made = Crossing()
    yield made
    made.close()


def settle(host: RuleHost, kind: str) -> None:
    """Our rules of a kind, on a host that uses it."""
    if kind != "nftables":
        for plan in PLANS:
            host.sh(f"{plan.program}-{kind} -w 5 -t mangle -N KUBE-IPTABLES-HINT")
    host.fresh()
    host.apply(wanted(nftables=kind == "nftables"))


def unsettle(host: RuleHost, kind: str) -> None:
    host.apply(NOTHING)
    if kind != "nftables":
        for plan in PLANS:
            host.sh(f"{plan.program}-{kind} -w 5 -t mangle -X KUBE-IPTABLES-HINT")


@pytest.mark.parametrize("kind", KINDS)
def test_where_packets_go(crossing: Crossing, kind: str) -> None:
    settle(crossing, kind)
    try:
        for plan in PLANS:
            walk(crossing, plan)
    finally:
        unsettle(crossing, kind)


def walk(at: Crossing, plan: Plan) -> None:
    assert seen_as(at.outside, plan.outside, at.pod) == plan.node, "a pod on its way out"
    assert seen_as(at.remote, plan.remote, at.pod) == plan.pod, "pod to pod elsewhere"
    assert seen_as(at.pod, plan.pod, at.remote) == plan.remote, "from a pod elsewhere"
    assert seen_as(at.pod, plan.pod, at.outside) == plan.outside, "from outside to a pod here"
    assert seen_as(at.remote, plan.remote, at.ns, source=plan.node) == plan.tunnel, "this host to a pod elsewhere"
    assert seen_as(at.remote, plan.remote, at.outside) == plan.tunnel, "from outside to a pod elsewhere, through us"
    assert seen_as(at.remote, plan.remote, at.ns, mark=0x14000) == plan.tunnel
    at.remote.run(f"ip -{plan.family.value} route add {plan.node} via {plan.tunnel}".split())
    assert seen_as(at.remote, plan.remote, at.ns, source=plan.node, mark=0x14000) == plan.node, "marked: the proxy's business"
    at.remote.run(f"ip -{plan.family.value} route del {plan.node}".split())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_forward_policy_of_drop_lets_pods_through(crossing: Crossing, kind: str) -> None:
    settle(crossing, kind)
    for plan in PLANS:
        crossing.sh(f"{plan.program}-{kind} -w 5 -P FORWARD DROP")
    try:
        for plan in PLANS:
            assert seen_as(crossing.outside, plan.outside, crossing.pod) == plan.node
    finally:
        for plan in PLANS:
            crossing.sh(f"{plan.program}-{kind} -w 5 -P FORWARD ACCEPT")
        unsettle(crossing, kind)


class Flows:
    """New UDP flows from a pod to outside, as fast as they go, and whom the other side saw."""

    def __init__(self, at: Crossing, plan: Plan) -> None:
        self.at, self.plan = at, plan
        self.seen: dict[str, int] = {}
        self.sent, self.end = 0, 0.0
        self.done = threading.Event()
        family = socket.AF_INET if plan is V4 else socket.AF_INET6
        with at.outside.enter():
            self.server = socket.socket(family, socket.SOCK_DGRAM)
            self.server.bind((plan.outside, 0))
            self.server.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: for seconds in which nobody reads
            self.server.settimeout(0.5)
        self.family = family
        self.threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def _send(self) -> None:
        with self.at.pod.enter():
            while not self.done.is_set():
                with socket.socket(self.family, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"x", self.server.getsockname()[:2])
                self.sent += 1
                time.sleep(0.0005)

    def _receive(self) -> None:
        while True:
            try:
                _, (address, *_) = self.server.recvfrom(10)
            except TimeoutError:
                if self.done.is_set() and (sum(self.seen.values()) == self.sent or time.monotonic() > self.end):
                    return
                continue
            self.seen[address] = self.seen.get(address, 0) + 1

    def __enter__(self) -> Flows:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end = time.monotonic() + 10  # for what is on its way still
        self.done.set()
        for thread in self.threads:
            thread.join()
        self.server.close()


@pytest.mark.parametrize("plan", [pytest.param(V4, id="ipv4"), pytest.param(V6, id="ipv6", marks=pytest.mark.slow)])
def test_no_packet_goes_out_unmasqueraded_while_kinds_change(crossing: Crossing, plan: Plan) -> None:
    """From Go's rules to ours, over all three kinds and back: each new flow meets rules, and a long one keeps its address."""
    crossing.go_flanneld("legacy", plan)
    crossing.fresh()
    with Flows(crossing, plan) as flows, talking(crossing, plan) as rounds:
        for kind in ("legacy", "nftables", "nft", "nftables", "legacy", "nft"):
            if kind == "nftables":
                crossing.apply(wanted(nftables=True))
            else:
                settle(crossing, kind)
                crossing.fresh()
                crossing.apply(wanted(nftables=False))
                crossing.sh(f"{plan.program}-{kind} -w 5 -t mangle -X KUBE-IPTABLES-HINT")
                other = V6 if plan is V4 else V4
                crossing.sh(f"{other.program}-{kind} -w 5 -t mangle -X KUBE-IPTABLES-HINT")
            told = len(rounds)
            until(lambda: len(rounds) > told, "the connection goes on")  # noqa: B023
    crossing.apply(NOTHING)
    print(flows.sent, flows.seen, len(rounds))
    assert flows.seen == {plan.node: flows.sent}


@contextmanager
def talking(at: Crossing, plan: Plan) -> Iterator[list[int]]:
    """One TCP connection from the pod to outside that never rests; the list grows with each 100 kB there and word back."""
    family = socket.AF_INET if plan is V4 else socket.AF_INET6
    with at.outside.enter():
        listener = socket.create_server((plan.outside, 0), family=family)
    with listener:
        with at.pod.enter():
            client = socket.create_connection(listener.getsockname()[:2], 30)
        peer, address = listener.accept()
    assert address[0] == plan.node
    rounds: list[int] = []
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            client.sendall(bytes(100_000))
            got = 0
            while got < 100_000:
                got += len(peer.recv(65536))
            peer.sendall(b"yes")
            assert client.recv(3) == b"yes"
            rounds.append(got)

    thread = threading.Thread(target=talk)
    with client, peer:
        client.settimeout(30)
        peer.settimeout(30)
        thread.start()
        try:
            yield rounds
        finally:
            stop.set()
            thread.join()
