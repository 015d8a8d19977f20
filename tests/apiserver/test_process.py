"""The process: wrong flags, readiness, inherited sockets, memory and idleness."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.apiserver.apiprocess import ROOT, ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until
from tests.promised import in_time

pytestmark = pytest.mark.etcd
AS_SYSTEMD = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"


@pytest.mark.parametrize(("flags", "words"), [
    (["--service-cluster-ip-range", "10.96.0.1/16"], "--service-cluster-ip-range"),
    pytest.param(["--service-cluster-ip-range", "10.0.0.0/8"], "too large", marks=pytest.mark.slow),
    pytest.param(["--service-node-port-range", "9-1"], "--service-node-port-range", marks=pytest.mark.slow),
    (["--etcd-servers", "ftp://x"], "--etcd-servers"),
    pytest.param(["--etcd-certfile", "/nowhere"], "--etcd-certfile", marks=pytest.mark.slow),
    pytest.param(["--etcd-cafile", "/nowhere"], "/nowhere", marks=pytest.mark.slow),
    pytest.param(["--tls-cert-file", "/nowhere"], "--tls-cert-file: /nowhere", marks=pytest.mark.slow),
    pytest.param(["--tls-private-key-file", "CA"], "--tls-private-key-file", marks=pytest.mark.slow),
    pytest.param(["--client-ca-file", "KEY"], "--client-ca-file", marks=pytest.mark.slow),
    pytest.param(["--kubelet-client-certificate", ""], "--kubelet-client-certificate", marks=pytest.mark.slow),
    (["--bind-address", "300.1.1.1"], "--bind-address"),
    (["--bind-address", "192.0.2.7", "--advertise-address", "192.0.2.7"], "cannot listen"),
    pytest.param(["--advertise-address", "here"], "--advertise-address", marks=pytest.mark.slow),
    pytest.param(["--token-auth-file", "CA"], "--token-auth-file", marks=pytest.mark.slow),
    pytest.param(["--secure-port", "99999"], "--secure-port", marks=pytest.mark.slow),
    (["--no-such-flag"], "--no-such-flag"),
])
def test_a_wrong_flag_is_one_line_and_exit_code_2(api: ApiServer, flags: list[str], words: str) -> None:
    names = {"CA": str(api.file("ca.crt")), "KEY": str(api.file("server.key"))}
    argv = [*api.argv(), "--secure-port", "0", *(names.get(flag, flag) for flag in flags)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use(api: ApiServer) -> None:
    done = subprocess.run(api.argv(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{api.port}" in done.stderr


def test_help_is_quick() -> None:
    def processor() -> float:
        """Its seconds of processor, which a busy machine does not change: it waits for nothing."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        argv = [sys.executable, "-m", "minik8s", "apiserver", "--help"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "--etcd-servers" in done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    in_time(processor, 0.6, "help")


def test_ready_is_told_and_inherited_sockets_are_served(api_etcd: EtcdServer, tmp_path: Path) -> None:
    api = ApiServer(api_etcd, tmp_path, 0)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(90)
    inherited = socket.create_server(("127.0.0.1", 0))
    api.pki()
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "host"}
    number = inherited.fileno()
    with api.file("log").open("wb") as log:
        api.process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD, str(number), *api.argv()], cwd=ROOT, stdout=log, stderr=log, env=environment,
            pass_fds=(number,))
    try:
        assert told.recv(100) == b"READY=1"
        assert api.processor() < 8
        api.port = inherited.getsockname()[1]
        assert api.call("GET", "/readyz").code == 200
        assert api.call("GET", "/api/v1/namespaces/default").code == 200
    finally:
        inherited.close()
        told.close()
        api.close()


@pytest.mark.slow
def test_it_stays_ready_while_kinds_are_first_asked_for(api_etcd: EtcdServer) -> None:
    kinds = ("apps/v1/deployments", "apps/v1/statefulsets", "batch/v1/jobs", "batch/v1/cronjobs",
             "policy/v1/poddisruptionbudgets", "storage.k8s.io/v1/storageclasses", "networking.k8s.io/v1/ingresses",
             "networking.k8s.io/v1/networkpolicies")
    api = ApiServer.start(api_etcd)
    try:
        with ThreadPoolExecutor(len(kinds)) as pool:
            lists = [pool.submit(api.call, "GET", f"/apis/{kind}?resourceVersion=0") for kind in kinds]
            while not all(asked.done() for asked in lists):
                assert api.call("GET", "/readyz").code == 200
            assert {asked.result().code for asked in lists} == {200}
    finally:
        api.close()


def test_small_at_rest() -> None:
    with EtcdServer.start() as etcd:
        api = ApiServer.start(etcd)
        try:
            api.kubectl("get", "all", "-A")
            until(lambda: api.resident() <= 60_000_000, what="it is small")
        finally:
            api.close()


@pytest.mark.slow
def test_idle_costs_next_to_nothing(api: ApiServer) -> None:
    def idle() -> float:
        before = api.processor()
        time.sleep(3)
        return api.processor() - before

    in_time(idle, 0.06, "seconds of processor within three at rest")
