"""The `flannel` CNI plugin with the real bridge and host-local behind it."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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

    def script(self, name: str, text: str) -> None:
        """A delegate of our own."""
        path = self.directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def seen(self) -> dict:
        return json.loads((self.directory / "seen").read_text())

    def call(
        self, command: str, container: str = "c1", netns: str = "/none", conf: dict | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0", "CNI_PATH": f"{self.directory}/bin:{PLUGINS}",
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
def test_a_bridge_becomes_no_larger_than_another_backend_carries(real: Runtime) -> None:
    for mtu, then in ((1450, 1450), (1420, 1420), (1480, 1420)):
        real.subnet_file.write_text(ENV.replace("1450", str(mtu)))
        with Netns.create() as pod:
            added = real.call("ADD", container=f"c{mtu}", netns=pod.path)
            assert added.returncode == 0, added.stdout
            assert json.loads(real.node.run(["ip", "-j", "link", "show", "cni0"]).stdout)[0]["mtu"] == then
            assert json.loads(pod.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["mtu"] == mtu
            assert real.call("DEL", container=f"c{mtu}", netns=pod.path).returncode == 0


@pytest.mark.kernel
def test_a_failed_add_is_passed_on_and_can_be_deleted(real: Runtime) -> None:
    failed = real.call("ADD", netns="/proc/1/ns/nothing")
    assert failed.returncode != 0
    assert json.loads(failed.stdout)["code"]
    assert real.call("DEL", netns="").returncode == 0


def delegated(runtime: Runtime, **conf: object) -> dict:
    """What the delegate is given: a plugin that writes down its stdin."""
    runtime.script("spy", f"cat > {runtime.directory}/seen")
    done = runtime.call("ADD", conf=runtime.conf | {"delegate": {"type": "spy"}} | conf)
    assert done.returncode == 0, done.stdout
    return runtime.seen()


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


@pytest.mark.parametrize(("command", "change", "code", "words"), [
    ("ADD", {"cniVersion": "9.9.9"}, 1, "cniVersion '9.9.9'"),
    ("CHECK", {"cniVersion": "0.3.1"}, 1, "since cniVersion 0.4.0"),
    ("GC", {"cniVersion": "1.0.0"}, 1, "since cniVersion 1.1.0"),
    ("CHECK", {}, 3, "nothing is known of container c1"),
    ("GC", {"cniVersion": "1.1.0"}, 7, "cni.dev/valid-attachments"),
    ("ADD", {"delegate": "bridge"}, 7, "'delegate' is to be an object"),
    ("ADD", {"subnetFile": 3}, 7, "'subnetFile' is to be a text"),
    ("ADD", {"subnetFile": "/proc"}, 5, "/proc: Is a directory"),
    ("ADD", {"dataDir": "/proc/self/status"}, 5, "/proc/self/status"),
    ("ADD", {"ipam": {"routes": 3}}, 999, "TypeError"),
    ("SING", {}, 4, "CNI_COMMAND is 'SING'"),
])
def test_every_mistake_is_an_error_result(runtime: Runtime, command: str, change: dict, code: int, words: str) -> None:
    done = runtime.call(command, conf=runtime.conf | change)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], done.stderr) == (1, code, "")
    assert words in answer["msg"]


@pytest.mark.parametrize(("given", "code", "words"), [
    ("nonsense", 6, "not JSON"), ("[]", 6, "not a JSON object"), ('{"cniVersion":"1.0.0"}', 4, "ADD needs CNI_NETNS, CNI_IFNAME")
])
def test_what_the_runtime_may_get_wrong(given: str, code: int, words: str) -> None:
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_PATH": PLUGINS, "PATH": os.environ["PATH"]}
    done = subprocess.run([PLUGIN], env=environment, input=given, text=True, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code)
    assert words in done.stdout


def test_check_sees_that_the_node_has_another_subnet(runtime: Runtime) -> None:
    delegated(runtime)
    runtime.subnet_file.write_text(ENV.replace("10.5.3.1", "10.5.4.1"))
    done = runtime.call("CHECK", conf=runtime.conf | {"prevResult": {}})
    assert json.loads(done.stdout)["msg"] == (
        "flannel: the container has an address of 10.5.3.0/24, this node has 10.5.4.0/24 now"
    )


@pytest.mark.kernel
def test_gc_gives_back_what_lost_containers_held(real: Runtime) -> None:
    """Two pods, one of which nobody ever deletes; a bridge that speaks 1.1.0 is made of the one there is."""
    real.script("bridge11", f"""[ $CNI_COMMAND = GC ] && exec cat > {real.directory}/seen
