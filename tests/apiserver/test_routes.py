from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.request import routes
from minik8s.apiserver.request.routes import Target


@pytest.mark.parametrize(("path", "target"), [
    ("/api/v1/pods", Target("", "v1", "pods")),
    ("/api/v1/namespaces", Target("", "v1", "namespaces")),
    ("/api/v1/namespaces/a", Target("", "v1", "namespaces", "", "a")),
    ("/api/v1/namespaces/a/status", Target("", "v1", "namespaces", "", "a", "status")),
    ("/api/v1/namespaces/a/finalize", Target("", "v1", "namespaces", "", "a", "finalize")),
    ("/api/v1/namespaces/a/pods", Target("", "v1", "pods", "a")),
    ("/api/v1/namespaces/a/pods/p/log", Target("", "v1", "pods", "a", "p", "log")),
    ("/apis/apps/v1/deployments", Target("apps", "v1", "deployments")),
    ("/apis/apps/v1/namespaces/a/deployments/d/scale", Target("apps", "v1", "deployments", "a", "d", "scale")),
    ("/api/v1/nodes/n%31", Target("", "v1", "nodes", "", "n1")),
])
def test_what_urls_mean(path: str, target: Target) -> None:
    assert routes.parse(path) == target


@pytest.mark.parametrize("path", [
    "", "/", "/api", "/api/v1", "/apis/apps/v1", "api/v1/pods", "/api/v1/namespaces/a/pods/..", "/api/v1/namespaces/../pods",
    "/api/v1/namespaces/a%2Fb/pods", "/api/v1/pods/%2e%2e", "/api/v1//pods", "/api/v1/pods/a/b/c/d", "/api/v1/nodes/a%00b",
    "/api/v1/nodes/%252e", "/api/v1/nodes/a\\b", "http://host/api/v1/pods", "/api/v1/nodes/" + "a" * 5000,
])
def test_what_cannot_be_read_means_nothing(path: str) -> None:
    assert routes.parse(path) is None


@given(st.text(alphabet="/%.abcA2Fes1\\\0 ", max_size=60))
def test_total_over_any_path(path: str) -> None:
    target = routes.parse("/api/" + path)
    if target:
        for part in (target.plural, target.namespace, target.name, target.subresource):
            assert "/" not in part
            assert part not in (".", "..")
