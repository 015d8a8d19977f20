"""Secrets sealed in etcd: nobody reads them there, the API does, and keys are changed without a gap."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.apiserver.storage.sealing import MARK, STALE, read_sealing
from nodecore.errors import Invalid, UserError
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd
KEYS = {name: base64.b64encode(os.urandom(32)).decode() for name in ("one", "two")}
SECRETS = "/api/v1/namespaces/default/secrets"


def write(path: Path, *providers: str, resources: tuple[str, ...] = ("secrets",)) -> str:
    def provider(name: str) -> dict[str, Any]:
        return {"aesgcm": {"keys": [{"name": name, "secret": KEYS[name]}]}} if name in KEYS else {name: {}}
    path.write_text(json.dumps({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [
        {"resources": list(resources), "providers": [provider(name) for name in providers]}]}))
    return str(path)


def stored(etcd: EtcdServer, name: str) -> bytes:
    argv = ["etcdctl", "--endpoints", etcd.endpoint, "get", "--print-value-only", f"/registry/secrets/default/{name}"]
    return subprocess.run(argv, capture_output=True, check=True, env={**os.environ, "ETCDCTL_API": "3"}).stdout


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer.start() as server:
        yield server


@pytest.mark.slow
def test_keys_come_and_go(etcd: EtcdServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    api = ApiServer.start(etcd)
    try:
        plain = {"metadata": {"name": "old"}, "data": {"k": base64.b64encode(b"hidden-value").decode()}}
        assert api.call("POST", SECRETS, plain).code == 201
        assert plain["data"]["k"].encode() in stored(etcd, "old")
        api.extra = ("--encryption-provider-config", str(config))
        for number, providers in enumerate((("one", "identity"), ("two", "one"), ("two",), ("identity", "two"))):
            write(config, *providers)
            api.process and api.process.terminate()
            api.process and api.process.wait()
            api.launch()
            api.wait()
            assert api.call("GET", f"{SECRETS}/old").body["data"] == plain["data"], providers
            listed = api.call("GET", SECRETS).body["items"]
            assert [item["data"] for item in listed] == [plain["data"]], providers
            kept = api.call("GET", f"{SECRETS}/old").body
            assert api.call("PUT", f"{SECRETS}/old", kept).code == 200
            raw = stored(etcd, "old")
            if providers[0] == "identity":
                assert plain["data"]["k"].encode() in raw
            else:
                assert raw.startswith(MARK + providers[0].encode() + b":"), (number, raw[:40])
                assert plain["data"]["k"].encode() not in raw
    finally:
        api.close()


def test_what_is_sealed(tmp_path: Path) -> None:
    first = read_sealing(write(tmp_path / "a", "one", "identity"))
    key, value = "/registry/secrets/a/b", b'{"a":1}'
    sealed = first.seal(key, value)
    assert first.open(key, sealed) == value
    assert first.open(key, value) == value + STALE
    assert first.seal("/registry/pods/a/b", value) == value
    second = read_sealing(write(tmp_path / "b", "two", "one"))
    assert second.open(key, sealed) == value + STALE
    for wrong in (sealed[:-1], sealed[:-1] + b"\0"):
        with pytest.raises(Invalid):
            first.open(key, wrong)
    with pytest.raises(Invalid):
        first.open("/registry/secrets/a/c", sealed)
    with pytest.raises(Invalid):
        read_sealing(write(tmp_path / "c", "two")).open(key, sealed)
    whole = read_sealing(write(tmp_path / "d", "one", resources=("*.*",)))
    assert whole.seal("/registry/pods/a/b", value).startswith(MARK)


HEAD = "kind: EncryptionConfiguration\nresources: "


@pytest.mark.parametrize(("text", "words"), [
    ("kind: x", "no EncryptionConfiguration"), (":", "neither JSON nor YAML|no Encryption"), ("[", "neither JSON nor YAML"),
    (HEAD + "[{resources: [secrets], providers: [{aescbc: {}}]}]", "'aescbc' is not supported"),
    (HEAD + "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: eA==}]}}]}]",
     "16, 24 or 32 bytes"),
])
def test_wrong_configurations(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError, match=words):
        read_sealing(str(tmp_path / "x"))
    with pytest.raises(UserError, match="No such file"):
        read_sealing(str(tmp_path / "none"))
