"""host-gw, alloc, DirectRouting, two families, several networks, and what is left after the configuration has changed."""

from __future__ import annotations

import json

import pytest
from site_of_nodes import CONFIG, Node, Site, echo_passes, heals, ping_once, pinging, until

pytestmark = [pytest.mark.kernel, pytest.mark.etcd, pytest.mark.slow]

HOST_GW = {"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}


def two_nodes(site: Site, config: dict, *flags: str) -> tuple[Node, Node]:
    site.configure(config)
    one, two = site.add_node(), site.add_node()
    for node in (one, two):
        node.start(*flags)
    site.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.2), "pods reach each other")
    return one, two


def links(node: Node) -> set[str]:
    return {link["ifname"] for link in json.loads(node.ns.run(["ip", "-j", "link"]).stdout)}


def routes(node: Node, *more: str) -> list[str]:
    return node.ns.run(["ip", "route", "show", *more]).stdout.splitlines()


def lease_of(public: str, kind: str = "host-gw") -> str:
    return json.dumps({"PublicIP": public, "PublicIPv6": None, "BackendType": kind})


def test_host_gw_and_the_way_there_and_back(site: Site) -> None:
    one, two = two_nodes(site, HOST_GW)
    assert site.etcd.subnets()[f"{one.subnet}.0-24"] == {"PublicIP": one.ip, "PublicIPv6": None, "BackendType": "host-gw"}
    assert f"{two.subnet}.0/24 via {two.ip} dev eth0 proto 70 " in routes(one)
    assert (one.env()["FLANNEL_MTU"], "flannel.1" in links(one)) == ("1500", False)
    assert echo_passes(one.pod, two.pod_ip, 1450)

    site.etcd.put("/coreos.com/network/subnets/10.5.250.0-24", lease_of("192.0.2.9"))
    site.etcd.put("/coreos.com/network/subnets/10.5.251.0-24", lease_of("192.168.77.99"))
    until(lambda: "10.5.251.0/24 via 192.168.77.99 dev eth0 proto 70 " in routes(one), "a peer on our link gets its route")
    assert not any("10.5.250" in route for route in routes(one))

    def flap() -> None:
        one.ns.run(["ip", "link", "set", "eth0", "down"])
        one.ns.run(["ip", "link", "set", "eth0", "up"])

    def again() -> bool:
        return ping_once(one.pod, two.pod_ip, 0.1)

    heals(lambda: one.ns.run(["ip", "route", "del", f"{two.subnet}.0/24"]), again, "a deleted route comes back", 1)
    heals(flap, again, "a flap heals", 2)

    with pinging(one.pod, two.pod_ip) as ping:
        site.configure(CONFIG)
        for node in (one, two):
            node.stop()
        one.start()
        two.start()
        until(lambda: "dev flannel.1" in str(routes(one, f"{two.subnet}.0/24")), "the tunnel is taken")
    until(lambda: "10.5.251.0/24" not in str(routes(one)), "a peer of another backend is none")
    site.configure(HOST_GW)
    for node in (one, two):
        node.stop()
        node.start()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.1), "and back")
    until(lambda: "flannel.1" not in links(one), "the tunnel goes")
    print(f"{ping.lost} of {ping.sent} lost while one node after the other changed")


def test_host_gw_tells_of_a_peer_it_cannot_reach(site: Site) -> None:
    site.configure(HOST_GW)
    site.etcd.put("/coreos.com/network/subnets/10.5.250.0-24", lease_of("192.0.2.9"))
    node = site.add_node()
    node.start()
    assert node.log.read_text().count("no route to 10.5.250.0/24: 192.0.2.9 is on no network of eth0") == 1
    node.stop()
    done = node.ns.run(node.arguments("-public-ip=198.51.100.7"), check=False, timeout=120)
    assert (done.returncode, "--public-ip: host-gw needs" in done.stderr) == (2, True), done.stderr


def test_alloc_takes_a_lease_and_touches_nothing(site: Site) -> None:
    site.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "alloc"}})
    node = site.add_node()
    before = (links(node), routes(node))
    node.start("-iptables-forward-rules=false")
    assert site.etcd.subnets()[f"{node.subnet}.0-24"]["BackendType"] == "alloc"
    assert (links(node), routes(node)) == before


