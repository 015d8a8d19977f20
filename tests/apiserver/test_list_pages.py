"""Lists in pages, and what selectors choose: every object once, at one revision; 410 once that is compacted away."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any
from urllib.parse import quote

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd
SPACE = "list-pages"
PATH = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases"  # which nobody else makes
LABELS: dict[str, dict[str, str]] = {"a": {"env": "prod", "tier": "1"}, "b": {"env": "test"}, "c": {"env": "prod", "tier": "9"},
                                     "d": {"env": ""}, "e": {}}


@pytest.fixture(scope="module", autouse=True)
def objects(api: ApiServer) -> None:
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}}).code == 201
    for name, labels in LABELS.items():
        assert api.call("POST", PATH, {"metadata": {"name": name, "labels": labels}}).code == 201


def names(api: ApiServer, query: str) -> str:
    answer = api.call("GET", f"{PATH}?{query}")
    assert answer.code == 200, answer.body
    return "".join(item["metadata"]["name"] for item in answer.body["items"])


@pytest.mark.parametrize(("selector", "found"), [
    ("env=prod", "ac"), ("env==prod", "ac"), ("env!=prod", "bde"), ("env", "abcd"), ("!env", "e"), ("env in (prod,test)", "abc"),
    ("env notin (prod,test)", "de"), ("env=", "d"), ("tier>5", "c"), ("tier<5", "a"), ("env=prod,tier=9", "c"),
    ("env in ()", "d"), (" env = prod , tier ", "ac"), ("tier notin (1)", "bcde"), ("", "abcde"),
])
def test_label_selectors_choose(api: ApiServer, selector: str, found: str) -> None:
    assert names(api, f"labelSelector={quote(selector)}") == found


@pytest.mark.parametrize("selector", ["env=(", "=x", "env in prod", "a b", "env>x", "!", "env,,tier", "-a=b", "env=" + "x" * 64])
def test_label_selectors_that_are_none(api: ApiServer, selector: str) -> None:
    assert api.call("GET", f"{PATH}?labelSelector={quote(selector)}").code == 400


@pytest.mark.parametrize(("selector", "found"), [
    ("metadata.name=a", "a"), ("metadata.name!=a", "bcde"), ("metadata.name==b,metadata.namespace=list-pages", "b"),
    ("metadata.namespace=other", ""),
])
def test_field_selectors_choose(api: ApiServer, selector: str, found: str) -> None:
    assert names(api, f"fieldSelector={quote(selector)}") == found


def test_pages_show_one_moment(api: ApiServer) -> None:
    first = api.call("GET", f"{PATH}?limit=2").body
    assert first["metadata"]["remainingItemCount"] == 3
    api.call("POST", PATH, {"metadata": {"name": "bb"}})
    api.call("DELETE", f"{PATH}/e")
    seen, token = [item["metadata"]["name"] for item in first["items"]], first["metadata"]["continue"]
    while token:
        page: Any = api.call("GET", f"{PATH}?limit=2&continue={quote(token)}").body
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        seen += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
    assert "".join(seen) == "abcde"
    api.call("DELETE", f"{PATH}/bb")
    api.call("POST", PATH, {"metadata": {"name": "e"}})


def test_pages_with_a_selector(api: ApiServer) -> None:
    first = api.call("GET", f"{PATH}?limit=1&labelSelector=env%3Dprod").body
    assert "remainingItemCount" not in first["metadata"]
    token = quote(first["metadata"]["continue"])
    assert names(api, f"limit=1&labelSelector=env%3Dprod&continue={token}") == "c"


@pytest.mark.slow
def test_a_page_that_is_compacted_away_is_expired() -> None:
    """On an etcd of its own: who starts after a compaction knows nothing of what was before."""
    with EtcdServer.start() as etcd:
        api = ApiServer.start(etcd)
        try:
            path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
            made = [api.call("POST", path, {"metadata": {"name": name}}).body["metadata"] for name in "abc"]
            first = api.call("GET", f"{path}?limit=1").body
            last = api.call("POST", path, {"metadata": {"name": "later"}}).body["metadata"]["resourceVersion"]
            argv = ["etcdctl", "--endpoints", etcd.endpoint, "compact", last]
            subprocess.run(argv, env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True)
            expired = api.call("GET", f"{path}?limit=1&continue={quote(first['metadata']['continue'])}")
            assert (expired.code, expired.body["reason"]) == (410, "Expired")
            old = api.call("GET", f"{path}?resourceVersion={made[0]['resourceVersion']}&resourceVersionMatch=Exact")
            assert old.code == 410
            shown = json.loads(api.kubectl("get", "leases", "--chunk-size=2", "-o", "json").stdout)
            assert len(shown["items"]) == 4
        finally:
            api.close()


@pytest.mark.parametrize("query", [
    "continue=nonsense", "limit=x", "limit=-1", "continue=e30%3D", "limit=1&continue=WzEsIiJd&resourceVersion=5"])
def test_pages_that_cannot_be(api: ApiServer, query: str) -> None:
    assert api.call("GET", f"{PATH}?{query}").code == 400
