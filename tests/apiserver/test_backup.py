"""The whole state into a file and back: into another etcd, over a changed one; what is not whole, or in the way, is refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minik8s.backup import dump
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer, etcd_server
from tests.labs import until

__all__ = ["etcd_server"]
pytestmark = pytest.mark.etcd
SPACE = "/api/v1/namespaces/default/configmaps"


def minik8s(command: str, etcd: EtcdServer, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "minik8s", command, "--etcd-servers", etcd.endpoint, str(file), *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)


class Writer(threading.Thread):
    """Makes one object after the other: w0, w1, ...; some before and some after what is done meanwhile."""

    def __init__(self, api: ApiServer) -> None:
        super().__init__()
        self.api, self.made, self.over = api, 0, threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            meta = {"name": f"w{self.made}", "labels": {"writer": "yes"}}
            self.made += self.api.call("POST", SPACE, {"metadata": meta}).code == 201

    def __enter__(self) -> Writer:
        self.start()
        until(lambda: self.made > 5, seconds=30)
        return self

    def __exit__(self, *exc: object) -> None:
        made = self.made
        until(lambda: self.made > made, seconds=30)
        self.over.set()
        self.join(30)


@pytest.mark.slow
def test_there_and_back(etcd_server: EtcdServer, tmp_path: Path) -> None:
    file = tmp_path / "state.gz"
    one = ApiServer.start(etcd_server)
    try:
        one.call("POST", SPACE, {"metadata": {"name": "kept"}, "data": {"text": "é\n" * 50}})
        one.call("POST", "/api/v1/namespaces/default/events", {
            "metadata": {"name": "passing"}, "involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}})
        for n in range(30):
            one.call("POST", SPACE, {"metadata": {"name": f"n{n}"}})
        kept = one.call("GET", f"{SPACE}/kept").body
        with Writer(one) as writer:
            done = minik8s("backup", etcd_server, file)
        assert done.returncode == 0, done.stderr
        assert one.call("POST", SPACE, {"metadata": {"name": "late"}}).code == 201
        refused = minik8s("restore", etcd_server, file)
        assert (refused.returncode, refused.stderr) == (
            2, "minik8s: etcd holds keys below /registry/ already; --force puts the backup in their place\n")
    finally:
        one.close()
    with EtcdServer.start() as other:
        assert minik8s("restore", other, file).returncode == 0
        assert minik8s("restore", other, file, "--force").returncode == 0
        again = ApiServer.start(other)
        try:
            found = again.call("GET", f"{SPACE}/kept").body
            assert (found["data"], found["metadata"]["uid"]) == (kept["data"], kept["metadata"]["uid"])
            assert again.call("GET", f"{SPACE}/late").code == 404
            written = again.call("GET", f"{SPACE}?labelSelector=writer").body["items"]
            numbers = [int(each["metadata"]["name"][1:]) for each in written]
            assert sorted(numbers) == list(range(len(numbers))), "what there was at one moment, though writes went on"
            assert 0 < len(numbers) <= writer.made
            assert again.call("GET", "/api/v1/namespaces/default/events/passing").code == 200
            assert int(found["metadata"]["resourceVersion"]) > 0
            old = kept["metadata"]["resourceVersion"]
            watch = again.call("GET", f"{SPACE}?watch=1&resourceVersion={old}&timeoutSeconds=1").body
            assert (watch["type"], watch["object"]["code"]) == ("ERROR", 410)
            assert int(again.call("GET", SPACE).body["metadata"]["resourceVersion"]) > dump.read(file)[0].revision
        finally:
            again.close()


def test_what_is_not_whole_is_refused(etcd_server: EtcdServer, tmp_path: Path) -> None:
    file, cut, other = tmp_path / "state.gz", tmp_path / "cut.gz", tmp_path / "other"
    assert minik8s("backup", etcd_server, file).returncode == 0
    cut.write_bytes(file.read_bytes()[:-9])
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    other.write_bytes(gzip.compress(b"".join([lines[0].replace(b"registry", b"elsewhere"), *lines[1:]])))
    for bad, why in ((cut, "no backup"), (other, "damaged"), (tmp_path / "none", "is not there")):
        refused = minik8s("restore", etcd_server, bad)
        assert (refused.returncode, why in refused.stderr) == (2, True), refused.stderr
