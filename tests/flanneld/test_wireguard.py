"""The wireguard backend: its keys, and what it decides."""

from __future__ import annotations

import json
import signal
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from backend_rows import WG_PSK, RowNode, laid, reach
from backend_rows import wireguard as wireguard_row
from hypothesis import given, settings
from hypothesis import strategies as st
from site_of_nodes import until

from flanneld_py import x25519
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.wireguard import WireguardBackend, choose_endpoint, parse_wireguard
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part, encode_lease
from flanneld_py.netconf import parse_netconf
from flanneld_py.wgkey import key_file, read_or_make_key
from nodecore.errors import Denied, UserError
from nodecore.kernel.diff import plan_changes
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.model import Address, Link, NetState, Route, Wireguard, WireguardPeer, scope_of
from nodecore.net import Family

FOUR, SIX = Family.IPV4, Family.IPV6
NETWORK = {"Network": "10.5.0.0/16"}
DUAL = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:5::/48"}
PSK = WG_PSK


# Keys: RFC 7748, section 5.2


@pytest.mark.parametrize(("scalar", "point", "product"), [
    ("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"),
    ("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"),
])
def test_rfc_7748_vectors(scalar: str, point: str, product: str) -> None:
    assert x25519.multiply(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == product


def test_rfc_7748_iterated() -> None:
    once = x25519.multiply(x25519.BASE_POINT, x25519.BASE_POINT)
    assert once.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_public_keys_are_those_of_an_independent_library(secret: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    assert x25519.public_key(secret) == X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "wgkey"
    key = read_or_make_key(path)
    assert (stat.S_IMODE(path.stat().st_mode), b64decode(path.read_bytes()), list(path.parent.iterdir())) == (0o600, key, [path])
    assert x25519.clamp(key) == key
    assert read_or_make_key(path) == key


def test_a_rehearsal_writes_no_key(tmp_path: Path) -> None:
    assert len(read_or_make_key(tmp_path / "wgkey", write=False)) == 32
    assert not list(tmp_path.iterdir())


def test_a_key_as_flannel_or_wg_wrote_it_is_kept(tmp_path: Path) -> None:
    for ending in ("", "\n"):
        (tmp_path / "wgkey").write_text(PSK + ending)
        assert read_or_make_key(tmp_path / "wgkey") == bytes(range(32))


@pytest.mark.parametrize("text", ["", "short", PSK[:-4], "=" * 44, PSK + PSK])
def test_a_broken_key_file_is_named_and_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wgkey"
    path.write_text(text)
    with pytest.raises(UserError, match=f"WIREGUARD_KEY_FILE: {path}: not a WireGuard key"):
        read_or_make_key(path)
    assert path.read_text() == text


def test_a_key_file_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "wgkey"):
        with pytest.raises(Denied, match="WIREGUARD_KEY_FILE"):
            read_or_make_key(path)


def test_where_the_key_is() -> None:
    assert [str(key_file(env)) for env in ({}, {"WIREGUARD_KEY_FILE": "/etc/wg"})] == ["/run/flannel/wgkey", "/etc/wg"]


# What is decided


def backend(config: dict[str, Any] = NETWORK, **options: Any) -> WireguardBackend:
    conf = parse_netconf(json.dumps({**config, "Backend": {"Type": "wireguard", **options}}))
    chosen = parse_backend(conf)
    assert isinstance(chosen, WireguardBackend)
    return replace(chosen, private_key=bytes([8] * 32))


def underlay(*families: Family) -> Underlay:
    here = {FOUR: ip_address("192.168.77.1"), SIX: ip_address("fd77::1")}
    chosen = {family: here[family] for family in families or (FOUR,)}
    return Underlay("eth0", 1500, chosen, chosen)


def key(number: int) -> str:
    return b64encode(bytes([number]) * 32).decode()


def lease(number: int, told: str | None = None, *, dual: bool = False, six: str = "") -> Lease:
    data = {"PublicKey": key(number) if told is None else told}
    parts = [Part(ip_network(f"10.5.{number}.0/24"), ip_address(f"192.168.77.{number}"), data)]
    if dual:
        parts.append(Part(ip_network(f"fd00:5:0:{number:x}::/64"), ip_address(six or f"fd77::{number:x}"), data))
    return Lease(tuple(parts), "wireguard")


def test_a_device_a_route_to_the_network_and_a_peer() -> None:
    chosen = backend(PSK=PSK, PersistentKeepaliveInterval=25)
    assert chosen.desired(lease(1), [lease(1), lease(2)], underlay()) == NetState(
        links=frozenset({Link("flannel-wg", Wireguard(bytes([8] * 32), 51820), 1420)}),
        addresses=frozenset({Address("flannel-wg", ip_address("10.5.1.0"), 32)}),
        routes=frozenset({Route(ip_network("10.5.0.0/16"), "flannel-wg")}),
        peers=frozenset({WireguardPeer("flannel-wg", key(2), (ip_address("192.168.77.2"), 51820),
                                       frozenset({ip_network("10.5.2.0/24")}), 25, bytes(range(32)))}),
    )
    assert (chosen.untracked_ports, chosen.mtu(underlay())) == ((51820, 51821), 1420)


def test_separate_has_a_device_a_family() -> None:
    chosen = backend(DUAL, ListenPort=1000, ListenPortV6=1001, MTU=1400)
    state = chosen.desired(lease(1, dual=True), [lease(2, dual=True)], underlay(FOUR, SIX))
    assert {(link.name, link.mtu, link.tunnel.port) for link in state.links if isinstance(link.tunnel, Wireguard)} == {
        ("flannel-wg", 1320, 1000), ("flannel-wg-v6", 1320, 1001)}
    assert {(peer.link, peer.endpoint, peer.allowed) for peer in state.peers} == {
        ("flannel-wg", (ip_address("192.168.77.2"), 1000), frozenset({ip_network("10.5.2.0/24")})),
        ("flannel-wg-v6", (ip_address("fd77::2"), 1001), frozenset({ip_network("fd00:5:0:2::/64")})),
    }
    assert {(route.link, str(route.dst)) for route in state.routes} == {
        ("flannel-wg", "10.5.0.0/16"), ("flannel-wg-v6", "fd00:5::/48")}


@pytest.mark.parametrize(("mode", "where"), [("ipv4", "192.168.77.2"), ("ipv6", "fd77::2"), ("auto", "192.168.77.2")])
def test_the_other_modes_have_one_device_for_both(mode: str, where: str) -> None:
    chosen = backend(DUAL, Mode=mode)
    state = chosen.desired(lease(1, dual=True), [lease(2, dual=True)], underlay(FOUR, SIX))
    (link,) = state.links
    (peer,) = state.peers
    assert (link.name, chosen.untracked_ports) == ("flannel-wg", (51820,))
    assert (peer.endpoint, peer.allowed) == (
        (ip_address(where), 51820), frozenset({ip_network("10.5.2.0/24"), ip_network("fd00:5:0:2::/64")}))
    assert {str(address.address) for address in state.addresses} == {"10.5.1.0", "fd00:5:0:1::"}
    assert {str(route.dst) for route in state.routes} == {"10.5.0.0/16", "fd00:5::/48"}


@pytest.mark.parametrize(("four", "six", "ours", "chosen"), [
    ("8.8.8.8", "2001:db8::2", "2001:db8::1", "8.8.8.8"),
    ("10.0.0.2", "2001:db8::2", "2001:db8::1", "2001:db8::2"),
    ("10.0.0.2", "fd77::2", "2001:db8::1", "10.0.0.2"),
    ("10.0.0.2", "2001:db8::2", "fd77::1", "10.0.0.2"),
    ("10.0.0.2", "2001:db8::2", "", "10.0.0.2"),
    ("", "2001:db8::2", "fd77::1", "2001:db8::2"),
    ("10.0.0.2", "", "", "10.0.0.2"),
])
def test_auto_takes_the_likelier_way(four: str, six: str, ours: str, chosen: str) -> None:
    parts = [Part(ip_network(net), ip_address(text)) for net, text in (("10.5.2.0/24", four), ("fd00:5::/64", six)) if text]
    here = {FOUR: ip_address("10.0.0.1")} | ({SIX: ip_address(ours)} if ours else {})
    assert choose_endpoint(parts, "auto", here) == ip_address(chosen)


def test_of_leases_that_lie_only_the_first_counts() -> None:
    own = lease(1, backend().identity)
    liars = [lease(2), lease(3, key(2)), lease(4, backend().identity), lease(5, "nonsense"), lease(6, ""), lease(7)]
    broken = Lease((Part(ip_network("10.5.8.0/24"), ip_address("192.168.77.8"), {"PublicKey": 5}),), "wireguard")
    peers = backend().desired(own, [*liars, broken], underlay()).peers
    assert {peer.public_key for peer in peers} == {key(2), key(7)}


def test_a_lease_is_byte_for_byte_flannels() -> None:
    chosen = backend()
    own = Lease((replace(lease(1).parts[0], data=chosen.lease_data(FOUR, chosen.identity)),), chosen.lease_type)
    assert json.loads(encode_lease(own)) == {
        "PublicIP": "192.168.77.1", "PublicIPv6": None, "BackendType": "wireguard", "BackendData": {"PublicKey": chosen.identity}}


@pytest.mark.parametrize(("options", "words"), [
    ({"Mode": "both"}, r"Backend.Mode: 'both' is not one of separate, auto, ipv4, ipv6"),
    ({"ListenPort": 0}, r"Backend.ListenPort: 0 is not between 1 and 65535"),
    ({"ListenPortV6": 65536}, r"Backend.ListenPortV6: 65536 is not"),
    ({"MTU": -1}, r"Backend.MTU: -1 is not"),
    ({"PersistentKeepaliveInterval": 70000}, r"Backend.PersistentKeepaliveInterval: 70000 is not"),
    ({"PSK": "secret"}, r"Backend.PSK: not a WireGuard key"),
])
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_wireguard(parse_netconf(json.dumps({**NETWORK, "Backend": options})))
    assert "secret" not in str(caught.value)


def test_a_mode_needs_its_family() -> None:
    with pytest.raises(UserError, match="Mode: 'ipv6' needs EnableIPv6"):
        backend(Mode="ipv6").check(underlay())
    backend(Mode="auto").check(underlay())


def test_secrets_are_in_no_text() -> None:
    chosen = backend(PSK=PSK)
    text = f"{chosen!r} {chosen.desired(lease(1), [lease(2)], underlay())!r}"
    assert PSK not in text
    assert repr(bytes(range(32)))[2:-1] not in text
    assert repr(chosen.private_key)[2:-1] not in text


async def test_a_peer_with_a_new_key_replaces_itself() -> None:
    chosen, network = backend(), FakeNetwork()
    for others in ([lease(2), lease(3)], [lease(2, key(9)), lease(3)], [lease(3)]):
        wanted = chosen.desired(lease(1), others, underlay())
        await network.apply(plan_changes(await network.read(scope_of(wanted)), wanted))
        assert await network.read(scope_of(wanted)) == wanted
    gone = f"wireguard peer {key(9)} endpoint 192.168.77.2:51820 allowed-ips 10.5.2.0/24 dev flannel-wg"
    assert network.applied[-1].describe() == f"delete {gone}"


# What only this backend has: where packets go is asked in `test_every_backend.py`


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RowNode, RowNode]]:
    with laid(wireguard_row("ipv4"), tmp_path_factory.mktemp("wireguard")) as (one, two, _):
        yield one, two


@pytest.mark.kernel
@pytest.mark.etcd
@pytest.mark.slow
class TestKeys:
    def test_they_are_used_and_told_to_nobody(self, pair: tuple[RowNode, RowNode]) -> None:
        one, _ = pair
        assert int(one.sh("wg show flannel-wg latest-handshakes").split()[1]) > 0
        private = one.directory / "wgkey"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert private.read_text() not in one.log.read_text()
        assert WG_PSK not in one.log.read_text()

    def test_a_new_one_is_told_and_taken(self, pair: tuple[RowNode, RowNode]) -> None:
        one, two = pair
        before = two.sh("wg show flannel-wg peers")
        one.stop(signal.SIGKILL)
        (one.directory / "wgkey").unlink()
        one.start()
        until(lambda: two.sh("wg show flannel-wg peers") != before, "the peer has the new key")
        reach(one, two, 30)
        until(lambda: len(two.sh("wg show flannel-wg peers").split()) == 1, "and not the old one")
