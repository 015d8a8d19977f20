"""The pure decisions: which endpoints, which flows are stale, what a flag means."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from nodecore.daemon import entry
from nodecore.errors import UserError
from nodecore.kernel.conntrack import Flow
from nodecore.kube.config import KubeConfig
from nodecore.kube.objects import Node
from nodecore.net import Family
from proxy import config as settings
from proxy.__main__ import command, main
from proxy.agent import open_client, settled
from proxy.endpoints import Endpoint
from proxy.policy import Choice, Place, choose, choose_local
from proxy.services import ORDINARY, Kind, ServicePort, Way
from proxy.snapshot import Route
from proxy.stale import NOBODY, changed, is_stale, targets_of

READY = Endpoint("10.0.0.1", 80, local=True)
FAR = Endpoint("10.0.0.2", 80)
LEAVING = Endpoint("10.0.0.3", 80, ready=False, serving=True, terminating=True, local=True)
BROKEN = Endpoint("10.0.0.4", 80, ready=False, serving=False, local=True)


FIRST = (0, 1, 9, 10, 99, 100, 126, 127, 128, 168, 169, 170, 199, 200, 223, 224, 239, 240, 250, 255, 256, 300, "01", "-1", "1a")
REST = ("0.0.0", "1.2.3", "254.0.1", "255.255.255", "256.1.1", "1.1", "1.1.1.1", "1.1.1 ", "1.01.1", "1.1.1\n", "", "1.\u0661.1")


@pytest.mark.parametrize("rest", REST)
def test_an_ordinary_address_is_one_that_can_be_had(rest: str) -> None:
    """What is told by its looks is what reading it would say."""
    for first in FIRST:
        text = f"{first}.{rest}"
        try:
            address = ip_address(text)
        except ValueError:
            good = False
        else:
            bad = address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local
            good = not bad and str(address) == text
        taken = bool(ORDINARY.fullmatch(text))
        assert taken <= good, text
        assert taken or not good or first in (0, 240, 250, 255), text  # those are read


@pytest.mark.parametrize(("endpoints", "unready_too", "expected"), [
    ([], False, ()),
    ([READY, FAR, LEAVING, BROKEN], False, (READY, FAR)),
    ([LEAVING, BROKEN], False, (LEAVING,)),
    ([BROKEN], False, ()),
    ([BROKEN], True, (BROKEN,)),
])
def test_choose(endpoints: list[Endpoint], *, unready_too: bool, expected: tuple[Endpoint, ...]) -> None:
    assert choose(endpoints, Place(), unready_too=unready_too) == Choice(expected)


@pytest.mark.parametrize(("endpoints", "expected"), [
    ([READY, FAR], Choice((READY,))),
    ([FAR, LEAVING], Choice((LEAVING,))),  # per scope: here only the leaving one is left
    ([FAR, BROKEN], Choice((), elsewhere=True)),
    ([BROKEN], Choice(())),
])
def test_choose_local(endpoints: list[Endpoint], expected: Choice) -> None:
    assert choose_local(endpoints) == expected


HERE, NEAR, AWAY = (
    Endpoint(f"10.0.1.{number}", 80, zones=(zone,), nodes=(f"n{number}",)) for number, zone in ((1, "a"), (2, "a"), (3, "b"))
)


@pytest.mark.parametrize(("place", "endpoints", "expected"), [
    (Place("n1", "a"), (HERE, NEAR, AWAY), (HERE,)),  # this node before this zone
    (Place("n9", "a"), (HERE, NEAR, AWAY), (HERE, NEAR)),
    (Place("n9", "c"), (HERE, NEAR, AWAY), (HERE, NEAR, AWAY)),  # nobody is meant for us
    (Place("n9", ""), (HERE, NEAR, AWAY), (HERE, NEAR, AWAY)),  # nobody knows where we are
    (Place("n9", "a"), (HERE, FAR), (HERE, FAR)),  # one without a hint: hints are not to be trusted yet
    (Place("n9", "a"), (LEAVING,), (LEAVING,)),
])
def test_hints(place: Place, endpoints: tuple[Endpoint, ...], expected: tuple[Endpoint, ...]) -> None:
    assert choose(endpoints, place) == Choice(expected)


VIP, POD, GONE = ("10.96.0.1", 53), ("10.244.0.5", 5353), ("10.244.0.6", 5353)


def flow(to: tuple[str, int], answered_by: tuple[str, int]) -> Flow:
    return Flow("10.244.0.9", 40000, *to, *answered_by)


@pytest.mark.parametrize(("seen", "stale"), [
    (flow(VIP, POD), False),
    (flow(VIP, GONE), True),
    (flow(VIP, VIP), True),  # sent before there were rules
    (flow(("10.96.0.2", 53), GONE), True),  # a Service that is gone
    (flow(("192.168.1.1", 30053), POD), False),
    (flow(("192.168.1.1", 30053), GONE), True),
    (flow(("8.8.8.8", 30053), ("8.8.8.8", 30053)), False),  # somebody else's business
    (flow(("8.8.8.8", 53), ("8.8.8.8", 53)), False),
])
def test_stale(seen: Flow, *, stale: bool) -> None:
    targets = {("udp", *VIP): frozenset([POD]), ("udp", "10.96.0.2", 53): NOBODY, ("udp", "", 30053): frozenset([POD])}
    assert is_stale(targets, "udp")(seen) is stale
    assert is_stale({("tcp", *key[1:]): who for key, who in targets.items()}, "udp")(seen) is False
    untranslated = (seen.endpoint, seen.endpoint_port) == (seen.destination, seen.port)
    of_tcp = is_stale({("tcp", *key[1:]): who for key, who in targets.items()}, "tcp")
    assert of_tcp(seen) is (stale and not untranslated)


def test_who_may_keep_a_flow() -> None:
    def asked(protocol: str, *, tcp: bool = False) -> set[str] | None:
        port = ServicePort("default/a", "", protocol, (Way(Kind.CLUSTER_IP, *VIP),))
        found = targets_of([Route(port, Choice((READY,)), known=(READY, LEAVING, BROKEN))], tcp=tcp)
        return {address for address, _ in found[(protocol, *VIP)]} if found else None

    assert asked("udp") == asked("sctp") == {READY.address, LEAVING.address}
    assert asked("tcp") is None
    assert asked("tcp", tcp=True) == {READY.address, LEAVING.address, BROKEN.address}


def test_only_changed_targets_are_looked_at() -> None:
    one, two = frozenset([POD]), frozenset([POD, GONE])
    port = ("udp", *VIP)
    assert changed({port: one}, {port: one}) == {}
    assert changed({port: one}, {port: two}) == {port: two}
    assert changed({port: one}, {}) == {port: NOBODY}


@pytest.mark.parametrize(("flags", "complaint"), [
    ({"proxy-mode": "userspace"}, "--proxy-mode: userspace"),
    ({"proxy-mode": "magic"}, "--proxy-mode: 'magic'"),
    ({"cluster-cidr": "10.244.0.1/16"}, "--cluster-cidr"),
    ({"nodeport-addresses": ("some",)}, "--nodeport-addresses: 'some'"),
    ({"nodeport-addresses": ("primary", "all")}, "goes with nothing but `localhost`"),
    ({"nodeport-addresses": ("primary", "10.0.0.0/8")}, "`primary` goes with nothing but `localhost`"),
    ({"detect-local-mode": "Guess"}, "--detect-local-mode: 'Guess'"),
    ({"detect-local-mode": "BridgeInterface"}, "--pod-bridge-interface: ''"),
    ({"detect-local-mode": "InterfaceNamePrefix", "pod-interface-name-prefix": 've"th'}, "--pod-interface-name-prefix"),
    ({"iptables-masquerade-bit": 32}, "--iptables-masquerade-bit: 32"),
    ({"bind-address": "here"}, "--bind-address: 'here'"),
    ({"oom-score-adj": -1001}, "--oom-score-adj"),
    ({"conntrack-tcp-timeout-established": "long"}, "--conntrack-tcp-timeout-established"),
    ({"nodeport-addresses": ("all", "10.0.0.0/8")}, "`all` goes with nothing but `localhost`"),
    ({"healthz-bind-address": "here:there"}, "--healthz-bind-address"),
    ({"metrics-bind-address": "127.0.0.1:99999"}, "--metrics-bind-address"),
    ({"iptables-min-sync-period": "soon"}, "--iptables-min-sync-period"),
    ({"iptables-sync-period": "0s"}, "--iptables-sync-period: '0s' is not more than 0"),
    ({"iptables-min-sync-period": "31s"}, "--iptables-min-sync-period: '31s' is more than --iptables-sync-period"),
    ({"feature-gates": ("A=true,B=perhaps",)}, "--feature-gates: B=perhaps"),
])
def test_wrong_flags_are_named(flags: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        settings.build(flags)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"
                    "clusterCIDR: 10.1.0.0/16,fd44::/48\nhostnameOverride: File\nnodePortAddresses: [192.168.0.0/16]\n"
                    "metricsBindAddress: 0.0.0.0:1\nclientConnection: {kubeconfig: /k}\n"
                    "nftables: {minSyncPeriod: 1m30s, syncPeriod: 2m, masqueradeAll: true}\n")
    made = settings.build({"hostname-override": "Flag", "healthz-bind-address": ""}, settings.read_file(str(path)))
    assert (made.node, made.kubeconfig, made.masquerade_all, made.min_sync_period) == ("flag", "/k", True, 90.0)
    assert (made.healthz, made.metrics) == (None, settings.Listen("0.0.0.0", 1))
    assert [family.value for family in made.families] == [4, 6]
    assert [str(network) for network in made.node_port_addresses] == ["192.168.0.0/16"]


def test_the_file_written_says_the_same_when_read(tmp_path: Path) -> None:
    path = tmp_path / "written.json"
    flags = {"cluster-cidr": "10.1.0.0/16", "nodeport-addresses": ("10.0.0.0/8",), "masquerade-all": True, "oom-score-adj": 5,
             "iptables-min-sync-period": "500us", "feature-gates": ("A=true,B=false",),
             "detect-local-mode": "BridgeInterface", "pod-bridge-interface": "cni0"}
    path.write_text(json.dumps(settings.to_document(settings.build(flags))))
    again = settings.build({}, settings.read_file(str(path)))
    for name in ("cluster_cidrs", "locality", "node_port_addresses", "masquerade_all", "min_sync_period", "conntrack"):
        assert getattr(again, name) == getattr(settings.build(flags), name)
    assert again.locality.interface == "cni0"
    assert again.unused == ("--feature-gates: there are no gates here",)
    assert json.loads(path.read_text())["featureGates"] == {"A": True, "B": False}


def test_a_file_as_kubeadm_writes_it_asks_for_the_defaults() -> None:
    """With every field in it, and zeros and nulls in most: a period of 0 would have been a loop without a rest."""
    zeros = {"syncPeriod": "0s", "minSyncPeriod": "0s", "masqueradeAll": False, "masqueradeBit": None}
    made = settings.build({}, {
        "kind": settings.KIND, "apiVersion": settings.API_VERSION, "mode": "", "bindAddress": "0.0.0.0", "healthzBindAddress": "",
        "clientConnection": {"acceptContentTypes": "", "burst": 0, "contentType": "", "kubeconfig": "/k", "qps": 0},
        "configSyncPeriod": "0s", "nftables": zeros, "iptables": {**zeros, "localhostNodePorts": None},
        "ipvs": {"syncPeriod": "0s"},
        "conntrack": {"maxPerCore": None, "tcpEstablishedTimeout": None, "udpTimeout": "0s"}, "nodePortAddresses": None,
        "logging": {"flushFrequency": 0, "verbosity": 4, "vmodule": [{"filePattern": "agent", "verbosity": 2}],
                    "options": {"json": {"infoBufferSize": "0"}}},
        "featureGates": {}, "portRange": "", "winkernel": {"enableDSR": False}, "oomScoreAdj": None})
    plain = settings.build({})
    assert (made.sync_period, made.min_sync_period, made.conntrack) == (30.0, 1.0, plain.conntrack)
    assert (made.healthz, made.oom_score_adj, made.unused) == (plain.healthz, -999, ())
    assert (made.verbosity, made.vmodule) == (4, "agent=2")


def test_the_families_are_all_unless_the_pods_networks_say_which() -> None:
    assert settings.build({"detect-local-mode": "NodeCIDR"}).families == tuple(Family)
    assert settings.build({"cluster-cidr": "fd00::/48"}).families == (Family.IPV6,)


def test_who_is_told_only_where_the_api_is_asks_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert open_client(settings.build({"master": "http://192.0.2.1:8080"})).config == KubeConfig("http://192.0.2.1:8080")
    with pytest.raises(UserError, match="--kubeconfig: not given"):
        open_client(settings.build({}))


def test_where_the_node_is_ipv6_it_listens_there() -> None:
    made = settings.build({"bind-address": "::", "metrics-bind-address": "127.0.0.1:1"})
    assert (made.healthz, made.metrics) == (settings.Listen("::", 10256), settings.Listen("127.0.0.1", 1))


def test_node_ports_on_loopback_are_refused_by_name_where_there_are_none() -> None:
    asked = {"iptables-localhost-nodeports": True, "nodeport-addresses": ("127.0.0.0/8,::1/128",)}
    here = settings.build({**asked, "proxy-mode": "iptables"})
    assert (here.loopback_node_ports, len(here.unused)) == (True, 1)
    for mode in ("nftables", "ipvs"):
        made = settings.build({**asked, "proxy-mode": mode})
        assert not made.loopback_node_ports
        assert [line.endswith(f"{mode} mode has no NodePorts on loopback") for line in made.unused] == [True] * 3
    for addresses in ("0.0.0.0/0", "127.0.0.1/32"):
        assert settings.build({"proxy-mode": "iptables", "nodeport-addresses": (addresses,)}).loopback_node_ports
    for addresses in ("10.0.0.0/8", "primary", "::/0"):
        assert not settings.build({"proxy-mode": "iptables", "nodeport-addresses": (addresses,)}).loopback_node_ports


@pytest.mark.parametrize(("words", "expected"), [
    (("localhost",), ["127.0.0.0/8"]), (("primary",), ["192.0.2.1/32"]),
    (("primary,localhost",), ["127.0.0.0/8", "192.0.2.1/32"]),
    (("10.0.0.0/8", "localhost"), ["10.0.0.0/8", "127.0.0.0/8"]), (("all", "localhost"), []),
])
def test_words_for_addresses_of_node_ports(words: tuple[str, ...], expected: list[str]) -> None:
    made = settings.build({"proxy-mode": "iptables", "nodeport-addresses": words})
    assert made.loopback_node_ports is ("localhost" in ",".join(words))
    status = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
    found = settled(made, msgspec.convert({"metadata": {"name": "n"}, "spec": {}, "status": status}, Node))
    assert found
    assert [str(network) for network in found.node_port_addresses] == expected


def test_what_has_no_effect_is_told() -> None:
    made = settings.build({"kube-api-qps": 50.0}, {
        "mode": "nftables", "nftables": {"masqueradeBit": 15}, "iptables": {"syncPeriod": "1s"}, "ipvs": {"scheduler": "rr"},
        "featureGates": {"New": True}, "conntrack": {"max": 7}, "windowsRunAsService": False})
    assert made.masquerade_mark == 0x8000
    assert made.unused == (
        "--feature-gates: there are no gates here", "--kube-api-qps: the client has no such limit",
        "--config: conntrack.max: not a field that has an effect here",
    )


@pytest.mark.parametrize(("text", "expected"), [
    ("0.0.0.0:10256", ("0.0.0.0", 10256)), ("127.0.0.1", ("127.0.0.1", 5)), ("[::1]:80", ("::1", 80)), ("::1", ("::1", 5)),
    (":9", ("0.0.0.0", 9)),
])
def test_listen(text: str, expected: tuple[str, int]) -> None:
    made = settings.parse_listen(text, "--x", 5)
    assert made
    assert (made.host, made.port) == expected


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}))
    with pytest.raises(UserError, match="not a KubeProxyConfiguration"):
        settings.read_file(str(path))


def test_the_command_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(command, ["--proxy-mode", "userspace"])
    assert result.exception
    assert entry.report(result.exception, "kube-proxy-py") == 2
    assert "--proxy-mode: userspace" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ("-v=2", "--cleanup=false"), ("--proxy_mode=nftables", "-v", "2"), ("--log-json-info-buffer-size=0",),
    ("--log-text-split-stream", "--version=false"),
    ("--feature-gates=A=true", "--feature-gates", "B=false"), ("--init-only=false", "--dry-run=F"),
])
def test_flags_are_taken_as_go_takes_them(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "written"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kube-proxy-py", *words, f"--write-config-to={path}"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code, path.exists()) == (0, True)


def test_where_the_configuration_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(command, ["--write-config-to", "/nowhere/at/all"])
    assert entry.report(result.exception or Exception(), "kube-proxy-py") == 2
    assert "--write-config-to: /nowhere/at/all: No such file" in capsys.readouterr().err


def test_this_proxy_is_ours() -> None:
    """The package of PyPI's proxy.py has the same name."""
    import proxy

    assert Path(proxy.__file__).parent == Path(__file__).parents[2] / "proxy"


@pytest.mark.parametrize("value", [5, True, "x", [1], {"a": 1}, [{"a": 1}], 1.5, "\n", float("nan")])
def test_whatever_the_file_says_is_taken_or_named(value: object) -> None:
    for flag in filter(lambda flag: flag.field, settings.FLAGS):
        *sections, name = flag.path("nftables")
        document: dict = {name: value}
        for section in reversed(sections):
            document = {section: document}
        with suppress(UserError):
            settings.build({}, document)
