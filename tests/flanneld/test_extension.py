"""The extension backend: the operator's commands make the network, by what they are told and by nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from site_of_nodes import Node, Site, ping_once, until

from flanneld_py.attend.commands import run_command
from flanneld_py.attend.extension import TRIES, ExtensionAttendant
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.extension import ExtensionBackend
from flanneld_py.iface import Underlay
from flanneld_py.lease import TEXT, Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from nodecore.errors import Fault, UserError
from nodecore.net import Family

US = {Family.IPV4: ip_address("192.168.77.1")}
OWN = Lease((Part(ip_network("10.5.1.0/24"), ip_address("192.168.77.1")),
             Part(ip_network("fd00:5:0:1::/64"), ip_address("fd::1"))), "extension")
PEER = Lease((Part(ip_network("10.5.2.0/24"), ip_address("192.168.77.2"), {TEXT: "aa bb"}),
              Part(ip_network("fd00:5:0:2::/64"), ip_address("fd::2"))), "extension")
UNDERLAY = Underlay("eth0", 1500, US, US, (), ipv6=True)


def test_backend_data_is_a_text_as_go_flanneld_writes_it() -> None:
    key = "10.5.2.0-24&fd00:5:0:2::-64"
    value = b'{"PublicIP":"192.168.77.2","PublicIPv6":"fd::2","BackendType":"extension","BackendData":"aa bb"}'
    assert decode_lease(key, value) == PEER
    assert encode_lease(PEER) == value


def test_options_and_peers() -> None:
    conf = parse_netconf(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "extension", "PreStartupCommand": "a"}}))
    backend = parse_backend(conf)
    assert backend == ExtensionBackend("a", network="10.5.0.0/16")
    assert backend.mtu(UNDERLAY) == 1500
    assert replace(backend, data="mac").lease_data(Family.IPV4, "") == {TEXT: "mac"}  # type: ignore[type-var]
    other = replace(PEER, backend="vxlan")
    peers = backend.attended(OWN, [OWN, PEER, other], UNDERLAY)
    assert [(str(peer.subnet), str(peer.other.subnet)) for peer in peers] == [  # type: ignore[attr-defined]
        ("10.5.2.0/24", "fd00:5:0:2::/64")
    ]
    with pytest.raises(UserError, match=r"Backend\.SubnetAddCommand: 3 is not a text"):
        parse_backend(replace(conf, options={"SubnetAddCommand": 3}))


async def test_what_the_commands_are_told(tmp_path: Path) -> None:
    tell = f'(echo "$NETWORK|$SUBNET|$IPV6SUBNET|$PUBLIC_IP|$PUBLIC_IPV6|$(cat)"; echo too >&2) >> {tmp_path}/told'
    backend = ExtensionBackend("", tell, tell, tell, network="10.5.0.0/16")
    attendant = ExtensionAttendant(backend)
    (peer,) = backend.attended(OWN, [PEER], UNDERLAY)
    assert attendant.serving() is None
    await attendant.start(OWN)
    await attendant.add(peer)
    assert (attendant.serving(), attendant.peers()) == (OWN, (peer,))
    await attendant.remove(peer)
    assert attendant.peers() == ()
    assert (tmp_path / "told").read_text().splitlines() == [
        "10.5.0.0/16|10.5.1.0/24|fd00:5:0:1::/64|192.168.77.1|fd::1|",
        "|10.5.2.0/24|fd00:5:0:2::/64|192.168.77.2|fd::2|aa bb",
        "|10.5.2.0/24|fd00:5:0:2::/64|192.168.77.2|fd::2|aa bb",
    ]


async def test_a_value_is_never_read_by_the_shell(tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/evil); `touch {tmp_path}/evil`"
    assert await run_command("it", 'read -r line; echo "$SUBNET $line"', {"SUBNET": evil}, evil) == f"{evil} {evil}"
    assert not (tmp_path / "evil").exists()


async def test_a_failing_command_tells_its_output_and_is_left_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    attendant = ExtensionAttendant(ExtensionBackend(subnet_add="echo File exists; exit 2", post_startup="exit 1"))
    with pytest.raises(Fault, match="PostStartupCommand failed with exit code 1"):
        await attendant.start(OWN)
    assert attendant.serving() is None
    for _ in range(TRIES - 1):
        with pytest.raises(Fault, match=r"SubnetAddCommand for 10\.5\.2\.0/24 failed with exit code 2: .*: File exists"):
            await attendant.add(PEER.parts[0])
    await attendant.add(PEER.parts[0])
    assert attendant.peers() == (PEER.parts[0],)
    assert "given up after 3 tries" in caplog.text


@pytest.mark.parametrize("how", ["patience", "cancelled"])
async def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path: Path, how: str) -> None:
    command = f"sleep 100 & echo $! > {tmp_path}/child; wait"
    start = time.monotonic()
    if how == "patience":
        with pytest.raises(Fault, match="did not end within 0 s"):
            await run_command("it", command, {}, patience=0.3)
    else:
        task = asyncio.create_task(run_command("it", command, {}))
        while not (tmp_path / "child").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - start < 60
    child = int((tmp_path / "child").read_text())
    until(lambda: not os.path.exists(f"/proc/{child}") or "zombie" in Path(f"/proc/{child}/status").read_text(), "it is gone")


HAND_MADE = {  # a VXLAN by hand: the MAC goes round as the lease's data
    "PreStartupCommand": "ip link show ext1 > /dev/null 2>&1 || ip link add ext1 mtu 1450 type vxlan id 77 dev eth0 dstport 8472"
                         " nolearning; ip -br link show ext1 | awk '{print $3}'",
    "PostStartupCommand": 'ip addr replace ${SUBNET%/*}/32 dev ext1; ip link set ext1 up; echo 1 > /proc/sys/net/ipv4/ip_forward',
    "SubnetAddCommand": "read mac; at=${SUBNET%/*}; ip neigh replace $at lladdr $mac dev ext1;"
                        " bridge fdb replace $mac dev ext1 dst $PUBLIC_IP self; ip route replace $SUBNET via $at dev ext1 onlink",
    "SubnetRemoveCommand": "read mac; ip route del $SUBNET; ip neigh del ${SUBNET%/*} dev ext1;"
                           " bridge fdb del $mac dev ext1 dst $PUBLIC_IP self",
}


def routes(node: Node) -> str:
    return node.ns.run(["ip", "route", "show", "dev", "ext1"]).stdout


@pytest.mark.kernel
@pytest.mark.etcd
def test_a_network_made_by_hand_carries_traffic(site: Site) -> None:
    site.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "extension", **HAND_MADE}})
    one, two = site.add_node(), site.add_node()
    for node in (one, two):
        node.start()
    site.add_pods()
    assert one.pod
    assert two.pod
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other")  # type: ignore[arg-type]
    assert ping_once(two.pod, one.pod_ip)
    value = site.etcd.subnets()[f"{one.subnet}.0-24"]
    mac = one.ns.run(["ip", "-br", "link", "show", "ext1"]).stdout.split()[2]
    assert (value["BackendType"], value["BackendData"]) == ("extension", mac)
    assert one.env()["FLANNEL_MTU"] == "1500"
    one.stop()
    one.start()
    assert ping_once(one.pod, two.pod_ip), "commands that ran before run again at a restart"
    site.etcd.ctl("del", f"/coreos.com/network/subnets/{two.subnet}.0-24")
    site.etcd.put("/coreos.com/network/subnets/10.5.99.0-24", json.dumps(value | {"PublicIP": "192.168.77.99"}))
    until(lambda: "10.5.99.0/24" in routes(one), "a new peer's route")
    site.etcd.ctl("del", "/coreos.com/network/subnets/10.5.99.0-24")
    until(lambda: "10.5.99.0/24" not in routes(one), "and its end")
