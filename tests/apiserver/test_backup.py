"""The whole state into a file and back: into another etcd, over a changed one; what is not whole, or in the way, is refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer, etcd_server

__all__ = ["etcd_server"]
pytestmark = pytest.mark.etcd
SPACE = "/api/v1/namespaces/default/configmaps"


def minik8s(command: str, etcd: EtcdServer, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "minik8s", command, "--etcd-servers", etcd.endpoint, str(file), *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)


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
        done = minik8s("backup", etcd_server, file)
        assert done.returncode == 0, done.stderr
        late = one.call("POST", SPACE, {"metadata": {"name": "late"}}).body["metadata"]["resourceVersion"]
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
            assert again.call("GET", "/api/v1/namespaces/default/events/passing").code == 200
            assert int(found["metadata"]["resourceVersion"]) > 0
            old = kept["metadata"]["resourceVersion"]
            watch = again.call("GET", f"{SPACE}?watch=1&resourceVersion={old}&timeoutSeconds=1").body
            assert (watch["type"], watch["object"]["code"]) == ("ERROR", 410)
            assert int(again.call("GET", SPACE).body["metadata"]["resourceVersion"]) > int(late)
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
