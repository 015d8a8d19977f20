"""mk-docker-opts: the file Docker reads, and the refusal where its bridge would be cut off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flanneld_py.__main__ import invoke
from nodecore.daemon.entry import report
from nodecore.errors import Fault, UserError
from nodecore.kernel.netns import Netns

ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
SINGLE = 'DOCKER_OPT_BIP="--bip=10.5.3.1/24"\nDOCKER_OPT_IPMASQ="--ip-masq=true"\nDOCKER_OPT_MTU="--mtu=1450"\n'


def words(tmp_path: Path, *flags: str, env: str = ENV) -> list[str]:
    (tmp_path / "subnet.env").write_text(env)
    return ["mk-docker-opts", "-f", f"{tmp_path}/subnet.env", "-d", f"{tmp_path}/out", *flags]


def options(tmp_path: Path, *flags: str, env: str = ENV) -> str:
    invoke(words(tmp_path, *flags, env=env))
    return (tmp_path / "out").read_text()


@pytest.mark.parametrize(("flags", "text"), [
    ((), SINGLE + 'DOCKER_OPTS=" --bip=10.5.3.1/24 --ip-masq=true --mtu=1450"\n'),
    (("-i", "-c"), SINGLE + 'DOCKER_OPTS=" --bip=10.5.3.1/24 --ip-masq=true --mtu=1450"\n'),
    (("-i",), SINGLE),
    (("-c", "-m", "-k", "NETWORK"), 'NETWORK=" --bip=10.5.3.1/24 --mtu=1450"\n'),
])
def test_what_docker_reads(tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    assert options(tmp_path, *flags) == text


def test_who_masquerades_is_turned_round_and_the_environment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_X", "--icc=false")
    text = options(tmp_path, "-c", env=ENV.replace("false", "true"))
    assert text == 'DOCKER_OPTS="--debug --bip=10.5.3.1/24 --ip-masq=false --mtu=1450 --icc=false"\n'


@pytest.mark.parametrize(("flags", "env", "message"), [
    (("-d", "/nonexistent/x"), ENV, "-d: cannot write /nonexistent/x"),
    (("-f", "/proc"), ENV, "-f: cannot read /proc"),
    ((), ENV.replace("false", "maybe"), "FLANNEL_IPMASQ=maybe"),
    ((), ENV.replace("10.5.3.1", "here"), "FLANNEL_SUBNET=here/24"),
    (("-x",), ENV, "there is no flag -x"),
])
def test_mistakes_are_named(tmp_path: Path, flags: tuple[str, ...], env: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(tmp_path, *flags, env=env)


def test_a_link_called_like_the_script_is_the_script(tmp_path: Path) -> None:
    link = tmp_path / "mk-docker-opts.sh"
    link.symlink_to(Path(sys.executable).parent / "flanneld-py")
    done = subprocess.run([str(link), *words(tmp_path)[1:]], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text().startswith(SINGLE)


@pytest.mark.kernel
def test_a_subnet_routed_elsewhere_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Netns.create() as node:
        for command in ("ip link add eth0 type veth peer name eth1", "ip link set eth0 up", "ip link set eth1 up",
                        "ip addr add 192.168.7.1/24 dev eth0", "ip route add 10.5.4.0/24 via 192.168.7.2"):
            node.run(command.split())
        with node.enter():
            assert options(tmp_path), "somebody else's subnet may have a gateway"
            node.run(["ip", "route", "add", "10.5.3.0/24", "via", "192.168.7.2"])
            with pytest.raises(Fault, match=r"already routed, by 192\.168\.7\.2") as caught:
                options(tmp_path)
        assert report(caught.value, "flanneld-py") == 1
