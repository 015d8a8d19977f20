"""Our table goes while somebody else's rules stand, and packets come all the time: none is refused on the way out."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from proxy_net import endpoints, service, sh
from test_rules import Model, load

from nodecore.errors import Fault
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.nft import Nft
from proxy.writers.takeover import Standing, Takeover

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
VIP, B, C, MAC = "10.96.1.1", "10.244.1.3", "10.244.1.4", "02:00:00:00:00:01"
THEIRS = f"""table ip theirs {{
chain translate {{
type nat hook prerouting priority dstnat
ip daddr {VIP} udp dport 80 dnat to {B}:8080
}}
chain watch {{
type filter hook output priority 0
icmp type destination-unreachable counter
}}
chain carry {{
type filter hook forward priority 0
ct status dnat counter
}}
}}
"""
TURNS = 25  # before there were two transactions, one in two had somebody refused


@contextmanager
def flood(caller: Netns) -> Iterator[None]:
    """Datagrams to the Service, each from another port, as fast as they go."""
    with caller.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    over = threading.Event()

    def send() -> None:
        for port in itertools.cycle(range(1024, 65536)):
            if over.is_set():
                return
            sock.send(struct.pack("!HHHH", port, 80, 8, 0))

    with sock:
        sock.connect((VIP, 0))
        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def counted(node: Netns, chain: str) -> int:
    found = re.search(r"counter packets (\d+)", node.run(["nft", "list", "chain", "ip", "theirs", chain]).stdout)
    assert found
    return int(found[1])


def test_nobody_is_refused_by_a_table_that_goes() -> None:
    model = Model()
    model.put(service("web", VIP, ("u", "UDP", 80, 0)), endpoints("web", B, C, ports=(("u", "UDP", 8080),)))
    with ExitStack() as stack:
        node, caller = (stack.enter_context(Netns.create()) for _ in range(2))
        sh(node, f"ip link add pod type veth peer name eth0 netns {caller.pid}; ip link add pods type veth peer name nobody;"
                 "ip addr add 10.244.9.1/24 dev pod; for link in pod pods nobody; do ip link set $link up; done;"
                 f"ip route add 10.244.1.0/24 dev pods; for at in {B} {C}; do ip neigh add $at lladdr {MAC} dev pods; done;"
                 "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 net.netfilter.nf_conntrack_udp_timeout=1")
        sh(caller, "ip addr add 10.244.9.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.244.9.1")
        load(node, THEIRS)
        with node.enter():
            takeover = Takeover(Nft(), Iptables())
            with flood(caller):
                for turn in range(TURNS):
                    load(node, model.full())
                    asyncio.run(takeover.clean_up() if turn % 2 else takeover.leave_only(Standing()))
                    assert "kube-proxy" not in node.run(["nft", "list", "tables"]).stdout
        assert counted(node, "carry") > 100
        assert counted(node, "watch") == 0


def test_what_cannot_be_removed_is_said_and_goes_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All else goes; a --cleanup that leaves chains does not end as if it had not."""
    broken, path = tmp_path / "iptables-nft-restore", os.environ["PATH"]
    broken.write_text("#!/bin/sh\necho no memory >&2\nexit 2\n")
    broken.chmod(0o755)
    with Netns.create() as node, node.enter():
        sh(node, "iptables-nft -t nat -N KPY-SERVICES; ip6tables-nft -t nat -N KPY-SERVICES")
        monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
        with pytest.raises(Fault, match=r"Service chains stay in nat of iptables-nft: .*no memory"):
            asyncio.run(Takeover(Nft(), Iptables(), ()).clean_up())
        monkeypatch.setenv("PATH", path)
        assert "KPY-" in sh(node, "iptables-nft -t nat -S")
        assert "KPY-" not in sh(node, "ip6tables-nft -t nat -S")
        asyncio.run(Takeover(Nft(), Iptables(), ()).clean_up())
        assert "KPY-" not in sh(node, "iptables-nft -t nat -S")
