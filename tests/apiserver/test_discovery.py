"""What the API says of itself: aggregated and older discovery agree, carry names and hashes, and are not sent twice."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from minik8s.apiserver.kinds.catalogue import KINDS, REVIEWS
from minik8s.apiserver.kinds.discovery import rank
from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
Object = dict[str, Any]


def aggregated(api: ApiServer) -> dict[tuple[str, str], Object]:
    """Every resource by group-version and name."""
    found = {}
    for root in ("/api", "/apis"):
        for group in api.call("GET", root, accept=AGGREGATED).body["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                gv = f"{name}/{version['version']}" if name else version["version"]
                found.update({(gv, each["resource"]): each for each in version["resources"]})
    return found


def test_both_discoveries_say_the_same(api: ApiServer) -> None:
    known = {gv: resource for gv, resource in aggregated(api).items() if "example.com" not in gv[0]}
    for (gv, name), resource in known.items():
        path = f"/apis/{gv}" if "/" in gv else f"/api/{gv}"
        listed = {each["name"]: each for each in api.call("GET", path).body["resources"]}
        old = listed[name]
        assert (old["kind"], old["singularName"], old["verbs"]) == (
            resource["responseKind"]["kind"], resource["singularResource"], resource["verbs"])
        assert (old.get("shortNames"), old.get("categories")) == (resource.get("shortNames"), resource.get("categories"))
        subs = {f"{name}/{sub['subresource']}" for sub in resource.get("subresources", ())}
        assert {each for each in listed if each.startswith(f"{name}/")} == subs
    assert {name for _, name in known} >= {kind.resource.plural for kind in KINDS}


def test_storage_hashes_are_those_of_the_stored_version(api: ApiServer) -> None:
    def hash_of(path: str, name: str) -> str:
        return next(each["storageVersionHash"] for each in api.call("GET", path).body["resources"] if each["name"] == name)

    def expected(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()

    assert hash_of("/api/v1", "pods") == "xPOwRZ+Yhw8="
    assert hash_of("/apis/apps/v1", "deployments") == "8aSe+NMegvE="
    assert hash_of("/apis/events.k8s.io/v1", "events") == hash_of("/api/v1", "events") == expected("/v1/Event")
    assert hash_of("/apis/autoscaling/v1", "horizontalpodautoscalers") == expected("autoscaling/v2/HorizontalPodAutoscaler")


def test_documents_are_sent_once(api: ApiServer) -> None:
    index = api.call("GET", "/openapi/v3").body["paths"]
    for path, accept in (("/apis", AGGREGATED), ("/openapi/v2", "*/*"), ("/openapi/v3", "*/*"),
                         (index["apis/apps/v1"]["serverRelativeURL"], "*/*")):
        first = api.call("GET", path, accept=accept)
        tag = first.headers["ETag"]
        assert first.code == 200
        assert api.call("GET", path, accept=accept, headers={"If-None-Match": tag}).code == 304
        assert api.call("GET", path, accept=accept, headers={"If-None-Match": '"other"'}).code == 200


def test_preferred_versions(api: ApiServer) -> None:
    groups = {group["name"]: group for group in api.call("GET", "/apis").body["groups"]}
    assert groups["autoscaling"]["preferredVersion"]["groupVersion"] == "autoscaling/v2"
    assert [each["version"] for each in groups["autoscaling"]["versions"]] == ["v2", "v1"]


def test_versions_by_rank() -> None:
    names = ["foo1", "v1", "v10", "v2alpha1", "v11beta2", "foo10", "v3beta1", "v12alpha1", "v2"]
    assert sorted(names, key=rank, reverse=True)[:7] == ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v2alpha1"]


def test_api_resources_shows_categories(api: ApiServer) -> None:
    shown = api.kubectl("api-resources", "--categories=all", "-o", "name").stdout.split()
    assert {"pods", "services", "deployments.apps", "statefulsets.apps", "jobs.batch", "cronjobs.batch",
            "horizontalpodautoscalers.autoscaling", "replicationcontrollers"} <= set(shown)
    assert "customresourcedefinitions.apiextensions.k8s.io" in api.kubectl(
        "api-resources", "--categories=api-extensions", "-o", "name").stdout


@pytest.mark.parametrize("what", ["cronjob.spec.schedule", "crd.spec.versions", "hpa.spec", "role.rules", "ing.spec.rules"])
def test_explain(api: ApiServer, what: str, old_kubectl: str) -> None:
    for binary in ("kubectl", old_kubectl):
        assert "DESCRIPTION" in api.kubectl("explain", what, binary=binary).stdout


@pytest.mark.slow
@pytest.mark.parametrize("debian", [False, True], ids=["here", "debian"])
def test_explain_knows_every_kind_down_to_its_leaves(api: ApiServer, old_kubectl: str, debian: bool) -> None:
    """Today's kubectl by the third OpenAPI, Debian's by the second: there one of each group."""
    wrong, items = [], [item.resource for item in (*KINDS, *REVIEWS)]
    for resource in {each.group: each for each in items}.values() if debian else items:
        argv = ("explain", resource.plural, f"--api-version={resource.api_version}", "--recursive")
        done = api.kubectl(*argv, binary=old_kubectl if debian else "kubectl", check=False)
        if done.returncode or not {resource.kind, "FIELDS:", "metadata", "ownerReferences"} <= set(done.stdout.split()):
            wrong.append(f"{resource.plural}: {done.stdout[:300]}{done.stderr[:300]}")
    assert not wrong, "\n".join(wrong)
