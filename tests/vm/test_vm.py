"""What only a machine of its own shows: a lab below each kind of control groups and init, and backends this kernel lacks.

Minutes each, in software: they run when asked for (`./lab test -m vm`), and are counted and named as skipped otherwise.
"""

from __future__ import annotations

import pytest

from tests.vm import image, machine

HOUR = 3600
pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(HOUR)]

LAB = """
set -eo pipefail
left() {{
  cat /proc/mounts; ip -br link; ls /var/lib/flanneld-py/labs 2>/dev/null || true
  find /sys/fs/cgroup /run/netns -path '*flanneld-py*' 2>/dev/null || true
}}
left >/tmp/before
./lab up --timeout 900 --nodes 2 {options}
./lab demo --timeout 900
./lab status
./lab down
left >/tmp/after
diff /tmp/before /tmp/after
"""
KERNEL_TESTS = (
    "tests/kernel tests/flanneld/test_wireguard.py tests/flanneld/test_ipsec.py tests/flanneld/test_every_backend.py "
    "-k 'not (every_backend and (vxlan or host-gw or udp-ipv4))'"  # those are at home on every kernel
)


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest) -> None:
    if "vm" not in request.config.getoption("-m"):
        pytest.skip("boots a virtual machine, minutes in software: ./lab test -m vm")
    if reason := image.lacking():
        pytest.skip(f"no virtual machine here: {reason}")


def carry_out(command: str, shape: machine.Shape) -> str:
    """Run it and say what it printed; it must succeed."""
    said = bytearray()

    def heard(part: bytes) -> None:
        said.extend(part)
        print(part.decode(errors="replace"), end="", flush=True)

    with image.only_one():
        image.build(print)
        outcome = machine.run(command, shape, seconds=HOUR, heard=heard)
    text = said.decode(errors="replace")
    assert outcome.exit_code == 0, text[-4000:]
    return text


@pytest.mark.parametrize(("init", "cgroups"), [("systemd", "v2"), ("systemd", "v1"), ("systemd", "hybrid"), ("none", "v2")])
def test_a_lab_works_with_any_control_groups_and_leaves_nothing(built: None, init: str, cgroups: str) -> None:
    text = carry_out(LAB.format(options=""), machine.Shape(init=init, cgroups=cgroups))
    assert "every node and a pod on every node reached every endpoint" in text


@pytest.mark.parametrize("backend", ["wireguard", "ipip"])
def test_a_lab_works_over_backends_of_other_kernels(built: None, backend: str) -> None:
    carry_out(LAB.format(options=f"--backend {backend}"), machine.Shape(init="none"))


def test_the_kernel_tests_that_need_modules(built: None) -> None:
    text = carry_out(f".venv/bin/python -m pytest -v -rs -o timeout=1200 -m kernel {KERNEL_TESTS}", machine.Shape(init="none"))
    assert "this kernel has no" not in text


def test_ipvs_mode(built: None) -> None:
    """The conformance table, where it is of ipvs mode, and its own transitions."""
    tests = " ".join(f"tests/proxy/test_{name}.py" for name in (
        "conformance", "conformance_flags", "transitions", "mode_switches", "faults", "ipvs_agent"))
    text = carry_out("modprobe br_netfilter && export PATIENCE_SECONDS=60 && "
                     f".venv/bin/python -m pytest -v -rs -o timeout=1200 -k ipvs {tests}",
                     machine.Shape(init="none"))
    assert "this kernel has no" not in text
