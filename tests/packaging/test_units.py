"""The units as files: what they allow, that every flag is in their environment files, and what installing below a root writes."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from minik8s.install import service, watchdog
from minik8s.install.__main__ import command, uninstall
from minik8s.install.plan import UNITS, Node, variables
from nodecore.errors import Fault, UserError

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "packaging/systemd"
BACK_OFF = re.compile(r"^ExecStartPre=-/bin/sh -c '([^']*)'$", re.M)
SERVICES = sorted(SYSTEMD.glob("*.service"))


def generator():
    spec = importlib.util.spec_from_file_location("environment", ROOT / "packaging/environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_flag_is_in_the_environment_files() -> None:
    environment = generator()
    for name in environment.AGENTS:
        text = (SYSTEMD / f"{name}.env").read_text()
        assert text == environment.text_of(name), "run packaging/environment.py"
        assert "UNSET" not in text


def test_every_flag_of_etcd_is_in_its_environment_file() -> None:
    version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    if not version.startswith("3.4."):
        pytest.skip(f"NOT TESTED: the file is made with Debian 12's etcd 3.4, here is {version}")
    environment = generator()
    assert (SYSTEMD / f"{environment.ETCD}.env").read_text() == environment.text_of_etcd(), "run packaging/environment.py"


def test_what_install_says_are_flags() -> None:
    """A variable that is no flag would be heard by nobody."""
    node = Node("n", ("192.0.2.1",))
    for unit, values in variables("server", node).items():
        template = SYSTEMD / f"{unit}.env"
        if template.exists():
            known = set(re.findall(r"^#(\w+)=", template.read_text(), re.M)) | {"NODE_NAME"}
            assert set(values) <= known
            assert f"installed/{unit}.env" in (SYSTEMD / f"{unit}.service").read_text()


def test_variables_are_heard() -> None:
    environment = {**os.environ, "KUBE_PROXY_PROXY_MODE": "no-such-mode", "MINIK8S_SCHEDULER_KUBECONFIG": "/no/such/kubeconfig"}
    runs = [subprocess.Popen([sys.executable, "-m", *words], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
            for words in (["proxy"], ["minik8s", "scheduler"])]
    (_, proxy), (_, scheduler) = (run.communicate(timeout=60) for run in runs)
    assert "no-such-mode" in proxy
    assert "/no/such/kubeconfig" in scheduler
    assert {run.returncode for run in runs} == {2}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_exposure(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed: systemd")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_every_service_is_looked_after(unit: Path) -> None:
    text = unit.read_text()
    for line in ("Type=notify", "Restart=always", "WatchdogSec=60", "PartOf=minik8s.target", "NoNewPrivileges=yes"):
        assert f"\n{line}" in text
    assert f"/{unit.stem}.env" in text
    assert BACK_OFF.search(text).group() == BACK_OFF.search(SERVICES[0].read_text()).group()


def test_systemd_knows_every_key() -> None:
    """The oldest one that is supported as well: what it does not know, it says at each start of anything."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed: systemd")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, SERVICES)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "gnor" in line] == []


@pytest.mark.parametrize(("restarts", "ran", "waits"), [
    (0, 0, None), (1, 5, None), (2, 5, 2), (5, 5, 16), (6, 5, 30), (99, 5, 30), (9, 61, None)])
