"""Whatever somebody wrote where we read: never a traceback, always the mistake named, and what we wrote reads back the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flanneld_py.alloc import OutOfSubnets, choose_subnets, fits
from flanneld_py.backends.choice import PARSERS, parse_backend
from flanneld_py.lease import TEXT, Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from flanneld_py.store.annotations import Annotations, pod_subnets
from nodecore.errors import Fault, Invalid, UserError
from nodecore.net import Family

NAMES = Annotations.named("flannel.alpha.coreos.com")
QUICK = settings(max_examples=60, deadline=None)

ODD = st.sampled_from(["", "0.0.0.0", "::", "10.5.0.0/16", "1.2.3"])
ADDRESSES = st.one_of(st.ip_addresses().map(str), st.text(max_size=8), ODD)
NETWORKS = st.one_of(st.builds("{}/{}".format, st.ip_addresses(), st.integers(-1, 130)), ADDRESSES)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 70000), st.floats(), st.text(max_size=8), NETWORKS)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6)
DEEP = "[" * 100_000


def refusal(ask: Callable[[], Any], kind: type[Fault]) -> str:
    """The words it is refused with, none if it is not; any other exception is a failure of the test."""
    words = ""
    try:
        ask()
    except kind as fault:
        words = str(fault) or "?"
    assert "\n" not in words
    assert len(words) < 400
    return words


def objects(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the keys that mean something, and any value."""
    return st.dictionaries(st.sampled_from(keys), ANYTHING, max_size=len(keys))


BACKENDS = st.builds(
    lambda kind, options: options | {"Type": kind}, st.sampled_from([*PARSERS, "tencent-vpc", "", 3]),
    objects("VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting", "PSK", "ListenPort", "Mode", "PersistentKeepaliveInterval",
            "UDPEncap", "ESPProposal", "PreStartupCommand", "SubnetAddCommand"),
)
GOOD = st.fixed_dictionaries({"Network": st.just("10.5.0.0/16"), "Backend": BACKENDS})
CONFIGS = st.one_of(GOOD, objects(
    "Network", "IPv6Network", "EnableIPv4", "EnableIPv6", "EnableNFTables", "SubnetLen", "SubnetMin", "SubnetMax",
    "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend", "network", "BACKEND",
))


@QUICK
@given(st.one_of(CONFIGS.map(json.dumps), ANYTHING.map(json.dumps), st.text(max_size=20)))
@example(DEEP)
@example('{"Network":' + DEEP)
@example('{"Network":"10.5.0.0/16","SubnetLen":' + "9" * 5000 + "}")
@example('{"Network":"10.5.0.0/16","SubnetLen":1e400}')
@example('{"Network":"0.0.0.0/0","SubnetLen":2}')
@example('{"Network":"10.5.0.0/16","Backend":null}')
def test_a_network_configuration_is_read_or_refused_in_one_line(text: str) -> None:
    words = refusal(lambda: parse_backend(parse_netconf(text)), UserError)
    assert not words or words.startswith("network config: ")


LEASES = objects("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data")
KEYS = st.one_of(
    st.sampled_from(["10.5.1.0-24", "0.0.0.0-0&fd00:5:1::-64", "10.5.1.0-24&fd00:5:1::-64", "10.5.1.1-24", "10.5.1.0-024"]),
    st.builds("{}-{}".format, ADDRESSES, st.integers(-1, 130)), st.text(max_size=12),
)


@QUICK
@given(KEYS, st.one_of(LEASES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)))
@example("10.5.1.0-24", DEEP.encode())
@example("10.5.1.0-" + "9" * 5000, b"{}")
def test_a_lease_is_read_or_refused_by_name(key: str, value: bytes) -> None:
    words = refusal(lambda: decode_lease(key, value), Invalid)
    if words:
        assert words.startswith("lease ")
        return
    lease = decode_lease(key, value)
    assert decode_lease(lease.key, encode_lease(lease)) == lease
    for part in lease.parts:
        assert part.public_ip is None or Family.of(part.public_ip) is part.family


ANNOTATIONS = st.dictionaries(
    st.sampled_from([NAMES.prefix + name for name in (
        "kube-subnet-manager", "backend-type", "backend-data", "backend-v6-data", "public-ip", "public-ipv6",
        "public-ip-overwrite", "node-public-ip", "node-public-ipv6")]),
    st.one_of(st.just("true"), ADDRESSES, ANYTHING.map(json.dumps)),
)


