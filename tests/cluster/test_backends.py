"""The demo over flannel's other backends, and with its leases in Kubernetes; what this kernel cannot do is refused at once."""

from __future__ import annotations

import subprocess

import pytest

from minik8s.lab.host import DEVICES
from tests.labs import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CASES = {
    "host-gw": (["--backend", "host-gw", "--families", "dual"], ""), "udp": (["--backend", "udp"], "UDP       8285 -> 8285"),
    "ipip": (["--backend", "ipip"], "inside"), "wireguard": (["--backend", "wireguard", "--families", "dual"], "cannot be read"),
    "kube": (["--flannel-store", "kube", "--families", "dual"], "VNI 1"),
}


def kernel_makes(backend: str) -> bool:
    argv = ["unshare", "--net", "ip", "link", "add", "x", "type", *DEVICES[backend].split()]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("case", CASES)
def test_the_demo_works(fresh_lab: Lab, case: str) -> None:
    options, words = CASES[case]
    if case in DEVICES and not kernel_makes(case):
        refused = fresh_lab.run("up", *options, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "--backend" in refused.stderr
        assert not fresh_lab.state.path.exists()
        pytest.skip(f"this kernel lacks the module {case}")
    fresh_lab.up("--nodes", "2", *options)
    shown = fresh_lab.run("demo").stdout
    assert "fetched by" in shown
    if case == "host-gw":
        assert "inside" not in shown
        assert "fd00:10:244:" in shown
    else:
        assert words in shown
    if case == "kube":
        node = fresh_lab.get("node", "node-2")
        assert node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"] == "192.168.77.12"
        assert fresh_lab.exec("node-2", "grep", "FLANNEL_SUBNET=", "/run/flannel/subnet.env").strip() == (
            "FLANNEL_SUBNET=" + node["spec"]["podCIDR"].replace(".0/", ".1/"))
