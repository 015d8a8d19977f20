"""What the store of a start needs of its environment: the API's place, our name in it, and how long it is waited for."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from flanneld_py.config import FLAGS, KubeSettings, build_settings
from flanneld_py.store.annotations import Annotations
from flanneld_py.store.kube import KubeLeaseStore, Place
from flanneld_py.store.opening import kube_config, open_store, wait_for_config, wait_for_public_addresses
from nodecore.errors import Unreachable, UserError
from nodecore.kube import config
from nodecore.kube.client import KubeClient

KUBECONFIG = {
    "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    "clusters": [{"name": "k", "cluster": {"server": "https://h:6443"}}], "users": [{"name": "u", "user": {"token": "t"}}],
}


def settings(url: str = "", kubeconfig: str = "") -> KubeSettings:
    return KubeSettings(url, kubeconfig, "flannel.alpha.coreos.com", Path("/nowhere/net-conf.json"), set_condition=True)


async def test_the_depth_of_a_queue_there_is_not_is_told_and_must_be_a_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("NODE_NAME", "node-1")
    wanted = build_settings({flag.name: () if flag.many else flag.default for flag in FLAGS} | {
        "kube-subnet-mgr": True, "kube-api-url": "http://127.0.0.1:1"
    })
    monkeypatch.setenv("EVENT_QUEUE_DEPTH", "many")
    with pytest.raises(UserError, match="EVENT_QUEUE_DEPTH: 'many' is not a number"):
        async with open_store(wanted):
            pass
    monkeypatch.setenv("EVENT_QUEUE_DEPTH", "5000")
    async with open_store(wanted):
        assert "EVENT_QUEUE_DEPTH=5000 changes nothing" in caplog.text


def test_where_the_api_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, whose server the flag overrides; the flag alone; else the service account. KUBECONFIG is not asked, as there."""
    file = tmp_path / "config"
    file.write_text(json.dumps(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", tmp_path)
    assert kube_config(settings(kubeconfig=str(file))).server == "https://h:6443"
    both = kube_config(settings("https://other:1/", str(file)))
    assert (both.server, both.token) == ("https://other:1", "t")
    assert kube_config(settings("http://other:1")).server == "http://other:1"
    with pytest.raises(UserError, match="--kube-subnet-mgr: this is not a pod"):
        kube_config(settings())
    (tmp_path / "ca.crt").write_bytes(b"pem")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    pod = kube_config(settings())
    assert (pod.server, pod.ca, pod.token_file) == ("https://[fd00::1]:443", b"pem", str(tmp_path / "token"))


async def test_a_missing_network_configuration_file_is_named() -> None:
    async with KubeClient(config.KubeConfig("http://127.0.0.1:1")) as client:
        with pytest.raises(UserError, match=r"--net-config-path: cannot read /nowhere/net-conf\.json: No such"):
            await wait_for_config(KubeLeaseStore(client, place()))


def place(limit: float | None = None) -> Place:
    return Place("node-1", Annotations.named("flannel.alpha.coreos.com"), Path("/nowhere/net-conf.json"), sync_limit=limit)


async def test_an_api_that_is_not_there_is_waited_for_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with KubeClient(config.KubeConfig("http://127.0.0.1:1")) as client:
        asking = asyncio.create_task(wait_for_public_addresses(KubeLeaseStore(client, place())))
        complaint = "Couldn't read what is written down for this node: API http://127.0.0.1:1"
        async with asyncio.timeout(60):
            while complaint not in caplog.text:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
        assert not asking.done()
        asking.cancel()
        assert caplog.text.count(complaint) == 1
        with pytest.raises(Unreachable, match="CONT_WHEN_CACHE_NOT_READY=true waits on"):
            await anext(KubeLeaseStore(client, place(limit=0.1)).watch())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(KubeLeaseStore(client, place()).watch()), 0.5)
