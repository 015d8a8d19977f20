"""Events pass: after --event-ttl they are gone, from etcd, from lists, and from watches as a deletion."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.apiserver.apiprocess import ROOT, ApiServer
from tests.etcdserver import EtcdServer

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture(scope="module")
def forgetful(api_etcd: EtcdServer) -> Iterator[ApiServer]:
    server = ApiServer.start(api_etcd, "--event-ttl", "5s")
    try:
        yield server
    finally:
        server.close()


def event(name: str) -> dict[str, object]:
    involved = {"kind": "Pod", "name": "web", "namespace": "default"}
    return {"kind": "Event", "apiVersion": "v1", "metadata": {"name": name}, "involvedObject": involved, "reason": "Tested"}


def test_an_event_passes_and_a_change_gives_it_new_time(forgetful: ApiServer) -> None:
    began = time.monotonic()
    for name in ("short", "told-again"):
        assert forgetful.call("POST", EVENTS, event(name)).code == 201
    assert forgetful.call("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "stays"}}).code == 201
    while forgetful.call("GET", f"{EVENTS}/short").code == 200:
        assert time.monotonic() - began < 60
        patched = forgetful.call("PATCH", f"{EVENTS}/told-again", {"count": time.monotonic_ns() % 10**6},
                                 content="application/merge-patch+json")
        assert patched.code == 200
        time.sleep(0.1)
    assert time.monotonic() - began > 4.5
    names = [item["metadata"]["name"] for item in forgetful.call("GET", EVENTS).body["items"]]
    assert "told-again" in names
    assert "short" not in names
    while forgetful.call("GET", f"{EVENTS}/told-again").code == 200:
        assert time.monotonic() - began < 120
        time.sleep(0.1)
    assert forgetful.call("GET", "/api/v1/namespaces/default/configmaps/stays").code == 200


def test_a_watch_is_told(forgetful: ApiServer) -> None:
    since = forgetful.call("GET", EVENTS).body["metadata"]["resourceVersion"]
    assert forgetful.call("POST", EVENTS, event("seen")).code == 201
    connection = forgetful.connection()
    connection.request("GET", f"{EVENTS}?watch=true&fieldSelector=metadata.name%3Dseen&resourceVersion={since}")
    reply = connection.getresponse()
    assert [json.loads(reply.readline())["type"] for _ in range(2)] == ["ADDED", "DELETED"]
    connection.close()


@pytest.mark.parametrize("value", ["soon", "0s", "500ms"])
def test_a_wrong_time_is_one_line(api: ApiServer, value: str) -> None:
    argv = [*api.argv(), "--secure-port", "0", "--event-ttl", value]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--event-ttl" in done.stderr
