"""How the proxy lives: when it writes, what it notices, what survives it."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest
from conftest import Agent, listen, settled
from proxy_api import Api
from proxy_net import FAR_POD, NODE, PODS, STRANGERS, World, endpoints, eventually, heals, service, sh, shape

from tests.promised import in_time

pytestmark = pytest.mark.kernel
A, B, C = PODS.values()
VIP = "10.96.1.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080))
WEB = service("web", VIP, ("t", "TCP", 80, 30090), ("u", "UDP", 80, 0), type="NodePort")


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


@pytest.fixture
def up(net: World, api: Api, agent: Agent) -> Agent:
    api.put(web(B, C), WEB)
    agent.start()
    return agent


@pytest.mark.parametrize("held", ["Service", "EndpointSlice"])
def test_writes_nothing_before_both_inputs_are_complete(net: World, api: Api, agent: Agent, held: str) -> None:
    api.put(web(B), WEB)
    api.hold(held)
    others = set(api.connections)
    agent.start(wait=False)
    eventually(lambda: len(api.connections - others) >= 2)
    agent.ready.settimeout(0.3)
    with pytest.raises(TimeoutError):
        agent.ready.recv(100)
    assert agent.table() == ""
    agent.ready.settimeout(60)
    api.hold()
    assert agent.ready.recv(100) == b"READY=1"
    assert net.ask("pod-a", VIP, 80) == ("pod-b", A)


DAMAGES = {
    "table deleted": "nft delete table ip kube-proxy-py",
    "everything flushed": "nft flush ruleset",
    "chain flushed": "nft flush chain ip kube-proxy-py services",
    "element removed": f"nft delete element ip kube-proxy-py services '{{ {VIP} . tcp . 80 }}'",
    "element added": f"nft add element ip kube-proxy-py no-endpoints '{{ {VIP} . tcp . 99 : drop }}'",
    "map flushed": "nft flush map ip kube-proxy-py cluster-endpoints",
}


@pytest.mark.usefixtures("up")
def test_heals_within_a_second(net: World, agent: Agent) -> None:
    settled(net, VIP, 80)
    good = shape(agent.table())
    for what, damage in DAMAGES.items():
        heals(lambda: sh(net.spaces["node"], damage), lambda: shape(agent.table()) == good, 1, what)  # noqa: B023


@pytest.mark.usefixtures("up")
def test_a_foreign_table_is_no_business_of_ours(net: World, agent: Agent) -> None:
    sh(net.spaces["node"], "nft add table ip other; nft add chain ip other c; nft delete table ip other")
    sh(net.spaces["node"], "nft add table ip6 kube-proxy-py; nft delete table ip6 kube-proxy-py")
    time.sleep(0.2)
    assert "changed by somebody else" not in agent.log.read_text()
    assert agent.log.read_text().count("replace table") <= 1


@pytest.mark.usefixtures("up")
def test_a_single_change_is_written_at_once(net: World, api: Api) -> None:
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(30)} == {"pod-b", "pod-c"}

    def changed() -> float:
        api.put(web(B, C))
        eventually(lambda: element(net, 1) == 0)
        api.put(web(C))
        return eventually(lambda: element(net, 1) != 0)

    in_time(changed, 0.5, "a single change")
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(30)} == {"pod-c"}


def element(net: World, slot: int) -> int:
    """Zero if the Service has that slot."""
    key = f"{{ {VIP} . tcp . 80 . 1:{slot:x} }}"
    get = ["nft", "get", "element", "ip", "kube-proxy-py", "cluster-endpoints", key]
    return net.spaces["node"].run(get, check=False).returncode


@pytest.mark.usefixtures("up")
def test_endpoints_on_their_way_out_serve_until_nobody_else_does(net: World, api: Api) -> None:
    leaving = {"addresses": [B], "conditions": {"ready": False, "serving": True, "terminating": True}, "nodeName": "node-1"}
    unready = {"addresses": [A], "conditions": {"ready": False, "serving": False, "terminating": False}, "nodeName": "node-1"}
    api.put(web(leaving, C, unready))
    eventually(lambda: element(net, 1) != 0)
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(20)} == {"pod-c"}
    api.put(web(leaving, unready))
    eventually(lambda: net.ask("pod-a", VIP, 80)[0] == "pod-b")
    api.put(web(unready))
    eventually(lambda: net.ask("pod-a", VIP, 80)[0] == "refused")
    api.delete("EndpointSlice", "web-1")
    api.delete("Service", "web")
    gone = ["nft", "get", "element", "ip", "kube-proxy-py", "cluster-ips", f"{{ {VIP} }}"]
    eventually(lambda: net.spaces["node"].run(gone, check=False).returncode != 0)


def test_connections_and_rules_outlive_it(net: World, up: Agent, api: Api) -> None:
    """kill -9: an open connection goes on, new ones are made, and the next life takes over without a gap."""
    before = shape(up.table())
    with net.connect("outside", NODE, 30090) as line:
        assert line.recv(100)
        up.kill()
        assert exchange(line) == b"ping"
        assert net.ask("pod-a", VIP, 80)[0] in ("pod-b", "pod-c")
        api.put(web(C))
        up.start(wait=False)
        refused = []
        while not told(up):
            refused += [who for who in [net.ask("pod-a", VIP, 80)[0]] if who not in ("pod-b", "pod-c")]
        assert refused == []
        assert exchange(line) == b"ping"
    assert {net.ask("pod-a", VIP, 80)[0] for _ in range(20)} == {"pod-c"}
    api.put(web(B, C))
    eventually(lambda: shape(up.table()) == before)
    assert up.kill(signal.SIGTERM) == 0
    assert shape(up.table()) == before


def exchange(line: socket.socket) -> bytes:
    line.sendall(b"ping")
    return line.recv(100)


def told(agent: Agent) -> bool:
    agent.ready.settimeout(0.001)
    try:
        return agent.ready.recv(100) == b"READY=1"
    except TimeoutError:
        return False
    finally:
        agent.ready.settimeout(60)


def test_an_absent_api_changes_nothing(net: World, up: Agent, api: Api, served: tuple[Api, int]) -> None:
    before = shape(up.table())
    api.stop()
    try:
        heals(lambda: sh(net.spaces["node"], "nft delete table ip kube-proxy-py"), lambda: shape(up.table()) == before, 2,
              "healing without the API")
        api.put(web(C))
    finally:
        api.start(listen(net, served[1]))
    eventually(lambda: element(net, 1) != 0, what="catching up")


@pytest.mark.slow
def test_stale_udp_flows_are_forgotten_and_good_ones_kept(net: World, up: Agent, api: Api) -> None:
    api.put(web(B))
    eventually(lambda: element(net, 1) != 0)
    with net.spaces["pod-a"].enter():
        line = socket.socket(type=socket.SOCK_DGRAM)
    with line:
        line.settimeout(15)
        line.connect((VIP, 80))
        assert talk(line) == "pod-b"
        api.put(web(B, C))
        up.kill()
        up.start()
        assert flows(net, B) != ""
        assert talk(line) == "pod-b"  # a restart cuts no flow that leads somewhere
        api.put(web(C))
        eventually(lambda: flows(net, B) == "")
        assert talk(line) == "pod-c"


def talk(line: socket.socket) -> str:
    line.send(b"?")
    return line.recv(100).decode().split()[0]


def flows(net: World, endpoint: str) -> str:
    listed = ["conntrack", "-L", "-p", "udp", "--orig-dst", VIP, "--reply-src", endpoint]
    return net.spaces["node"].run(listed, check=False).stdout


@pytest.mark.slow
def test_sticky_clients_stay_and_move_when_they_must(net: World, api: Api, agent: Agent) -> None:
    api.put(web(A, B, C), {**WEB, "spec": {**WEB["spec"], "sessionAffinity": "ClientIP"}})
    agent.start()
    for port, address in ((80, VIP), (30090, NODE)):
        (first,) = {net.ask("outside", address, port)[0] for _ in range(12)}
        agent.kill()
        agent.start()
        assert {net.ask("outside", address, port)[0] for _ in range(12)} == {first}, "after a restart"
        gone = PODS[first]
        api.put(web(*(set(PODS.values()) - {gone})))
        eventually(lambda at=(address, port), first=first: net.ask("outside", *at)[0] != first)
        (second,) = {net.ask("outside", address, port)[0] for _ in range(12)}
        assert second != first
        api.put(web(A, B, C))
        time.sleep(0.3)
        assert {net.ask("outside", address, port)[0] for _ in range(12)} == {second}, "the old one is back: no reason to move"


@pytest.mark.slow
def test_affinity_times_out(net: World, api: Api, agent: Agent) -> None:
    config = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
    api.put(web(A, B, C), {**WEB, "spec": {**WEB["spec"], **config}})
    agent.start()
    seen = {(caller, net.ask(caller, VIP, 80)[0]) for caller in STRANGERS}

    def moved() -> bool:
        time.sleep(1.1)
        seen.update((caller, net.ask(caller, VIP, 80)[0]) for caller in STRANGERS)
        return len(seen) > len(STRANGERS)

    eventually(moved)


BAD = (
    service("low", "10.96.2.1", ("t", "TCP", 0, 0)),
    service("high", "10.96.2.2", ("t", "TCP", 70000, 0)),
    service("protocol", "10.96.2.3", ("t", "tcp } ; flush ruleset ; {", 80, 0)),
    service("escape", "10.96.2.4 . tcp . 80 : drop }\nflush ruleset\n", ("t", "TCP", 80, 0)),
    service("loopback", "127.0.0.1", ("t", "TCP", 80, 0)),
    service("node-port", "10.96.2.6", ("t", "TCP", 80, 99999), type="NodePort"),
    service("zz-taken", VIP, ("t", "TCP", 80, 0)),
    service("new\nline", "127.0.0.2", ("t", "TCP", 80, 0)),
)


def test_bad_objects_are_skipped_counted_and_named(net: World, api: Api, agent: Agent) -> None:
    bad_slice = endpoints("web", "fd00::1", "127.0.0.1", "10.244.1.9; drop", "224.0.0.1", ports=TARGETS)
    bad_slice["metadata"]["name"] = "web-bad"
    bad_port = endpoints("web", B, ports=(("t", "TCP", 70000),))
    bad_port["metadata"]["name"] = "web-port"
    typed = service("typed", "10.96.2.8", ("t", "TCP", "eighty", 0))
    api.put(web(B), WEB, *BAD, bad_slice, bad_port, typed)
    agent.start()
    assert net.ask("pod-a", VIP, 80) == ("pod-b", A)
    log = agent.log.read_text()
    for item in BAD:
        name = item["metadata"]["name"].replace("\n", "\\n")
        assert log.count(f"Service default/{name} skipped") == 1
    assert "EndpointSlice default/web-bad skipped" in log
    assert "EndpointSlice default/web-port skipped" in log
    metrics = get(net, 10249, "/metrics")
    assert f"kubeproxy_skipped_objects {float(len(BAD) + 4 + 1 + 1)}" in metrics


def get(net: World, port: int, path: str) -> str:
    with net.spaces["node"].enter():
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60).read().decode()


@pytest.mark.usefixtures("up")
def test_tells_of_itself(net: World) -> None:
    assert '"nodeEligible": true' in get(net, 10256, "/healthz")
    assert get(net, 10256, "/livez")
    assert get(net, 10249, "/proxyMode") == "nftables"
    metrics = get(net, 10249, "/metrics")
    assert "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1.0" in metrics
    assert re.search(r'^rest_client_requests_total\{code="200",host="127.0.0.1:\d+",method="GET"\} [1-9]', metrics, re.M)
    assert "_created" not in metrics  # the original has no such series


@pytest.mark.slow
def test_clean_up_and_dry_run(net: World, up: Agent) -> None:
    argv = [*up_command(up), "--dry-run"]
    printed = net.spaces["node"].run(argv).stdout
    assert f"{VIP} . tcp . 80 : goto cluster-2" in printed
    up.kill()
    net.spaces["node"].run([*up_command(up), "--cleanup"])
    assert up.table() == ""


@pytest.mark.slow
def test_diff_names_the_service(net: World, up: Agent, api: Api) -> None:
    def told() -> tuple[int, str]:
        argv = up_command(up)
        done = net.spaces["node"].run([*argv[:3], "diff", *argv[3:], "--hostname-override", "node-1"], check=False)
        return done.returncode, done.stdout

    settled(net, VIP, 80)
    assert told() == (0, "the kernel has what it should\n")
    up.kill()
    sh(net.spaces["node"], f"nft delete element ip kube-proxy-py services '{{ {VIP} . tcp . 80 }}'")
    sh(net.spaces["node"], f"nft add element ip kube-proxy-py no-endpoints '{{ {VIP} . tcp . 99 : drop }}'")
    sh(net.spaces["node"], "nft flush chain ip kube-proxy-py guard")
    assert told() == (1, "default/web: services lacks 10.96.1.1 . tcp . 80 -> goto cluster-2\n"
                         "no Service: no-endpoints has 10.96.1.1 . tcp . 99 -> drop, which nobody asks for\n"
                         "all Services: chain guard has 0 rules, and it should have 2\n")
    sh(net.spaces["node"], "nft delete table ip kube-proxy-py")
    assert "there is no table ip kube-proxy-py" in told()[1]


def up_command(agent: Agent) -> list[str]:
    import sys

    return [sys.executable, "-m", "proxy", "--kubeconfig", str(agent.directory / "kubeconfig"), "--cluster-cidr", "10.244.0.0/16"]


def asked(net: World, port: int) -> str:
    """The status of a health check, and what it counts."""
    try:
        with net.connect("outside", NODE, port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b"")).decode()
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:  # closed while we waited to be answered
        return "reset"
    if not answer:
        return "closed"
    head, _, body = answer.partition("\r\n\r\n")
    told = json.loads(body)
    assert told["service"] == {"namespace": "default", "name": "web"}
    return f"{head.split()[1]} {told['localEndpoints']}"


@pytest.mark.usefixtures("up")
def test_load_balancers_are_told_whether_somebody_answers_here(net: World, api: Api) -> None:
    spec = WEB["spec"] | {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999}
    api.put({**WEB, "spec": spec})
    eventually(lambda: asked(net, 31999) == "200 2")
    api.put(web(FAR_POD))
    eventually(lambda: asked(net, 31999) == "503 0")
    api.put({**WEB, "spec": spec | {"healthCheckNodePort": 31998}}, web(B, FAR_POD))
    eventually(lambda: asked(net, 31998) == "200 1")
    assert asked(net, 31999) == "refused"
    api.put(WEB)
    eventually(lambda: asked(net, 31998) == "refused")


def node(**fields: object) -> dict:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", **fields.pop("metadata", {})}, **fields}


def status(net: World, path: str) -> int:
    try:
        get(net, 10256, path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


@pytest.mark.usefixtures("up")
def test_a_node_that_is_going_is_alive_but_not_eligible(net: World, api: Api) -> None:
    api.put(node(spec={"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}))
    eventually(lambda: status(net, "/healthz") == 503)
    assert status(net, "/livez") == 200
    api.put(node())
    eventually(lambda: status(net, "/healthz") == 200)
    api.put(node(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    eventually(lambda: status(net, "/healthz") == 503)
    assert 'kubeproxy_proxy_healthz_total{code="503"}' in get(net, 10249, "/metrics")
    assert 'kubeproxy_proxy_livez_total{code="200"} 1.0' in get(net, 10249, "/metrics")


def value(net: World, metric: str) -> float:
    lines = get(net, 10249, "/metrics").splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == f"kubeproxy_{metric}")


@pytest.mark.usefixtures("up")
def test_metrics_are_kube_proxys(net: World, api: Api) -> None:
    assert value(net, "network_programming_duration_seconds_count") == 0  # what was before us does not count
    changes = value(net, "sync_proxy_rules_endpoint_changes_total")
    began = time.time()
    changed = web(FAR_POD)
    changed["metadata"]["annotations"] = {
        "endpoints.kubernetes.io/last-change-trigger-time": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    local = WEB["spec"] | {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}
    api.put(changed, {**WEB, "spec": local})
    eventually(lambda: value(net, "network_programming_duration_seconds_count") == 1)
    eventually(lambda: value(net, 'sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}') == 1)
    assert value(net, "network_programming_duration_seconds_sum") < time.time() - began
    assert value(net, 'sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}') == 1
    assert value(net, "sync_proxy_rules_endpoint_changes_total") == changes + 1
    assert value(net, "sync_proxy_rules_endpoint_changes_pending") == 0
    assert value(net, "sync_proxy_rules_last_queued_timestamp_seconds") > began
    assert value(net, "sync_proxy_rules_nftables_sync_failures_total") == 0
    api.delete("EndpointSlice", "web-1")
    eventually(lambda: value(net, 'sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}') == 0)


@pytest.mark.usefixtures("up")
def test_shows_what_is_programmed(net: World, api: Api) -> None:
    told = json.loads(get(net, 10249, "/rules"))
    assert told["written"] is True
    assert "services: 10.96.1.1 . tcp . 80 : goto cluster-2" in told["services"]["default/web"]["IPv4"][f"{VIP} . tcp . 80"]
    assert told["skipped"] == []
    api.put({**service("other", "10.96.1.9", ("t", "TCP", 80, 0)), "status": {}})
    eventually(lambda: "10.96.1.9" in get(net, 10249, "/rules"))
    assert list(json.loads(get(net, 10249, "/rules?service=default%2Fweb"))["services"]) == ["default/web"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(net, 10249, "/rules?service=default/nobody")