def test_direct_routing_uses_no_tunnel_on_the_same_link(site: Site) -> None:
    one, two = two_nodes(site, {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": True}})
    assert f"{two.subnet}.0/24 via {two.ip} dev eth0 proto 70 " in routes(one)
    assert one.ns.run(["bridge", "fdb", "show", "dev", "flannel.1"]).stdout.strip() == ""
    one.ns.run(["ip", "link", "set", "flannel.1", "down"])
    assert ping_once(one.pod, two.pod_ip)


def test_another_vni_takes_over_and_the_old_device_goes(site: Site) -> None:
    one, two = two_nodes(site, CONFIG)
    mac = one.mac()
    site.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7}})
    for node in (one, two):
        node.stop()
        node.start()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.1), "pods reach each other")
    until(lambda: {name for name in links(one) if name.startswith("flannel")} == {"flannel.7"}, "the old device goes")
    assert site.etcd.subnets()[f"{one.subnet}.0-24"]["BackendData"] == {"VNI": 7, "VtepMAC": mac}


def test_two_networks_on_a_host_leave_each_other_alone(site: Site) -> None:
    one, two = two_nodes(site, CONFIG)
    other = {"Network": "10.6.0.0/16", "Backend": {"Type": "vxlan", "VNI": 2}}
    site.etcd.put("/other/config", json.dumps(other))
    seconds = []
    for node in (one, two):
        second = Node(node.number, node.ns, node.directory)
        second.start("-etcd-prefix=/other", "-iptables-forward-rules=false")
        seconds.append(second)
    try:
        first, other_end = seconds
        until(lambda: any(f"{other_end.subnet}.0/24" in route for route in routes(one)), "the second network has its peer")
        assert first.subnet.startswith("10.6.")
        for node in (one, first):
            node.stop()
            node.start(*(["-etcd-prefix=/other", "-iptables-forward-rules=false"] if node is first else []))
        assert {"flannel.1", "flannel.2"} <= links(one)
        assert ping_once(one.pod, two.pod_ip)
        until(lambda: ping_once(one.ns, f"{other_end.subnet}.0", 0.3), "the second network works both ways")
        assert sum("proto 70" in route for route in routes(one)) == 2
    finally:
        for second in seconds:
            if second.daemon:
                second.stop()


def test_cleanup_takes_everything_of_ours_and_nothing_else(site: Site) -> None:
    site.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": True}})
    site.etcd.put("/coreos.com/network/subnets/10.5.250.0-24", json.dumps({
        "PublicIP": "192.168.77.99", "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}}))
    node = site.add_node()
    fresh = (links(node), routes(node), rules_of(node))
    node.start("-ip-masq", "-ip-blackhole-route")
    node.ns.run(["ip", "route", "add", "10.9.0.0/16", "via", "192.168.77.254"])
    node.stop()
    said = node.ns.run(node.arguments("--cleanup", "--dry-run")).stdout
    assert {"delete link flannel.1", "delete route 10.5.250.0/24 via 192.168.77.99 dev eth0",
            f"delete route blackhole {node.subnet}.0/24"} <= set(said.splitlines())
    assert "flannel.1" in links(node)
    assert node.ns.run(node.arguments("-cleanup")).stdout == said
    kept = [route for route in routes(node) if not route.startswith("10.9.0.0/16")]
    assert (links(node), kept, rules_of(node)) == fresh
    assert len(kept) == len(routes(node)) - 1
    assert not node.subnet_file.exists()
    assert node.ns.run(node.arguments("-cleanup")).stdout == "", "twice is no error"


def rules_of(node: Node) -> list[str]:
    return [line for line in node.ns.run(["nft", "list", "ruleset"]).stdout.splitlines() if "flannel" in line.lower()]


@pytest.mark.parametrize(("flag", "word"), [("off", "off"), ("on", "on")])
def test_checksums_are_computed_as_told(site: Site, flag: str, word: str) -> None:
    node = site.add_node()
    node.start(f"-vxlan-tx-checksum={flag}")
    node.ns.run(["ethtool", "-K", "flannel.1", "tx-checksum-ip-generic", "on" if word == "off" else "off"])
    node.stop()
    node.start(f"-vxlan-tx-checksum={flag}")
    assert f"tx-checksum-ip-generic: {word}" in node.ns.run(["ethtool", "-k", "flannel.1"]).stdout
