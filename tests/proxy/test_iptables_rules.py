"""iptables mode's rules as text, whole; that the kernel takes them; that many small changes come to one large one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_net import balanced, endpoints, service
from test_rules import HERE, SCENES, SETTINGS, TARGETS, THERE, WEB, Model, Settings, as_golden, final, steps, v6

from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.ports import Variant
from nodecore.net import Family
from proxy.ledger import Element
from proxy.render.iptables import TABLES, Layout, balance
from proxy.render.leftovers import Held, Whose, read_held, removal_script

V4 = Layout(Family.IPV4, SETTINGS)
GUARDED = balanced(service("web", "10.96.0.1", *WEB[:1], type="LoadBalancer", externalTrafficPolicy="Local",
                           loadBalancerSourceRanges=["203.0.113.0/24", "198.51.100.0/24"]), "192.0.2.1")
MANY = [f"10.244.1.{number}" for number in range(10, 17)]
ALL_SCENES = {name: (Layout(layout.family, layout.settings), objects) for name, (layout, objects) in SCENES.items()
              if name != "counted"} | {
    "guarded": (V4, (GUARDED, endpoints("web", HERE, THERE, ports=TARGETS))),
    "loopback": (Layout(Family.IPV4, Settings(loopback_node_ports=True, drop_invalid=True)), (
        service("web", "10.96.0.1", *WEB[:1], type="NodePort"), endpoints("web", HERE, ports=TARGETS))),
    "many": (V4, (service("web", "10.96.0.1", *WEB, type="NodePort"), endpoints("web", *MANY, ports=TARGETS))),
}


@pytest.mark.parametrize("scene", ALL_SCENES)
def test_whole_script(scene: str) -> None:
    layout, objects = ALL_SCENES[scene]
    model = Model(layout)
    model.put(*objects)
    as_golden(f"{scene}.iptables", model.full())


@pytest.fixture(scope="module")
def space() -> Netns:
    with Netns.create() as made:
        yield made


def tool(space: Netns) -> Iptables:
    return Iptables(prefix=("nsenter", f"--net={space.path}"))


def load(space: Netns, variant: Variant, script: str, family: Family = Family.IPV4) -> None:
    asyncio.run(tool(space).restore(variant, family, script))


def listing(space: Netns, variant: Variant, table: str, family: Family = Family.IPV4) -> str:
    return asyncio.run(tool(space).save(variant, family, table))


def held(space: Netns, variant: Variant, family: Family = Family.IPV4) -> dict[str, Held]:
    return {table: read_held(listing(space, variant, table, family)) for table in TABLES}


def shape(text: str) -> list[str]:
    """A listing without the order of a tree's rules, which says nothing."""
    return sorted(line.partition(" [")[0] if line.startswith(":") else line
                  for line in text.splitlines() if line.startswith((":", "-A")))