sed 's/"1.1.0"/"1.0.0"/' | {PLUGINS}/bridge""")
    conf = real.conf | {"cniVersion": "1.1.0", "delegate": {"type": "bridge11", "isGateway": True}}
    with Netns.create() as lost, Netns.create() as living:
        assert real.call("ADD", "lost", lost.path, conf=conf).returncode == 0
        assert real.call("ADD", "living", living.path, conf=conf).returncode == 0
        (real.directory / "flannel" / "other").write_text('{"type": "bridge11", "name": "another-network"}')
        valid = {"cni.dev/valid-attachments": [{"containerID": "living", "ifname": "eth0"}]}
        done = real.call("GC", conf=conf | valid)
        assert (done.returncode, done.stdout) == (0, "")
        assert sorted(os.listdir(real.directory / "flannel")) == ["living", "other"]
        held = {path.name for path in (real.directory / "networks" / "cbr0").glob("10.*")}
        assert held == {"10.5.3.3"}
        assert real.seen()["cni.dev/valid-attachments"] == valid["cni.dev/valid-attachments"]
        assert ping_once(real.node, "10.5.3.3")


@pytest.mark.kernel
def test_a_pod_of_two_families(real: Runtime) -> None:
    real.subnet_file.write_text(ENV + "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:3::1/64\n")
    with Netns.create() as pod:
        added = real.call("ADD", netns=pod.path)
        assert added.returncode == 0, added.stdout
        assert [ip["address"] for ip in json.loads(added.stdout)["ips"]] == ["10.5.3.2/24", "fd00:5:0:3::2/64"]
        checked = real.call("CHECK", netns=pod.path, conf=real.conf | {"prevResult": json.loads(added.stdout)})
        assert checked.returncode == 0, checked.stdout
        assert real.call("DEL", netns=pod.path).returncode == 0


def test_what_the_go_plugin_kept_is_deleted_by_ours(runtime: Runtime) -> None:
    runtime.script("spy", f"cat > {runtime.directory}/seen")
    (runtime.directory / "flannel").mkdir()
    kept = {"cniVersion": "1.0.0", "type": "spy", "name": "cbr0", "ipam": {"type": "host-local"}}
    (runtime.directory / "flannel" / "c1").write_text(json.dumps(kept))
    assert runtime.call("DEL").returncode == 0
    assert runtime.seen() == kept
    assert not list((runtime.directory / "flannel").iterdir())


def test_status_and_version(runtime: Runtime) -> None:
    assert runtime.call("STATUS").returncode == 0
    runtime.script("spy", "echo '{\"code\": 51}'; exit 1")
    newer = runtime.conf | {"cniVersion": "1.1.0", "delegate": {"type": "spy"}}
    assert json.loads(runtime.call("STATUS", conf=newer).stdout)["code"] == 51, "the delegate is asked, and has its say"
    runtime.subnet_file.unlink()
    assert json.loads(runtime.call("STATUS").stdout)["code"] == 50
    answer = json.loads(runtime.call("VERSION").stdout)
    assert answer["cniVersion"] == "1.1.0"
    assert {"0.3.1", "1.0.0", "1.1.0"} <= set(answer["supportedVersions"])


@pytest.mark.parametrize("command", ["ADD", "STATUS", "VERSION"])
def test_it_starts_quickly(runtime: Runtime, command: str) -> None:
    runtime.script("nothing", "exit 0")
    conf = runtime.conf | {"delegate": {"type": "nothing"}}

    def once(start_it: Callable[[], subprocess.CompletedProcess[str]]) -> tuple[float, float]:
        """Seconds by the clock, and seconds of processor, which a busy machine does not change."""
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        assert start_it().returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def bare() -> subprocess.CompletedProcess[str]:
        """An interpreter that does nothing: the measure of how slow this machine's processor is now."""
        return subprocess.run([sys.executable, "-I", "-S", "-c", ""], capture_output=True, text=True, check=False)

    pairs = [(once(lambda: runtime.call(command, conf=conf)), once(bare)) for _ in range(7)]
    clock, processor = zip(*(ours for ours, _ in pairs), strict=True)
    least = min(seconds for _, (_, seconds) in pairs)
    print(f"{command} {statistics.median(clock) * 1000:.1f} ms, {statistics.median(processor) * 1000:.1f} ms of processor")
    assert min(processor) < max(0.035, 4 * least)
    assert min(clock) < 0.035 or os.getloadavg()[0] > 0.5, "on a machine that has nothing else to do"
