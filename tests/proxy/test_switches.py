"""The kernel's switches where they cannot be set: said in the log, once, with what does not work then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodecore.kernel.netns import Netns

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).parents[2]
READ_ONLY = "mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys;"
BRIDGED, FORWARDING = "net.bridge.bridge-nf-call-iptables", "net.ipv4.ip_forward"


def test_bridges_that_pass_by_the_rules_are_told_of() -> None:
    with Netns.create() as space:
        start = f"exec {sys.executable} -m proxy --init-only --cluster-cidr 10.244.0.0/16"
        alone = space.run(["sysctl", "-w", f"{BRIDGED}=0"], check=False)
        if alone.returncode:
            pytest.skip("br_netfilter is not there")
        log = space.run(["unshare", "-m", "sh", "-c", f"cd {ROOT}; {READ_ONLY} {start}"]).stderr
        told = [line for line in log.splitlines() if "do not reach one another through a Service" in line]
        assert len(told) == 1
        assert BRIDGED in told[0]
        space.run(["sysctl", "-w", f"{FORWARDING}=0"])
        log = space.run(["sh", "-c", f"cd {ROOT}; {start}"]).stderr
        assert "do not reach" not in log
        assert space.run(["sysctl", "-n", BRIDGED, FORWARDING]).stdout.split() == ["1", "1"]