def test_the_back_off_grows_unless_it_ran_for_long(restarts: int, ran: int, waits: int | None, tmp_path: Path) -> None:
    """The very line of the units, systemd asked and `sleep` replaced."""
    for name, script in (("systemctl", f"echo NRestarts={restarts}\necho ExecMainStartTimestampMonotonic=7000000\n"
                          f"echo ExecMainExitTimestampMonotonic={7_000_000 + ran * 1_000_000}"), ("sleep", "echo sleep $1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    line = BACK_OFF.search(SERVICES[0].read_text()).group(1).replace("\\\n", " ")
    done = subprocess.run(["/bin/sh", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin"}, capture_output=True, text=True,
                          check=True)
    assert (done.stdout, done.stderr) == (f"sleep {waits}\n" if waits else "", "")


def test_a_store_is_judged_by_its_silence_alone() -> None:
    """Whatever answers runs: nobody at the port, one that knows no TLS. Only one that takes us and says nothing hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("http", "https"):
            url = watchdog.place({"ETCD_LISTEN_CLIENT_URLS": f"{scheme}://0.0.0.0:{port},http://192.0.2.1:1"})
            assert url.geturl() == f"{scheme}://127.0.0.1:{port}/version"
            assert not watchdog.answers(url, watchdog.side({}) if scheme == "https" else None, 0.1)
    assert watchdog.answers(url, None, 0.1)
    assert watchdog.place({"ETCD_LISTEN_CLIENT_URLS": "http://[::]:2379"}).geturl() == "http://[::1]:2379/version"
    assert watchdog.place({"ETCD_LISTEN_CLIENT_URLS": "unix://etcd"}) is None


def invoke(which, *arguments: str):
    done = CliRunner().invoke(which, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("role", ["server", "flanneld", "proxy"])
def test_installing_twice_writes_once_and_uninstalling_leaves_nothing(
        role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    monkeypatch.setattr("minik8s.install.writing.fitted", lambda unit: unit)
    flags = ["--node-ip", "192.0.2.1", "--node-name", "n"] if role == "server" else []
    wrote = invoke(command, role, *flags, "--no-start", "--root", str(tmp_path))
    for unit in UNITS[role]:
        assert f"wrote    /etc/systemd/system/{unit}.service" in wrote
    assert invoke(command, role, *flags, "--no-start", "--root", str(tmp_path)) == ""
    for key in tmp_path.rglob("*.key"):
        assert key.stat().st_mode & 0o077 == 0
    file = tmp_path / "etc/flanneld-py" / ("flanneld-py.env" if role != "proxy" else "kube-proxy-py.env")
    file.write_text("# the administrator's\n")
    invoke(command, role, *flags, "--no-start", "--root", str(tmp_path))
    assert file.read_text() == "# the administrator's\n"
    invoke(uninstall, "--root", str(tmp_path))
    assert not list(tmp_path.rglob("*.service"))
    assert file.exists()
    invoke(uninstall, "--purge", "--root", str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("wrong", [
    ("--node-ip", "x"), ("--backend", "{"), ("--backend", '{"Port": 1}'), ("--cluster-cidr", "10.0.0.1/8")])
def test_values_that_cannot_work_are_the_users_mistake(wrong: tuple[str, str], tmp_path: Path) -> None:
    words = ["server", "--node-ip", "192.0.2.1", *wrong, "--no-start", "--root", str(tmp_path)]
    with pytest.raises(UserError, match=wrong[0]):
        CliRunner().invoke(command, words, catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minik8s.install.writing.fitted", lambda unit: unit)
    (tmp_path / "etc").touch()
    with pytest.raises(Fault, match=r"^/etc/systemd/system/flanneld-py\.service: Not a directory$"):
        invoke(command, "flanneld", "--no-start", "--root", str(tmp_path))


def test_a_port_that_somebody_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written; but the administrator may have chosen another."""
    monkeypatch.setattr(service, "main_pid", lambda _: 0)
    monkeypatch.setattr(service, "PROGRAMS", {"minik8s-etcd": ("no-such-program", "etcd-server")})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(service, "PORTS", {"minik8s-kubelet": ("0.0.0.0", (port,))})
        with pytest.raises(UserError, match=f"^port {port}, which minik8s-kubelet needs: Address already in use"):
            service.require_room(["minik8s-kubelet"], tmp_path)
        file = tmp_path / "etc/minik8s/minik8s-kubelet.env"
        file.parent.mkdir(parents=True)
        file.write_text("#MINIK8S_KUBELET_PORT=10250\n\nMINIK8S_KUBELET_PORT=10251\n")
        service.require_room(["minik8s-kubelet"], tmp_path)
    with pytest.raises(UserError, match=r"^no-such-program: not installed; Debian's package is etcd-server$"):
        service.require_room(["minik8s-etcd"], tmp_path)


def test_another_kubernetes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeadm host: no control plane over its own, and what is purged is only ours."""
    monkeypatch.setattr("minik8s.install.writing.fitted", lambda unit: unit)
    names = ("etc/kubernetes/kubelet.conf", "etc/kubernetes/pki/ca.crt", "etc/cni/net.d/10-flannel.conflist",
             "run/flannel/subnet.env")
    theirs = [tmp_path / name for name in names]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    for words in (["server", "--node-ip", "192.0.2.1"], ["agent", "192.0.2.9:6443", "--node-ip", "192.0.2.1"]):
        with pytest.raises(UserError, match=r"kubelet\.conf: this machine is another Kubernetes'"):
            CliRunner().invoke(command, [*words, "--no-start", "--root", str(tmp_path)], catch_exceptions=False)
    invoke(command, "flanneld", "--no-start", "--root", str(tmp_path))
    invoke(uninstall, "--purge", "--root", str(tmp_path))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(theirs)
    assert {path.read_text() for path in theirs} == {"theirs"}


def test_a_node_of_another_cluster_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minik8s.install.writing.fitted", lambda unit: unit)
    words = ["--node-ip", "192.0.2.1", "--no-start", "--root", str(tmp_path)]
    invoke(command, "server", *words)
    with pytest.raises(UserError, match="is for another cluster"):
        CliRunner().invoke(command, ["agent", "192.0.2.9:6443", *words], catch_exceptions=False)
    with pytest.raises(UserError, match="--token, --discovery-token-ca-cert-hash"):
        CliRunner().invoke(command, ["agent", "192.0.2.9:6443", *words[:-1], str(tmp_path / "x")], catch_exceptions=False)


def test_a_join_cut_short_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubeconfig comes first, the kubelet's certificate last: without it nobody has joined, and a token is asked for."""
    monkeypatch.setattr("minik8s.install.writing.fitted", lambda unit: unit)
    kubeconfig = tmp_path / "etc/kubernetes/kubelet.kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text('{"server": "https://192.0.2.9:6443"}')
    words = ["agent", "192.0.2.9:6443", "--node-ip", "192.0.2.1", "--no-start", "--root", str(tmp_path)]
    with pytest.raises(UserError, match="--token, --discovery-token-ca-cert-hash: needed to join"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    certificate = tmp_path / "etc/kubernetes/pki/kubelet.crt"
    certificate.parent.mkdir()
    certificate.touch()
    invoke(command, *words)


def test_a_host_that_only_wants_an_agent_needs_no_more_than_it(tmp_path: Path) -> None:
    """The plain install is without what the extra `cluster` brings."""
    script = ("import sys; sys.modules |= dict.fromkeys(['cryptography', 'orjson', 'kubernetes_validate']); "
              "from minik8s.install import writing; writing.fitted = str; from minik8s.__main__ import command; command()")
    for role in ("flanneld", "proxy"):
        words = ["install", role, "--no-start", "--root", str(tmp_path)]
        subprocess.run([sys.executable, "-c", script, *words], check=True, cwd=ROOT)
