"""The pure parts: network configuration, leases, the choice of a subnet, rules, the difference of two states."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld_py.alloc import OutOfSubnets, choose_subnets, known_again
from flanneld_py.backends.vxlan import VxlanBackend, parse_vxlan
from flanneld_py.checksums import choose_deferral
from flanneld_py.iface import Underlay, Wishes, check_wishes, choose_underlay, follow_underlay
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from flanneld_py.plan import Features, Inputs, remarks
from flanneld_py.subnetfile import read_previous, render_subnet_file
from flanneld_py.tenure import renewal_delay
from nodecore.errors import Invalid, NotFound, Unreachable, UserError
from nodecore.kernel.diff import Put, Remove, plan_changes
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.model import Link, NetState, Route, scope_of
from nodecore.kernel.ports import Interface, Path
from nodecore.net import Family

PUBLIC = {Family.IPV4: ip_address("192.168.77.1")}
SAMPLE = (b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan",'
          b'"BackendData":{"VNI":1,"VtepMAC":"3a:9a:ba:bd:3d:7c"}}')


def lease(subnet: str, public: str, mac: str = "02:00:00:00:00:01") -> Lease:
    return Lease((Part(ip_network(subnet), ip_address(public), {"VNI": 1, "VtepMAC": mac}),))


# --- network configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "length", "first", "last"), [
    ('{"Network":"10.5.0.0/16"}', 24, "10.5.1.0", "10.5.255.0"),
    ('{"Network":"10.5.0.0/16","SubnetLen":20}', 20, "10.5.16.0", "10.5.240.0"),
    ('{"Network":"10.5.0.0/23"}', 25, "10.5.0.128", "10.5.1.128"),
    ('{"Network":"10.5.0.0/22"}', 24, "10.5.1.0", "10.5.3.0"),
    ('{"Network":"10.5.7.9/16"}', 24, "10.5.1.0", "10.5.255.0"),
    ('{"Network":"10.0.0.0/8","SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}', 24, "10.10.0.0", "10.99.0.0"),
    ('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}', 64, "fd00:5:0:1::", "fd00:5:0:ffff::"),
])
def test_netconf_defaults(text: str, length: int, first: str, last: str) -> None:
    block = parse_netconf(text).blocks[0]
    assert (block.length, str(block.first.network_address), str(block.last.network_address)) == (length, first, last)


def test_the_backend_defaults_to_udp_as_in_the_code() -> None:
    assert parse_netconf('{"Network":"10.5.0.0/16"}').backend == "udp"


@pytest.mark.parametrize(("text", "words"), [
    ("", "not JSON"),
    ("[]", "a JSON object is wanted"),
    ("{}", "Network is missing"),
    ('{"Network":"10.5.0.0"}', None),
    ('{"Network":"ten"}', "Network: 'ten' is not a network"),
    ('{"Network":"10.5.0.0/29"}', "too small"),
    ('{"Network":"fd00::/48"}', "not an IPv4 network"),
    ('{"Network":"10.5.0.0/16","SubnetLen":31}', "SubnetLen: 31 is too long"),
    ('{"Network":"10.5.0.0/16","SubnetLen":17}', "SubnetLen: 17 leaves too few"),
    ('{"Network":"10.5.0.0/16","SubnetLen":"24"}', 'SubnetLen: "24" is not a number'),
    ('{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}', "SubnetMin: 10.6.0.0 is not in"),
    ('{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.1"}', "not the start of a /24"),
    ('{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}', "is above"),
    ('{"Network":"10.5.0.0/16","EnableIPv4":false}', "nothing to do"),
    ('{"Network":"10.5.0.0/16","Backend":"vxlan"}', 'Backend: "vxlan" is not an object'),
])
def test_netconf_refusals(text: str, words: str | None) -> None:
    if words is None:
        text, words = text.replace("10.5.0.0", "10.5.0.0/33"), "not a network"
    with pytest.raises(UserError, match="network config") as caught:
        parse_netconf(text)
    assert words in str(caught.value)


@given(st.integers(8, 28), st.integers(0, 2**32 - 1), st.integers(2, 22))
def test_every_subnet_of_a_block_lies_in_it_and_is_allowed(prefix: int, address: int, more: int) -> None:
    length = min(30, prefix + min(more, 8))
    network = ip_network((address >> (32 - prefix) << (32 - prefix), prefix))
    block = parse_netconf(json.dumps({"Network": str(network), "SubnetLen": length})).blocks[0]
    found = list(block.subnets())
    assert len(found) == 2 ** (length - prefix) - 1, "all but the first"
    assert all(subnet.subnet_of(network) and block.allows(subnet) for subnet in found)
    assert not block.allows(ip_network((network.network_address, length)))


@pytest.mark.parametrize(("options", "words"), [
    ({"VNI": 1 << 24}, "Backend.VNI"), ({"Port": -1}, "Backend.Port"), ({"VNI": "1"}, "Backend.VNI"),
    ({"DirectRouting": 1}, "Backend.DirectRouting"),
])
def test_vxlan_option_refusals(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_vxlan(options)


# --- leases ------------------------------------------------------------------------------------------------------


def test_a_lease_is_byte_for_byte_as_go_flanneld_wrote_it() -> None:
    found = decode_lease("10.5.75.0-24", SAMPLE)
    assert found == lease("10.5.75.0/24", "192.168.77.1", "3a:9a:ba:bd:3d:7c")
    assert (found.key, encode_lease(found)) == ("10.5.75.0-24", SAMPLE)


def test_a_lease_of_two_families() -> None:
    both = Lease((
        Part(ip_network("10.5.75.0/24"), ip_address("192.0.2.1"), {"VNI": 1}),
        Part(ip_network("fd00:5:0:1::/64"), ip_address("2001:db8::1"), {"VNI": 1}),
    ))
    assert both.key == "10.5.75.0-24&fd00:5:0:1::-64"
    assert decode_lease(both.key, encode_lease(both)) == both


@given(st.text(), st.binary())
def test_no_key_or_value_breaks_the_reader(key: str, value: bytes) -> None:
    for name in (key, "10.5.1.0-24", "10.5.1.1-24", "10.5.1.0-99"):
        try:
            decode_lease(name, value)
        except Invalid:
            continue


@pytest.mark.parametrize(("value", "words"), [
    (b"[]", "is not an object"), (b"null", "is not an object"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"),
    (b'{"PublicIP":7}', "PublicIP: 7 is not an IPv4 address"), (b'{"PublicIP":"x"}', "PublicIP: 'x' is not an IPv4 address"),
    (b'{"PublicIP":"fd00::1"}', "PublicIP: 'fd00::1' is not an IPv4 address"), (b'{"BackendType":[7]}', "BackendType: [7]"),
    (b'{"BackendData":3}', "BackendData: 3"),
])
def test_values_that_make_no_sense_are_invalid(value: bytes, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode_lease("10.5.1.0-24", value)
    assert words in str(caught.value)
    assert "10.5.1.0-24" in str(caught.value)


# --- the choice --------------------------------------------------------------------------------------------------

CONF = parse_netconf('{"Network":"10.5.0.0/24","SubnetLen":28}')
NUMBERS = st.sets(st.integers(0, 15))


def taken_by(numbers: set[int]) -> list[Lease]:
    return [lease(f"10.5.0.{16 * number}/28", f"192.168.78.{number}") for number in sorted(numbers)]


@given(NUMBERS, st.integers(0, 15), st.integers(0, 99))
def test_a_choice_is_free_allowed_and_prefers_the_previous_one(numbers: set[int], before: int, dice: int) -> None:
    previous = ip_network(f"10.5.0.{16 * before}/28")
    free = set(range(1, 16)) - numbers
    if not free:
        with pytest.raises(OutOfSubnets):
            choose_subnets(CONF, taken_by(numbers), PUBLIC, [previous], lambda count: dice % count)
        return
    (subnet,) = choose_subnets(CONF, taken_by(numbers), PUBLIC, [previous], lambda count: dice % count).subnets
    assert int(subnet.network_address) % 256 // 16 in free
    assert CONF.blocks[0].allows(subnet)
    if before in free:
        assert subnet == previous


@given(NUMBERS, st.integers(1, 15))
def test_the_lease_with_our_address_wins(numbers: set[int], ours: int) -> None:
    mine = lease(f"10.5.0.{16 * ours}/28", "192.168.77.1")
    choice = choose_subnets(CONF, [*taken_by(numbers - {ours}), mine], PUBLIC, [], lambda count: 0)
    assert choice.existing == mine


def test_a_lease_that_no_longer_fits_is_not_taken_over_and_odd_sizes_block() -> None:
    leases = [lease("10.6.0.0/28", "192.168.77.1"), lease("10.5.0.0/25", "192.168.78.1")]
    choice = choose_subnets(CONF, leases, PUBLIC, [], lambda count: 0)
    assert (choice.existing, [str(subnet) for subnet in choice.subnets]) == (None, ["10.5.0.128/28"])


def test_a_lease_is_known_again_by_subnet_and_identity_together() -> None:
    old = lease("10.5.0.16/28", "192.168.77.99", "02:00:00:00:00:01")
    others = [Lease(()), lease("10.5.0.32/28", "192.168.77.2", "02:00:00:00:00:02")]

    def known(previous: str, mac: str) -> Lease | None:
        return known_again([*others, old], [ip_network(previous)], lambda part: part.data["VtepMAC"] == mac)

    assert known("10.5.0.16/28", "02:00:00:00:00:01") == old
    assert known("10.5.0.48/28", "02:00:00:00:00:01") is None
    assert known("10.5.0.16/28", "02:00:00:00:00:03") is None
    choice = choose_subnets(CONF, [*others, old], PUBLIC, [], lambda count: 0, old)
    assert (choice.existing, choice.subnets) == (old, (ip_network("10.5.0.16/28"),))


def test_the_random_choice_is_among_the_first_hundred() -> None:
    conf = parse_netconf('{"Network":"10.0.0.0/8"}')
    seen = []
    choose_subnets(conf, [], PUBLIC, [], lambda count: seen.append(count) or count - 1)
    assert seen == [100]


# --- the kernel state --------------------------------------------------------------------------------------------

UNDERLAY = Underlay("eth0", 1500, PUBLIC, PUBLIC, (ip_network("192.168.77.0/24"),))
OWN = lease("10.5.1.0/24", "192.168.77.1")


def peer(number: int, mac: int | None = None) -> Lease:
    return lease(f"10.5.{number}.0/24", f"192.168.77.{number}", f"02:00:00:00:01:{mac or number:02x}")


def test_what_makes_no_peer() -> None:
    alone = VxlanBackend().desired(OWN, [], UNDERLAY)
    for odd in (
        OWN, lease("10.5.9.0/24", "192.168.77.1"), replace(peer(9), backend="host-gw"), lease("10.5.9.0/24", "192.168.77.9", "?"),
        lease("10.5.0.0/16", "192.168.77.9"), Lease((Part(ip_network("10.5.9.0/24"), None, {}),)),
    ):
        assert VxlanBackend().desired(OWN, [odd], UNDERLAY) == alone


def test_direct_routing_takes_neighbours_without_a_tunnel() -> None:
    far = lease("10.5.9.0/24", "192.0.2.9", "02:00:00:00:01:09")
    state = VxlanBackend(direct_routing=True).desired(OWN, [peer(2), far], UNDERLAY)
    assert Route(ip_network("10.5.2.0/24"), "eth0", ip_address("192.168.77.2")) in state.routes
    assert Route(ip_network("10.5.9.0/24"), "flannel.1", ip_address("10.5.9.0"), onlink=True) in state.routes
    assert [str(entry.dst) for entry in state.fdb] == ["192.0.2.9"]


PEERS = st.sets(st.integers(2, 250), max_size=20)


@given(PEERS, PEERS)
@settings(max_examples=40, deadline=None)
def test_any_state_leads_to_any_other_and_stays_there(before: set[int], after: set[int]) -> None:
    async def scenario() -> None:
        network = FakeNetwork(Link("eth0", mtu=1500, mac="02:00:00:00:aa:01"))
        for numbers in (before, after):
            wanted = VxlanBackend().desired(OWN, [peer(number) for number in numbers], UNDERLAY)
            ops = plan_changes(await network.read(scope_of(wanted)), wanted)
            kinds = [type(op) for op in ops if isinstance(op, Put | Remove)]
            assert kinds == sorted(kinds, key=[Put, Remove].index), "add before delete"
            await network.apply(ops)
            assert await network.read(scope_of(wanted)) == wanted
            assert plan_changes(wanted, wanted) == ()

    asyncio.run(scenario())


@given(PEERS)
def test_switched_off_is_the_empty_state(numbers: set[int]) -> None:
    state = VxlanBackend().desired(OWN, [peer(number) for number in numbers], UNDERLAY)
    ops = plan_changes(state, NetState())
    assert [op.describe() for op in ops] == ["delete link flannel.1"]


# --- rules, files, interfaces ------------------------------------------------------------------------------------


def test_subnet_env_is_as_the_sample_and_reads_back(tmp_path) -> None:
    conf = parse_netconf('{"Network":"10.5.0.0/16"}')
    text = render_subnet_file(conf, decode_lease("10.5.75.0-24", SAMPLE), 1450, ip_masq=True)
    assert text == "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.75.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    file = tmp_path / "subnet.env"
    assert read_previous(file) == ()
    file.write_text(text)
    assert read_previous(file) == (ip_network("10.5.75.0/24"),)
    file.write_text("FLANNEL_SUBNET=nonsense\n\x00")
    assert read_previous(file) == ()


class Machine:
    """A `Host` with two interfaces; the default route is by eth1."""

    def interfaces(self) -> tuple[Interface, ...]:
        return (
            Interface("lo", 65536, up=True, addresses=(ip_address("127.0.0.1"),), networks=()),
            Interface("eth0", 1500, up=True, addresses=(ip_address("10.0.2.15"),), networks=(ip_network("10.0.2.0/24"),)),
            Interface("eth1", 9000, up=True, addresses=(ip_address("192.0.2.1"), ip_address("192.0.2.2")), networks=()),
        )

    def path_to(self, address):
        if str(address).startswith("203."):
            raise Unreachable("no route")
        return Path("eth0" if str(address).startswith("10.") else "eth1", None, None)

    def link(self, name: str) -> None:
        return None


@pytest.mark.parametrize(("wishes", "link", "address", "public"), [
    (Wishes(), "eth1", "192.0.2.1", "192.0.2.1"),
    (Wishes(names=("nosuch", "eth0")), "eth0", "10.0.2.15", "10.0.2.15"),
    (Wishes(names=("192.0.2.2",)), "eth1", "192.0.2.2", "192.0.2.2"),
    (Wishes(patterns=("^10[.]0[.]2",)), "eth0", "10.0.2.15", "10.0.2.15"),
    (Wishes(patterns=("th1$",)), "eth1", "192.0.2.1", "192.0.2.1"),
    (Wishes(names=("nosuch",), can_reach="10.9.9.9"), "eth0", "10.0.2.15", "10.0.2.15"),
    (Wishes(public={Family.IPV4: ip_address("10.0.2.15")}), "eth0", "10.0.2.15", "10.0.2.15"),
    (Wishes(names=("eth0",), public={Family.IPV4: ip_address("198.51.100.7")}), "eth0", "10.0.2.15", "198.51.100.7"),
])
def test_the_choice_of_an_interface(wishes: Wishes, link: str, address: str, public: str) -> None:
    found = choose_underlay(Machine(), [Family.IPV4], wishes)
    assert (found.link, str(found.addresses[Family.IPV4]), str(found.public[Family.IPV4])) == (link, address, public)


@pytest.mark.parametrize(("wishes", "kind", "words"), [
    (Wishes(names=("eth7",)), UserError, "--iface: no interface called 'eth7'"),
    (Wishes(patterns=("[",)), UserError, "--iface-regex"),
    (Wishes(can_reach="here"), UserError, "--iface-can-reach: 'here'"),
    (Wishes(can_reach="203.0.113.1"), NotFound, "no route to 203.0.113.1"),
    (Wishes(public={Family.IPV4: ip_address("198.51.100.7")}), UserError, "--public-ip"),
])
def test_interfaces_there_are_not(wishes: Wishes, kind: type, words: str) -> None:
    with pytest.raises(kind) as caught:
        choose_underlay(Machine(), [Family.IPV4], wishes)
    assert words in str(caught.value)


def test_when_a_lease_is_renewed() -> None:
    from flanneld_py.store.port import Held

    assert renewal_delay(Held(OWN, 7, 1, 86400.0), 3600.0) == 82800.0
    assert renewal_delay(Held(OWN, 7, 1, 6.0), 3600.0) == 2.0
    assert renewal_delay(Held(OWN, 0, 1, 0.0), 3600.0) is None


@pytest.mark.parametrize(("wish", "driver", "release", "deferred"), [
    ("auto", "virtio_net", "6.18.5", None), ("auto", "vmxnet3", "6.18.5", False), ("auto", "e1000", "5.4.0-42-generic", False),
    ("auto", "", "5.10.0", None), ("auto", "", "4.18.0-80.el8", False), ("auto", "", "?", None),
    ("on", "vmxnet3", "4.4.0", True), ("off", "", "6.18.5", False),
])
def test_checksums_are_left_to_the_card_where_that_works(wish: str, driver: str, release: str, deferred: bool | None) -> None:
    assert choose_deferral(wish, driver, release)[0] is deferred


def test_a_lease_we_hold_is_ours_whatever_address_it_tells() -> None:
    old = lease("10.5.1.0/24", "192.168.77.50")
    conf = parse_netconf('{"Network":"10.5.0.0/16"}')
    choice = choose_subnets(conf, [lease("10.5.2.0/24", "192.168.77.1"), old], PUBLIC, [], lambda count: 0, held=old)
    assert choice.existing == old


def test_the_address_everybody_has_is_remarked_and_so_is_a_twin() -> None:
    ours = {Family.IPV4: ip_address("10.0.2.15")}
    inputs = Inputs(parse_netconf('{"Network":"10.5.0.0/16"}'), VxlanBackend(), Underlay("eth0", 1500, ours, ours), Features(),
                    lease("10.5.1.0/24", "10.0.2.15"), (lease("10.5.9.0/24", "10.0.2.15"),))
    texts = list(remarks(inputs))
    assert "VirtualBox" in texts[0]
    assert "10.5.9.0-24 as well" in texts[1]


def test_the_way_out_is_kept_while_it_is_there_and_chosen_anew_when_it_is_gone() -> None:
    machine, families = Machine(), [Family.IPV4]
    second = {Family.IPV4: ip_address("192.0.2.2")}
    before = Underlay("eth1", 1500, second, second)
    kept = follow_underlay(machine, families, Wishes(), before)
    assert (kept.link, kept.addresses, kept.mtu) == ("eth1", second, 9000), "the second address stays ours, the MTU follows"
    gone = {Family.IPV4: ip_address("192.0.2.9")}
    other = follow_underlay(machine, families, Wishes(), Underlay("eth1", 1500, gone, gone))
    assert str(other.addresses[Family.IPV4]) == "192.0.2.1"
    assert follow_underlay(machine, families, Wishes(), Underlay("eth9", 1500, gone, gone)).link == "eth1"
    with pytest.raises(UserError, match="--iface: no interface called 'eth9'"):
        follow_underlay(machine, families, Wishes(names=("eth9",)), Underlay("eth9", 1500, gone, gone))
    with pytest.raises(UserError, match="--iface"):
        check_wishes(machine, Wishes(names=("eth9",)))
    check_wishes(machine, Wishes(can_reach="203.0.113.1"))