@QUICK
@given(ANNOTATIONS, st.one_of(st.just(""), NETWORKS), st.lists(NETWORKS, max_size=3))
@example({NAMES.prefix + "kube-subnet-manager": "true", NAMES.prefix + "public-ip": "10.0.0.1",
          NAMES.prefix + "backend-data": DEEP}, "10.5.1.0/24", [])
def test_a_nodes_annotations_are_read_or_refused_by_name(told: dict[str, str], cidr: str, cidrs: list[str]) -> None:
    told = {NAMES.prefix + "kube-subnet-manager": "true", **told}
    words = refusal(lambda: NAMES.decode(told, pod_subnets(cidr, cidrs)), Invalid)
    assert not words or words.startswith(("annotation flannel.alpha.coreos.com/", "spec.podCIDRs: "))
    for family in Family:
        for read in (NAMES.overwritten, NAMES.stored):
            words = refusal(lambda: read(told, family), UserError)  # noqa: B023
            assert not words or words.startswith("annotation flannel.alpha.coreos.com/")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
DATA = st.one_of(st.just({}), st.builds(lambda text: {TEXT: text}, TEXTS), st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=3))


@QUICK
@given(st.integers(0, 255), DATA, DATA, st.sampled_from(["vxlan", "host-gw", "extension"]), st.sampled_from([(4,), (6,), (4, 6)]))
def test_what_we_write_reads_back(number: int, four: Any, six: Any, backend: str, families: tuple[int, ...]) -> None:
    parts = {
        4: Part(ip_network(f"10.5.{number}.0/24"), ip_address(f"192.168.77.{number}"), four),
        6: Part(ip_network(f"fd00:5:0:{number:x}::/64"), ip_address(f"2001:db8::{number + 1:x}"), six),
    }
    lease = Lease(tuple(parts[family] for family in families), backend)
    assert decode_lease(lease.key, encode_lease(lease)) == lease
    told = NAMES.encode(lease)
    if backend != "vxlan" or all(part.data for part in lease.parts):
        assert NAMES.decode(told, {part.family: part.subnet for part in lease.parts}) == lease


def subnets_of(network: IPv4Network, longest: int) -> st.SearchStrategy[IPv4Network]:
    """Subnets of every length."""
    return st.integers(network.prefixlen + 1, longest).flatmap(
        lambda length: st.integers(0, (1 << (length - network.prefixlen)) - 1).map(
            lambda number: IPv4Network((int(network.network_address) + (number << (32 - length)), length))))


@QUICK
@given(st.integers(20, 26), st.integers(2, 4), st.data())
def test_a_choice_overlaps_nobody_and_is_allowed(length: int, bits: int, data: st.DataObject) -> None:
    """Whatever lengths the others' subnets have, and whatever was ours before; and only a full network has none left."""
    network = IPv4Network((0x0A050000, length))
    conf = parse_netconf(json.dumps({"Network": str(network), "SubnetLen": length + bits}))
    taken = data.draw(st.lists(subnets_of(network, 30), max_size=12))
    previous = data.draw(st.lists(subnets_of(network, 30), max_size=2))
    leases = [Lease((Part(subnet, ip_address(f"192.168.1.{number}"), {}),)) for number, subnet in enumerate(taken)]
    public = {Family.IPV4: ip_address("192.168.77.1")}
    left = [subnet for subnet in conf.blocks[0].subnets() if not any(subnet.overlaps(other) for other in taken)]
    try:
        choice = choose_subnets(conf, leases, public, previous, lambda count: data.draw(st.integers(0, count - 1)))
    except OutOfSubnets:
        assert left == []
        return
    (subnet,) = choice.subnets
    assert subnet in left
    assert fits(conf, Lease((Part(subnet, None, {}),)))
    if any(before in left for before in previous):
        assert subnet in previous


@pytest.mark.parametrize(("text", "prefix"), [
    ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"), ("example.com/", "example.com/"),
    ("example.com/net2", "example.com/net2-"), ("example.com/net2-", "example.com/net2-"),
])
def test_an_annotation_prefix(text: str, prefix: str) -> None:
    assert Annotations.named(text).prefix == prefix


@pytest.mark.parametrize("text", ["", "/", "org", "a/b/c", "Example.com", "example.com/Net", "example.com/a.b", ".com"])
def test_a_wrong_annotation_prefix_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"^--kube-annotation-prefix: "):
        Annotations.named(text)
