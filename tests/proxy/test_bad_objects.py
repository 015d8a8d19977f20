"""Objects that cannot be right, by the thousand: nothing of them reaches the text of a rule, and each is skipped and named."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from proxy_net import endpoints, service

from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from nodecore.kube.objects import EndpointSlice, Service
from nodecore.net import Family
from proxy.config import Locality
from proxy.ledger import Ledger
from proxy.render import iptables, nftables
from proxy.render.settings import Settings
from proxy.services import Skipped
from proxy.snapshot import Snapshot

SETTINGS = Settings(Locality((ip_network("10.244.0.0/16"), ip_network("fd44::/48"))), count_traffic=True)
GOOD = ("10.96.0.1", "10.96.0.2", "fd96::1", "10.244.1.5", "fd44::5")
EVIL = "} ; flush ruleset ; add element ip kube-proxy-py x { "
NAMES = st.just("web") | st.just("web") | st.sampled_from([
    "a b", EVIL, "-j ACCEPT", "x\nCOMMIT\n*nat\n-F", "$(reboot)", "é" * 300, "", "a/b", "\0"])
ADDRESSES = st.one_of(st.sampled_from(GOOD), st.sampled_from(GOOD), st.sampled_from([
    "127.0.0.1", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "fd96::1%} ; flush ruleset", "0.0.0.0", "::",
    "224.0.0.1", "255.255.255.255", "ff02::1", "10.96.0.1/24", "10.96.0.1\nflush ruleset", " 10.96.0.1", "10.96.0.01",
    "\u0661\u0660.96.0.1", "None", "", EVIL, "::ffff:10.96.0.1", "10.96.0.1 . tcp . 80 : accept", "0x0a600001",
]), st.text(max_size=20))
PORTS = st.one_of(st.integers(1, 65535), st.sampled_from([0, -1, 65536, 70000, 2**31, 2**63 - 1]))
PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP"]) | st.sampled_from(["tcp", "ICMP", "", EVIL, "tcp . 80 : accept"])
TYPES = st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", EVIL])
POLICIES = st.sampled_from(["Cluster", "Local", "", EVIL])

SERVICES = st.builds(
    lambda name, vip, ports, spec, ingress, timeout: service(name, vip, *ports, **spec, sessionAffinityConfig={
        "clientIP": {"timeoutSeconds": timeout}}) | {"status": {"loadBalancer": {"ingress": [
            {"ip": address, "ipMode": "VIP"} for address in ingress]}}},
    NAMES, ADDRESSES, st.lists(st.tuples(NAMES, PROTOCOLS, PORTS, PORTS), min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional={
        "type": TYPES, "externalIPs": st.lists(ADDRESSES, max_size=3), "externalTrafficPolicy": POLICIES,
        "internalTrafficPolicy": POLICIES, "sessionAffinity": st.sampled_from(["None", "ClientIP", EVIL]),
        "loadBalancerSourceRanges": st.lists(ADDRESSES, max_size=3), "healthCheckNodePort": PORTS}),
    st.lists(ADDRESSES, max_size=2), st.one_of(PORTS, st.integers(-5, 10**6)),
)
SLICES = st.builds(
    lambda name, members, ports, kind, node: endpoints(name, ports=tuple(ports)) | {
        "addressType": kind, "endpoints": [{"addresses": found, "nodeName": node} for found in members]},
    NAMES, st.lists(st.lists(ADDRESSES, min_size=1, max_size=2), min_size=1, max_size=4),
    st.lists(st.tuples(NAMES, PROTOCOLS, PORTS), min_size=1, max_size=3),
    st.just("IPv4") | st.just("IPv6") | st.sampled_from(["FQDN", EVIL]), st.one_of(st.none(), st.just("node-1"), NAMES),
)
OBJECTS = st.lists(st.one_of(SERVICES, SLICES), min_size=2, max_size=8)
WORD = re.compile(r"[A-Za-z0-9.:/@!=<>_-]+|\"[a-z0-9-]+\"|[{}(),;&]")
LAYOUTS = [kind(family, SETTINGS) for kind in (nftables.Layout, iptables.Layout) for family in Family]


def fold(layout: nftables.Layout | iptables.Layout, objects: list[dict]) -> tuple[Ledger, list[Skipped]]:
    snapshot, ledger, skipped = Snapshot("node-1"), Ledger(), []
    for index, item in enumerate(objects):
        if item["kind"] == "Service":
            snapshot.put_service(f"default/{item['metadata']['name']}", msgspec.convert(item, Service))
        else:
            snapshot.put_slice(f"default/{index}", msgspec.convert(item, EndpointSlice))
    for key in sorted(snapshot.dirty):
        routes, problems = snapshot.routes(key, layout.family)
        skipped += problems
        ledger.put(key, [fragment for route in routes for fragment in layout.fragments(route)])
    return ledger, skipped


def addresses_in(text: str) -> set[str]:
    found = set()
    for word in re.split(r"[ ,{}\n]+", text):
        try:
            found.add(str(ip_address(word.strip("[]"))))
        except ValueError:
            continue
    return found


ZONE = "fd96::1%} ; flush ruleset"  # an address, as Python reads it
IN_A_ZONE = [
    service("web", "fd96::1", ("web", "TCP", 80, 8080), type="LoadBalancer", externalIPs=[ZONE],
            loadBalancerSourceRanges=["fd96::%} ; flush ruleset/64"])
    | {"status": {"loadBalancer": {"ingress": [{"ip": "fd96::2"}]}}},
    endpoints("web", ZONE, ports=(("web", "TCP", 8080),)) | {"addressType": "IPv6"},
]


@settings(max_examples=80, deadline=None)
@example(objects=IN_A_ZONE)
@given(objects=OBJECTS)
def test_no_word_of_an_object_becomes_a_word_of_a_rule(objects: list[dict]) -> None:
    for layout in LAYOUTS:
        ledger, skipped = fold(layout, objects)
        empty = layout.full_script(Ledger().everything())
        text = layout.full_script(ledger.everything())
        assert text.count("flush") == empty.count("flush") == 0
        for line in text.splitlines():
            assert not WORD.sub("", line).strip(" *#[]"), line
        for address in addresses_in(text) - addresses_in(empty):
            judged = ip_address(address)
            assert not any((judged.is_loopback, judged.is_link_local, judged.is_multicast)), address
            assert not address.startswith(("255.255.255.255", "::ffff:")), address
        assert all(item.reason and "\n" not in f"{item.reason!r}" for item in skipped)


@pytest.mark.kernel
@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(objects=OBJECTS)
def test_the_kernel_takes_what_is_left_of_them(space: Netns, objects: list[dict]) -> None:
    nft = Nft(command=("nsenter", f"--net={space.path}", "nft"))
    for family in Family:
        layout = nftables.Layout(family, SETTINGS)
        asyncio.run(nft.load(layout.full_script(fold(layout, objects)[0].everything())))
    assert space.run(["nft", "list", "tables"]).stdout.split("\n")[:2] == ["table ip kube-proxy-py", "table ip6 kube-proxy-py"]


@pytest.fixture(scope="module")
def space() -> Netns:
    with Netns.create() as made:
        yield made
