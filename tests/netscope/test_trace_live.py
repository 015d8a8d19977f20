"""Real probes through real namespaces: the whole way is told, and where something is broken, what."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ctypes.util import find_library
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import net_by_hand
import pytest
from labs import until
from net_by_hand import Net

from netscope import probe
from netscope.crafted import crc32c
from netscope.directory import Directory, Place, ends_of
from netscope.drawing import draw
from netscope.flow import TCP, End, Flow
from netscope.live import follow
from netscope.records import Start
from netscope.story import Trace
from netscope.trace import Request, plan_of, run
from nodecore.kernel.netns import Netns
from nodecore.net import Family

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def interfaces(net: Net, trace: Trace) -> list[str]:
    names = {net.name(letter): letter for letter in "ab"}
    return [f"{names[hop.node]} {'->' if hop.seen.leaving else '<-'} {hop.seen.interface}" for hop in trace.there if hop.seen]


OFF = """
import dataclasses, sys, time
from nodecore.kernel.tap import Tap
seconds, read, now = int(sys.argv.pop(1)) * 10**9, Tap.read, time.time_ns
time.time_ns = lambda: now() + seconds
Tap.read = lambda self: [dataclasses.replace(each, time=each.time + seconds) for each in read(self)]
from netscope.__main__ import main
main()
"""


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_node_whose_clock_is_off(net: Net, tmp_path: Path, seconds: int) -> None:
    """All is one story within seconds; which of two nodes was first is told no better than asking for the time took."""
    (tmp_path / "off.py").write_text(OFF)
    start = net_by_hand.VIA.removesuffix("agent").replace("-m netscope", f"{tmp_path}/off.py $x")
    script = f"[ {{node}} = {net.name('b')} ] && x={seconds} || x=0; exec {start} $0"
    with answering(net.servers[1]):
        (trace,) = run(net.request(seconds=60), net.directory, f"sh -c '{script}' agent")
    met = {"a <- pod", "a -> flannel.1", "a -> eth0", "b <- eth0", "b <- flannel.1", "b -> pod"}
    assert (trace.verdict.what, set(interfaces(net, trace))) == ("answered", met)
    times = [hop.time for hop in (*trace.there, *trace.back)]
    assert max(times) - min(times) < 60e9


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp"])
@pytest.mark.parametrize("family", Family)
def test_the_whole_way_is_told(family: Family, protocol: str) -> None:
    with ExitStack() as stack:
        net = net_by_hand.make(stack, family)
        stack.enter_context(answering(net.servers[1]))
        if protocol == "sctp":
            stack.enter_context(associating(net))
        trace, plan = net.trace(protocol, seconds=60), net.plan
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
        assert "conntrack " in text
        for hops in (trace.there, trace.back):
            (tracked,) = (hop.tracked for hop in hops if hop.tracked)
            assert (tracked.asked[0], tracked.answered[0], tracked.replied) == (plan.pod(1), plan.pod(2), True)


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


USRSCTP = """
import ctypes, socket, struct, sys
lib, address = ctypes.CDLL("libusrsctp.so.2"), sys.argv[1]
lib.usrsctp_init(0, None, None)
lib.usrsctp_socket.restype = ctypes.c_void_p
family = socket.AF_INET6 if ":" in address else socket.AF_INET
listening = ctypes.c_void_p(lib.usrsctp_socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP, None, None, 0, None))
before, after = (4, 4) if family is socket.AF_INET6 else (0, 8)
name = struct.pack("=H", family) + struct.pack("!H", 8080) + bytes(before) + socket.inet_pton(family, address) + bytes(after)
print(lib.usrsctp_bind(listening, name, len(name)), lib.usrsctp_listen(listening, 1), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not find_library("usrsctp"), reason="no SCTP stack: libusrsctp2 is not installed")
@pytest.mark.parametrize("family", Family)
def test_a_real_stack_speaks_sctp(family: Family) -> None:
    """One in user space, as this kernel need not have any: it agrees; without it nobody does."""
    with ExitStack() as stack:
        net = net_by_hand.make(stack, family)
        stacked = net.pod["b"].popen([sys.executable, "-c", USRSCTP, net.plan.pod(2)], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        with stacked:
            assert stacked.stdout
            assert stacked.stdout.readline() == "0 0\n"
            trace = net.trace("sctp", seconds=60)
            stacked.kill()
        assert trace.verdict.what == "answered"
        assert [hop.seen.headers.flags for hop in trace.back if hop.seen][-1] == ("INIT ACK",)
        assert net.trace("sctp", seconds=60).verdict.what == "refused"


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
    net.trace(seconds=60)
    assert net.node["a"].run(["nft", "list", "ruleset"]).stdout == before


LOGGER = ["cat", "/proc/sys/net/netfilter/nf_log/2"]


def start_agent(node: Netns) -> subprocess.Popen[bytes]:
    """One that listens, in a namespace with tables of iptables-legacy."""
    agent = node.popen(net_by_hand.VIA.split(" ", 2)[2].split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin
    assert agent.stdout
    agent.stdin.write(msgspec.json.encode(Start(Flow(Family.IPV4, TCP, 20000, (End("10.2.0.2", 8080),)))) + b"\n")
    agent.stdin.flush()
    assert agent.stdout.readline() == b'{"type":"Ready"}\n'
    assert "netscope" in node.run(["nft", "list", "ruleset"]).stdout
    assert node.run(LOGGER).stdout == "nfnetlink_log\n"
    return agent


def test_killed_it_leaves_nothing_behind(net: Net) -> None:
    node = net.node["a"]
    node.run(["iptables-legacy", "-w", "-S"])  # from now on there are legacy tables, so they are listened to as well
    before, logger = node.run(["nft", "list", "ruleset"]).stdout, node.run(LOGGER).stdout
    agent = start_agent(node)
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    until(lambda: node.run(["nft", "list", "ruleset"]).stdout == before)
    until(lambda: node.run(LOGGER).stdout == logger)

    agent = start_agent(node)
    for pid in (*children(agent.pid), agent.pid):  # those that would have cleaned up go first
        os.kill(pid, signal.SIGKILL)
    agent.wait()
    until(lambda: node.run(["nft", "list", "ruleset"]).stdout == before)
    assert net.trace(seconds=60).verdict.what == "answered"
    assert node.run(LOGGER).stdout == logger


STEPS = """
import sys
from netscope.flow import TCP, End, Flow
from netscope.nodes import Nodes
from netscope.records import Finish, Look, Probe, Start
from nodecore.net import Family
a, b, via, steps = sys.argv[1:]
flow = Flow(Family.IPV4, TCP, 20000, (End("10.96.0.10", 80), End("10.2.0.2", 8080)))
questions = Start(flow), Probe("10.1.0.2", "10.96.0.10", 80, TCP, 20000, 0.3), Look(), Finish(("10.2.0.2",), met=True)
with Nodes((a, b), via) as nodes:
    for each in questions[:int(steps)]:
        nodes.ask(a, each, 30) if isinstance(each, Probe) else nodes.ask_all(each, 30)
    print("there", flush=True)
    sys.stdin.read()
"""


def left_behind(net: Net) -> list[str]:
    """On both nodes: the rules, who hears the tables of iptables-legacy, and what runs there."""
    asked = (["nft", "list", "ruleset"], LOGGER)
    return [net.node[letter].run(argv).stdout for letter in "ab" for argv in asked]


def agents_of(net: Net) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            if any(os.path.samefile(path, net.node[letter].path) for letter in "ab"):
                found.append((path.parent.parent / "comm").read_text().strip())
    return sorted(found)


def test_killed_at_any_step_it_leaves_nothing_on_any_node(net: Net) -> None:
    for letter in "ab":
        net.node[letter].run(["iptables-legacy", "-w", "-S"])
    before, running = left_behind(net), agents_of(net)
    for steps, patience in (("0", None), ("1", None), ("2", None), ("3", None), ("4", None), ("4", 0.2), ("4", 0.4)):
        trace = subprocess.Popen([sys.executable, "-c", STEPS, net.name("a"), net.name("b"), net_by_hand.VIA, steps],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert trace.stdout
        if patience is None:
            assert trace.stdout.readline() == b"there\n"
            assert steps in "04" or all("netscope" in text for text in left_behind(net)[::2])
        else:
            threading.Event().wait(patience)  # in the middle of whatever it is at
        trace.kill()
        trace.communicate()
        until(lambda: agents_of(net) == running)
        until(lambda: left_behind(net) == before)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_pod_of_another_cluster_with_the_same_address_is_not_asked(net: Net) -> None:
    with ExitStack() as stack:
        other = net_by_hand.make(stack)
        for each in (net, other):
            with each.node["a"].enter():
                path = probe.namespace_of("10.1.0.2")
                assert os.path.samefile(path, each.pod["a"].path)
                assert probe.namespace_of("10.2.0.2") == ""


def test_processes_that_end_while_they_are_looked_at_are_no_trouble(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe.namespaces
    monkeypatch.setattr(probe, "namespaces", lambda: ("/proc/0/ns/net", *found()))
    with net.node["a"].enter():
        assert os.path.samefile(probe.namespace_of("10.1.0.2"), net.pod["a"].path)


def follow_while(net: Net, sends: Callable[[], None], count: int, *, dropped: bool = False) -> list[Trace]:
    """The first stories that `--live` tells of the flows that `sends` makes once both nodes listen."""
    told: list[Trace] = []
    stories = follow(net.request(seconds=240), net.directory, net_by_hand.VIA, dropped=dropped)
    thread = threading.Thread(target=lambda: told.extend(islice(stories, count)))
    thread.start()
    until(lambda: "netscope" in net.node["a"].run(["nft", "list", "ruleset"]).stdout)
    until(lambda: "netscope" in net.node["b"].run(["nft", "list", "ruleset"]).stdout)
    sends()
    thread.join()
    stories.close()  # type: ignore[attr-defined]
    return told


def connect(net: Net, port: int) -> None:
    with net.pod["a"].enter():
        sock = socket.socket()
    with sock, suppress(OSError):
        sock.bind((net.plan.pod(1), port))
        sock.settimeout(0.5)
        sock.connect((net.plan.service, 80))


def test_real_traffic_is_followed(net: Net) -> None:
    net.on("b", "nft 'table ip wall { chain c { type filter hook forward priority 0; tcp sport 34567 drop; }; }'")

    def sends() -> None:
        for port in (34566, 34567):
            connect(net, port)

    fine, bad = sorted(follow_while(net, sends, 2), key=lambda story: story.there[0].seen.headers.source_port)
    assert interfaces(net, fine) == ["a <- pod", "a -> flannel.1", "a -> eth0", "b <- eth0", "b <- flannel.1", "b -> pod"]
    assert (fine.verdict.what, bad.verdict.what) == ("answered", "dropped")
    assert "tcp sport 34567 drop" in bad.verdict.why


def test_only_what_was_dropped_is_told(net: Net) -> None:
    def sends() -> None:
        connect(net, 34567)
        net.on("a", "ip route del 10.2.0.0/24")
        connect(net, 34568)

    told = follow_while(net, sends, 1, dropped=True)
    assert [story.there[0].seen.headers.source_port for story in told if story.there[0].seen] == [34568]
    assert [(story.verdict.what, "no route to 10.2.0.2" in story.verdict.why) for story in told] == [("lost", True)]


def test_of_many_endpoints_the_mark_is_looked_for(net: Net) -> None:
    plan, directory = net.plan, net.directory
    ends = tuple(End(f"10.2.{number // 200}.{number % 200 + 2}", 8080) for number in range(400))
    web = Place("service", "default/web", (plan.service,), ports={(TCP, 80): ends})
    (trace,) = run(net.request(seconds=60), Directory((*directory.places[:-1], web)), net_by_hand.VIA)
    assert trace.verdict.what == "answered"
    assert len(interfaces(net, trace)) == 6
    assert "too many endpoints" in trace.remarks[0]


def test_behind_a_node_port_the_endpoints_are_looked_for() -> None:
    end = End("10.2.0.2", 8080)
    places = (Place("node", "a", ("192.168.50.1",), "a"),
              Place("service", "default/web", ("10.96.0.10",), node_ports={(TCP, 30080): (end,)}))
    assert ends_of(places, "192.168.50.1", TCP, 30080) == (End("192.168.50.1", 30080), end)
    assert ends_of(places, "192.168.50.9", TCP, 30080) == (End("192.168.50.9", 30080),)


def test_only_nodes_that_may_see_it_are_asked(net: Net) -> None:
    directory = Directory((*net.directory.places, Place("node", "c", ("192.168.50.3",), "c")))
    assert plan_of(net.request(), directory, 20000).nodes == (net.name("a"), net.name("b"))
    nowhere = Request("pod/a", "192.0.2.1", 80, TCP, Family.IPV4, 1.0)
    assert plan_of(nowhere, directory, 20000).nodes == directory.nodes