@pytest.mark.kernel
@pytest.mark.parametrize("variant", [Variant.NFT, pytest.param(Variant.LEGACY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scene", ALL_SCENES)
def test_the_kernel_takes_it(space: Netns, scene: str, variant: Variant) -> None:
    layout, objects = ALL_SCENES[scene]
    model, family = Model(layout), layout.family
    model.put(*objects)
    load(space, variant, model.full(), family)
    once = [shape(listing(space, variant, table, family)) for table in TABLES]
    load(space, variant, layout.full_script(model.ledger.everything(), held(space, variant, family)), family)
    assert [shape(listing(space, variant, table, family)) for table in TABLES] == once
    counts = layout.rule_counts(model.ledger.everything(), fixed=True)
    assert {table: found.rules for table, found in held(space, variant, family).items()} == counts
    for table in TABLES:
        load(space, variant, removal_script(table, listing(space, variant, table, family), Whose), family)
        assert not [line for line in listing(space, variant, table, family).splitlines() if "KPY" in line]


@pytest.mark.kernel
@pytest.mark.parametrize("variant", [pytest.param(Variant.NFT, marks=pytest.mark.slow), Variant.LEGACY])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=20))
def test_many_small_changes_come_to_one_large_one(space: Netns, variant: Variant, history: list[tuple[str, object]]) -> None:
    model, fresh = Model(V4), Model(V4)
    load(space, variant, V4.full_script(model.ledger.everything(), held(space, variant)))
    counts = V4.rule_counts(model.ledger.everything(), fixed=True)
    for verb, value in [*history, ("write", None)]:
        if verb == "write":
            if delta := model.ledger.pending():
                load(space, variant, V4.delta_script(delta))
                counts.update(V4.rule_counts(delta))
            model.ledger.settle()
        else:
            getattr(model, verb)(value)
    step_by_step = [shape(listing(space, variant, table)) for table in TABLES]
    assert {table: found.rules for table, found in held(space, variant).items()} == counts
    for verb, value in final(history):
        getattr(fresh, verb)(value)
    assert fresh.ledger.everything() == model.ledger.everything()
    load(space, variant, V4.full_script(fresh.ledger.everything(), held(space, variant)))
    assert [shape(listing(space, variant, table)) for table in TABLES] == step_by_step


def test_a_change_costs_what_changed() -> None:
    model = Model(V4)
    for number in range(500):
        model.put(service(f"s{number}", f"10.96.{number >> 8}.{number & 255}", ("t", "TCP", 80, 0)),
                  endpoints(f"s{number}", "10.244.2.5", THERE, ports=TARGETS))
    model.ledger.settle()
    assert not model.ledger.pending()
    model.put(endpoints("s7", "10.244.2.5", "10.244.2.9", ports=TARGETS))
    assert V4.delta_script(model.ledger.pending()).splitlines() == [
        "*nat",
        "-D KPY-C-2-1-tcp-80-007 -d 10.96.0.7 -p tcp -j DNAT --to-destination 10.244.2.6:8080",
        "-A KPY-C-2-1-tcp-80-007 -d 10.96.0.7 -p tcp -j DNAT --to-destination 10.244.2.9:8080",
        "COMMIT",
    ]


@pytest.mark.parametrize("services", [10, 1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_first_packet_meets_few_rules(services: int) -> None:
    """The rules of every chain it may walk, at most: of the children told by address, the largest; of others, all."""
    model = Model(V4)
    for number in range(services):
        address = f"10.96.{number >> 8}.{number & 255}"
        model.put(service(f"s{number}", address, ("t", "TCP", 80, 0)), endpoints(f"s{number}", HERE, THERE, ports=TARGETS))
    rules: dict[str, list[str]] = {}
    for element in model.ledger.everything().added:
        rules.setdefault(element.container.removeprefix("nat "), []).extend(element.value.split("\n"))

    def walk(chain: str) -> int:
        children = [(rule.startswith("-d "), walk(rule.rpartition(" ")[2])) for rule in rules[chain] if " -j KPY-" in f" {rule}"]
        others = sum(cost for by_address, cost in children if not by_address)
        return len(rules[chain]) + others + max((cost for by_address, cost in children if by_address), default=0)

    turns, widest = 2, 8 + 8 + 8
    assert walk("KPY-C") <= turns * (2 + widest + services / 512 + 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_endpoint_has_the_same_chance(count: int) -> None:
    model = Model(V4)
    model.put(service("web", "10.96.0.1", ("t", "TCP", 80, 0)),
              endpoints("web", *(f"10.244.2.{number + 1}" for number in range(count)), ports=TARGETS))
    routes, _ = model.snapshot.routes("default/web", Family.IPV4)
    left, shares = 1.0, []
    shared = [item for fragment in V4.fragments(routes[0]) for item in fragment.shared if isinstance(item, Element)]
    rolls = next((item.value.split("\n") for item in shared if item.container == "nat KPY-C" and item.key == f"{count}"), None)
    for rule in rolls or balance("-p tcp", routes[0].cluster.endpoints):
        chance = float(rule.split("--probability ")[1].split()[0]) if "--probability" in rule else 1.0
        shares.append(left * chance)
        left *= 1 - chance
    assert shares == pytest.approx([1 / count] * count, rel=1e-6)


FOREIGN = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:FLANNEL-POSTRTG - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
"""


def test_nothing_of_others_is_left_over() -> None:
    assert removal_script("nat", FOREIGN, Whose) == ""
    ours = FOREIGN.replace("-A FLANNEL", "-A PREROUTING -j KPY-SERVICES\n-A FLANNEL", 1)
    ours = ours.replace(":KUBE-MARK", ":KPY-SERVICES - [0:0]\n:KUBE-MARK")
    assert removal_script("nat", ours, [Whose.GO]) == ""
    assert removal_script("nat", ours, Whose).splitlines() == [
        "*nat", ":KPY-SERVICES - [0:0]", "-D PREROUTING -j KPY-SERVICES", "-X KPY-SERVICES", "COMMIT"]
    alone = FOREIGN.replace(":KUBE-KUBELET-CANARY - [0:0]\n", "")
    assert removal_script("nat", alone, Whose).count("-X KUBE-") == 2
    marked = alone.replace("COMMIT", "-A CNI-HOSTPORT-DNAT -j KUBE-MARK-MASQ\nCOMMIT")
    assert removal_script("nat", marked, Whose) == ""


@pytest.mark.kernel
def test_hooks_are_first(space: Netns) -> None:
    for variant in Variant:
        other = "*nat\n:OTHER - [0:0]\n-A PREROUTING -j OTHER\nCOMMIT\n"
        load(space, variant, other)
        model = Model(V4)
        for _ in range(2):
            load(space, variant, V4.full_script(model.ledger.everything(), held(space, variant)))
            for table in TABLES:
                for hook in {hook for hook, _ in V4.jumps(table)}:
                    ours = [f"-A {hook} {jump}" for at, jump in V4.jumps(table) if at == hook]
                    there = [line for line in listing(space, variant, table).splitlines() if line.startswith(f"-A {hook} ")]
                    assert there[:len(ours)] == ours
        load(space, variant, "*nat\n-D PREROUTING -j OTHER\n-X OTHER\nCOMMIT\n")


@pytest.mark.kernel
@pytest.mark.parametrize("variant", [Variant.NFT, pytest.param(Variant.LEGACY, marks=pytest.mark.slow)])
def test_ipv6_carries(variant: Variant) -> None:
    """A node's own calls by ClusterIP and by NodePort, to an endpoint it can reach; one client stays with one endpoint."""
    both = (("t", "TCP", 80, 30080), ("u", "UDP", 80, 30080))
    model = Model(Layout(Family.IPV6, SETTINGS))
    model.put(v6(service("web", "10.96.0.1", *both, type="NodePort", sessionAffinity="ClientIP")),
              v6(endpoints("web", HERE, THERE, ports=(("t", "TCP", 8080), ("u", "UDP", 8080)))),
              v6(service("none", "10.96.0.2", ("t", "TCP", 80, 0))))
    with Netns.create() as space:
        for command in (*(f"addr add {address}/128 dev lo nodad" for address in ("fd44::1:5", "fd44::2:6", "fd77::1")),
                        "route add fd96::/64 dev lo"):
            space.run(["ip", "-6", *command.split()])
        load(space, variant, model.full(), Family.IPV6)
        with space.enter():
            servers = [socket.create_server((address, 8080), family=socket.AF_INET6) for address in ("fd44::1:5", "fd44::2:6")]
            for at in (("fd96::1", 80), ("fd77::1", 30080), ("fd96::1", 80)):
                callers = []
                for _ in range(5):
                    callers.append(socket.socket(socket.AF_INET6))
                    callers[-1].settimeout(15)
                    callers[-1].connect(at)
                for caller in callers:
                    caller.close()
            with socket.socket(socket.AF_INET6) as caller, pytest.raises(ConnectionRefusedError):
                caller.connect(("fd96::2", 80))
        for server in servers:
            server.close()
        clients = space.run(["sh", "-c", "cat /proc/net/xt_recent/KPY-*"]).stdout.splitlines()
        assert len(clients) == 1, "one client, at one endpoint"


@pytest.mark.kernel
def test_who_was_not_seen_for_longest_is_forgotten_when_an_endpoint_has_many_clients() -> None:
    """As with Go kube-proxy's rules, which are the same in this: the kernel's module says how many it keeps."""
    limit = Path("/sys/module/xt_recent/parameters/ip_list_tot")
    if not limit.exists():
        pytest.skip("xt_recent is not there, or does not tell")
    most = int(limit.read_text())
    model = Model(V4)
    model.put(service("web", "10.96.0.1", ("u", "UDP", 53, 0), sessionAffinity="ClientIP"), endpoints("web", HERE, ports=TARGETS))

    def call(client: int) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((f"10.99.{client >> 8}.{client & 255}", 0))
            sock.sendto(b"?", ("10.96.0.1", 53))

    with Netns.create() as space:
        for command in ("link set lo up", f"addr add {HERE}/32 dev lo", "addr add 10.99.0.1/16 dev lo",
                        "route add 10.96.0.0/16 dev lo"):
            space.run(["ip", *command.split()])
        load(space, Variant.NFT, model.full())
        with space.enter():
            for client in (*range(1, most + 1), 1, most + 1):
                call(client)
        kept = space.run(["sh", "-c", "cat /proc/net/xt_recent/KPY-*"]).stdout
        assert kept.count("src=") == most
        assert [f"src=10.99.0.{client} " in kept for client in (1, 2, 3)] == [True, False, True]


CURRENT_GO = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j KUBE-ROUTER-FORWARD
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP
COMMIT
"""


def test_go_kube_proxy_of_today_leaves_the_kubelets_and_others() -> None:
    gone = "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY", "KUBE-PROXY-FIREWALL"
    jumps = [line for line in CURRENT_GO.splitlines() if line.startswith(("-A INPUT", "-A FORWARD")) and line.endswith(gone)]
    assert removal_script("filter", CURRENT_GO, [Whose.GO]).splitlines() == [
        "*filter", *(f":{name} - [0:0]" for name in gone), *(line.replace("-A", "-D", 1) for line in jumps),
        *(f"-X {name}" for name in gone), "COMMIT"]
