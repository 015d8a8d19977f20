"""The `flannel` CNI plugin with the real bridge and host-local behind it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_of_nodes import ping_once

from nodecore.kernel.netns import Netns

PLUGIN = Path(__file__).parents[2] / "flanneld_py" / "cni.py"
PLUGINS = "/usr/lib/cni"
ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


class Runtime:
    """What containerd does with a plugin."""

    def __init__(self, directory: Path, node: Netns | None = None) -> None:
        self.directory, self.node = directory, node
        self.subnet_file = directory / "subnet.env"
        self.subnet_file.write_text(ENV)
        self.conf = {
            "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel", "subnetFile": str(self.subnet_file),
            "dataDir": str(directory / "flannel"), "ipam": {"dataDir": str(directory / "networks")},
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        }

    def call(
        self, command: str, container: str = "c1", netns: str = "", conf: dict | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0", "CNI_PATH": PLUGINS,
        }
        options = {"env": environment, "input": json.dumps(conf or self.conf), "check": False}
        if self.node:
            return self.node.run([str(PLUGIN)], **options)
        return subprocess.run([str(PLUGIN)], text=True, capture_output=True, **options)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Runtime]:
    if os.geteuid() != 0 or not os.path.exists(f"{PLUGINS}/bridge"):
        pytest.skip("needs root and the CNI plugins")
    with Netns.create() as node:
        yield Runtime(tmp_path, node)


@pytest.mark.kernel
def test_a_pod_comes_and_goes(real: Runtime) -> None:
    with Netns.create() as pod:
        added = real.call("ADD", netns=pod.path)
        assert added.returncode == 0, added.stdout
        result = json.loads(added.stdout)
        assert result["ips"] == [{"interface": 2, "address": "10.5.3.2/24", "gateway": "10.5.3.1"}]
        assert ping_once(real.node, "10.5.3.2")
        link = json.loads(pod.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]
        assert link["mtu"] == 1450
        routes = pod.run(["ip", "route"]).stdout
        assert "default via 10.5.3.1" in routes
        assert "10.5.0.0/16 via 10.5.3.1" in routes
        checked = real.call("CHECK", netns=pod.path, conf=real.conf | {"prevResult": result})
        assert checked.returncode == 0, checked.stdout
        pod.run(["ip", "addr", "flush", "dev", "eth0"])
        assert real.call("CHECK", netns=pod.path, conf=real.conf | {"prevResult": result}).returncode != 0
        real.subnet_file.unlink()
        assert real.call("DEL", netns=pod.path).returncode == 0
        assert not list((real.directory / "flannel").iterdir())
        assert not list((real.directory / "networks" / "cbr0").glob("10.*"))
        assert real.call("DEL", netns=pod.path).returncode == 0, "a second DEL has nothing to do"


@pytest.mark.kernel
def test_a_failed_add_is_passed_on_and_can_be_deleted(real: Runtime) -> None:
    failed = real.call("ADD", netns="/proc/1/ns/nothing")
    assert failed.returncode != 0
    assert json.loads(failed.stdout)["code"]
    assert real.call("DEL", netns="").returncode == 0


def delegated(runtime: Runtime, **conf: object) -> dict:
    """What the delegate is given: a plugin that writes down its stdin."""
    spy = runtime.directory / "bin" / "spy"
    spy.parent.mkdir(exist_ok=True)
    spy.write_text(f"#!/bin/sh\ncat > {runtime.directory}/seen\n")
    spy.chmod(0o755)
    whole = runtime.conf | {"delegate": {"type": "spy"}} | conf
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_PATH": str(spy.parent), "PATH": os.environ["PATH"]}
    done = subprocess.run([PLUGIN], env=environment, input=json.dumps(whole), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    return json.loads((runtime.directory / "seen").read_text())


def test_the_delegate_gets_the_documented_configuration(runtime: Runtime) -> None:
    assert delegated(runtime) == {
        "type": "spy", "name": "cbr0", "cniVersion": "1.0.0", "mtu": 1450, "ipMasq": False,
        "ipam": {"type": "host-local", "dataDir": f"{runtime.directory}/networks", "ranges": [[{"subnet": "10.5.3.0/24"}]],
                 "routes": [{"dst": "10.5.0.0/16"}]},
    }


def test_two_families_own_values_and_runtime_config(runtime: Runtime) -> None:
    runtime.subnet_file.write_text(ENV + "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:3::1/64\n")
    seen = delegated(runtime, delegate={"type": "spy", "mtu": 1300, "ipMasq": True}, runtimeConfig={"portMappings": []},
                     ipam={"type": "mine", "routes": [{"dst": "1.2.3.0/24"}]})
    assert seen["ipam"] == {
        "type": "mine", "ranges": [[{"subnet": "10.5.3.0/24"}], [{"subnet": "fd00:5:0:3::/64"}]],
        "routes": [{"dst": "1.2.3.0/24"}, {"dst": "10.5.0.0/16"}, {"dst": "fd00:5::/48"}],
    }
    assert (seen["mtu"], seen["ipMasq"]) == (1300, True)


@pytest.mark.parametrize(("change", "code", "words"), [
    ({"delegate": {"name": "x"}}, 7, "'delegate' may not have 'name'"),
    ({"delegate": {"ipam": {}}}, 7, "'delegate' may not have 'ipam'"),
    ({"delegate": {"type": 3}}, 7, "'type'"),
    ({"delegate": {"type": "nosuch"}}, 50, "no plugin 'nosuch'"),
    ({"subnetFile": "/nonexistent/subnet.env"}, 11, "is flanneld running?"),
])
def test_refusals_follow_the_specification(runtime: Runtime, change: dict, code: int, words: str) -> None:
    done = runtime.call("ADD", conf=runtime.conf | change)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"]) == (1, code)
    assert words in answer["msg"]
    assert not (runtime.directory / "flannel").exists(), "nothing half-made stays behind"


def test_status_and_version(runtime: Runtime) -> None:
    assert runtime.call("STATUS").returncode == 0
    runtime.subnet_file.unlink()
    assert json.loads(runtime.call("STATUS").stdout)["code"] == 50
    assert "1.0.0" in json.loads(runtime.call("VERSION").stdout)["supportedVersions"]


def test_it_starts_quickly(runtime: Runtime) -> None:
    def once() -> float:
        start = time.perf_counter()
        runtime.call("STATUS")
        return time.perf_counter() - start

    best = min(once() for _ in range(10))
    print(f"{best * 1000:.1f} ms")
    assert best < 0.035
