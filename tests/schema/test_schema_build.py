"""The builder's cache: made once, made anew when stale, small once read; and what the tables say of wrong objects."""

import contextlib
import json
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minik8s.apiserver import schema
from minik8s.apiserver.schema.cache import fresh, shapes
from minik8s.apiserver.schema.served import RESOURCES
from minik8s.apiserver.schema.validation import is_sound, problems
from nodecore.errors import Invalid, NotFound, UserError

DEPLOYMENT = ("apps", "v1", "Deployment")


def deployment(**container):
    pod = {"containers": [{"name": "c", "image": "i", **container}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {}}, "template": {"spec": pod}},
    }


@pytest.fixture(autouse=True)
def _prepared(cache):
    schema.prepare(cache)


def test_a_stale_cache_is_made_anew_and_a_fresh_one_left(tmp_path):
    started = time.process_time()
    schema.prepare(tmp_path)
    assert time.process_time() - started < 5
    stamp = (tmp_path / "v2.pb").stat().st_mtime_ns
    schema.prepare(tmp_path)
    assert (tmp_path / "v2.pb").stat().st_mtime_ns == stamp
    (tmp_path / "fingerprint").write_text("older")
    assert not fresh(tmp_path)
    schema.prepare(tmp_path)
    assert fresh(tmp_path)
    assert (tmp_path / "v2.pb").stat().st_mtime_ns > stamp


def test_a_directory_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="schema cache"):
        schema.prepare(tmp_path / "file" / "cache")
    argv = [sys.executable, "-m", "minik8s.apiserver.schema.build", "--out", str(tmp_path / "file" / "x")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_tables_stay_small():
    script = (
        "import sys, asyncio, msgspec; from pathlib import Path; from minik8s.apiserver import schema\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4\n"
        "before = rss(); schema.prepare(Path(sys.argv[1])); schema.validate(('', 'v1', 'Pod'), {}); print(rss() - before)\n"
        "assert 'kubernetes_validate' not in sys.modules and 'google.protobuf' not in sys.modules and 'click' not in sys.modules"
    )
    argv = [sys.executable, "-c", script, str(_directory())]
    assert int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout) < 3000, "KiB"


def _directory():
    from minik8s.apiserver.schema.cache import _Place

    return _Place.directory


def test_every_kind_served_has_a_shape_and_a_document():
    index = json.loads(schema.openapi_v3_index())["paths"]
    for item in RESOURCES:
        assert shapes().of_kind((item.group, item.version, item.kind)), item
        gv = ("apis/" if item.group else "api/") + item.api_version
        document = json.loads(schema.openapi_v3(gv))
        patch = document["paths"][item.path("{namespace}" if item.namespaced else None, "{name}")]["patch"]
        assert patch["x-kubernetes-group-version-kind"] == {"group": item.group, "version": item.version, "kind": item.kind}
        assert {"fieldValidation", "dryRun", "fieldManager", "force"} <= {parameter["name"] for parameter in patch["parameters"]}
        assert "hash=" in index[gv]["serverRelativeURL"]
    paths = json.loads(schema.openapi_v3("api/v1"))["paths"]
    pod = "/api/v1/namespaces/{namespace}/pods/{name}/"
    assert {path.removeprefix(pod) for path in paths if path.startswith(pod)} == {
        "binding", "ephemeralcontainers", "eviction", "status"}
    assert "$ref" in json.dumps(paths[pod + "eviction"]["post"]["requestBody"])
    assert "put" in paths["/api/v1/namespaces/{name}/finalize"]
    assert "post" in paths["/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"]
    for gv in ("apis/nobody/v1", "../fingerprint", "api/../../x"):
        with pytest.raises(NotFound):
            schema.openapi_v3(gv)


def test_references_in_documents_lead_somewhere():
    for gv in json.loads(schema.openapi_v3_index())["paths"]:
        text = schema.openapi_v3(gv).decode()
        known = json.loads(text)["components"]["schemas"]
        wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert wanted <= known.keys()
        assert "#/$defs" not in text
        assert '"null"' not in text


@pytest.mark.parametrize(
    ("change", "kind", "path", "words"),
    [
        ({"foo": 1}, "unknown", "spec.template.spec.containers[0].foo", 'unknown field "spec.template.spec.containers[0].foo"'),
        (
            {"image": 5},
            "type",
            "spec.template.spec.containers[0].image",
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type string",
        ),
        ({"stdin": "yes"}, "type", "spec.template.spec.containers[0].stdin", "of type bool"),
        ({"args": "x"}, "type", "spec.template.spec.containers[0].args", "cannot unmarshal string into .* of type \\[\\]string"),
        (
            {"ports": [{"containerPort": 1.5}]},
            "type",
            "spec.template.spec.containers[0].ports[0].containerPort",
            "number 1.5 .* int32",
        ),
        ({"ports": [{"containerPort": 2**31}]}, "type", "spec.template.spec.containers[0].ports[0].containerPort", "int32"),
        ({"ports": [{}]}, "required", "spec.template.spec.containers[0].ports[0].containerPort", "Required value"),
        (
            {"resources": {"limits": {"cpu": "1x"}}},
            "type",
            "spec.template.spec.containers[0].resources.limits.cpu",
            "quantities must match",
        ),
        (
            {"livenessProbe": {"httpGet": {"port": True}}},
            "type",
            "spec.template.spec.containers[0].livenessProbe.httpGet.port",
            "IntOrString",
        ),
    ],
)
def test_what_is_wrong_is_named(change, kind, path, words):
    import re

    (error,) = schema.validate(DEPLOYMENT, deployment(**change))
    assert (error.kind, error.field) == (kind, path)
    assert re.search(words, error.message) or words == error.message


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image": None},
        {"resources": {"limits": {"cpu": 1, "memory": "1.5Gi", "x": "1e3"}}},
        {"ports": [{"containerPort": 80}]},
        {"livenessProbe": {"httpGet": {"port": "http"}}},
        {"env": [{"name": "A", "value": ""}]},
    ],
)
def test_what_is_right_passes(change):
    assert [error for error in schema.validate(DEPLOYMENT, deployment(**change)) if error.kind != "amount"] == []


def test_status_owes_nothing_and_nulls_are_absent():
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": None},
        "spec": {"containers": [], "volumes": None},
        "status": {"containerStatuses": [{"name": "c"}]},
    }
    assert schema.validate(("", "v1", "Pod"), pod) == []
    piece = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": None}
    assert schema.validate(("discovery.k8s.io", "v1", "EndpointSlice"), piece) == []
    assert schema.validate(("example.com", "v1", "Unknown"), {"a": 1}) == []


def test_bad_data_and_times():
    secret = {"metadata": {"creationTimestamp": "yesterday"}, "data": {"a": "***"}}
    assert [error.field for error in schema.validate(("", "v1", "Secret"), secret)] == ["metadata.creationTimestamp", "data.a"]
    for text, good in (("2026-11-21T14:00:00Z", True), ("2026-11-21T14:00:00.123456789+05:30", True), ("", True),
                       ("2026-13-21T14:00:00Z", False), ("2026-02-30T14:00:00Z", False), ("2026-11-21T24:00:00Z", False),
                       ("2026-11-21T14:00:00+99:00", False), ("202٣-11-21T14:00:00Z", False), ("0000-11-21T14:00:00Z", False)):
        obj = {"metadata": {"creationTimestamp": text}}
        assert (schema.validate(("", "v1", "ConfigMap"), obj) == []) is good, text


def test_refusals():
    errors = schema.validate(DEPLOYMENT, deployment(foo=1, bar=2))
    assert schema.refusal(DEPLOYMENT, errors) == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.template.spec.containers[0].foo", unknown field "spec.template.spec.containers[0].bar"'
    )
    assert schema.refusal(DEPLOYMENT, errors, strict=False) == ""
    assert schema.refusal(DEPLOYMENT, []) == ""


def test_duplicates_are_named_by_their_path():
    body = b'{"kind":"Pod","spec":{"containers":[{"name":"a","name":"b"}],"hostPID":true,"hostPID":false}}'
    assert [error.message for error in schema.duplicates(body)] == [
        'duplicate field "spec.hostPID"',
        'duplicate field "spec.containers[0].name"',
    ]
    assert schema.duplicates(b'{"a":1}') == schema.duplicates(b"{nonsense") == []


def test_strategic_merge_by_the_real_schema():
    service = {"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 53}]}}
    patch = {"spec": {"ports": [{"port": 80, "targetPort": 9090}], "selector": {"a": "b"}}}
    assert schema.strategic_merge(service, patch, ("", "v1", "Service")) == {
        "spec": {"ports": [{"port": 80, "targetPort": 9090}, {"port": 53}], "selector": {"a": "b"}}
    }
    node = {
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
            "addresses": [{"type": "InternalIP", "address": "1"}],
        }
    }
    patch = {
        "status": {
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "DiskPressure"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}],
        }
    }
    assert schema.strategic_merge(node, patch, ("", "v1", "Node"))["status"] == {
        "conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "False"}],
        "addresses": [{"type": "InternalIP", "address": "1"}],
    }
    tolerated = {"spec": {"tolerations": [{"key": "a"}]}}
    assert schema.strategic_merge(tolerated, {"spec": {"tolerations": [{"key": "b"}]}}, ("", "v1", "Pod")) == {
        "spec": {"tolerations": [{"key": "b"}]}
    }


NAMES = ["spec", "containers", "name", "image", "env", "ports", "containerPort", "volumes", "metadata", "labels", "finalizers"]
KEYS = st.sampled_from(
    [*NAMES, "$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "zzz"]
)
LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", "delete", "replace", "merge"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), TREES, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(OBJECTS, st.dictionaries(KEYS, TREES, max_size=4))
def test_any_patch_applies_or_is_invalid(obj, patch):
    before = json.dumps([obj, patch])
    with contextlib.suppress(Invalid):
        schema.strategic_merge(obj, patch, ("", "v1", "Pod"))
    assert json.dumps([obj, patch]) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(OBJECTS)
def test_any_object_can_be_judged(obj):
    for error in schema.validate(("", "v1", "Pod"), obj):
        assert error.message or error.kind == "null"
        assert error.field


WHOLE = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["a/b"]}, "spec": {
    "containers": [{"name": "c", "image": "i", "args": ["x"], "ports": [{"containerPort": 1}],
                    "resources": {"limits": {"cpu": 1}},
                    "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_what_is_found_sound_at_a_glance_is_sound(data):
    """One part of a good object is replaced by anything: a second look at what passes the first finds nothing."""
    obj = json.loads(json.dumps(WHOLE))
    inner = obj
    while True:
        key = data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))
        if not inner[key] or not isinstance(inner[key], dict | list) or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(TREES)
    tables, name = shapes(), "core.v1.Pod"
    closely = list(problems(tables, tables.types[name], name, obj))
    assert is_sound(tables.types, tables.types[name], name, obj) == (not closely)


def test_amounts_are_written_in_one_way():
    obj = deployment(resources={"limits": {"cpu": 0.5, "memory": "1024Mi", "a.b/c": 1}, "requests": {"cpu": "100m"}})
    found = schema.validate(DEPLOYMENT, obj)
    assert {error.kind for error in found} == {"amount"}
    assert not schema.refusal(DEPLOYMENT, found)
    schema.settle(DEPLOYMENT, obj)
    assert obj["spec"]["template"]["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m", "memory": "1Gi", "a.b/c": "1"}, "requests": {"cpu": "100m"}}
    assert not schema.validate(DEPLOYMENT, obj)


def test_nulls_in_lists_and_maps_are_zero_values():
    obj = deployment(args=[None, "a"], ports=[None], env=None)
    obj["metadata"]["annotations"] = {"a": None}
    found = schema.validate(DEPLOYMENT, obj)
    assert {error.field for error in found if error.kind == "null"} == {
        "metadata.annotations.a", "spec.template.spec.containers[0].args[0]", "spec.template.spec.containers[0].ports[0]"}
    schema.settle(DEPLOYMENT, obj)
    container = obj["spec"]["template"]["spec"]["containers"][0]
    assert (container["args"], container["ports"], obj["metadata"]["annotations"]) == (["", "a"], [{}], {"a": ""})
    assert [error.field for error in schema.validate(DEPLOYMENT, obj)] == [
        "spec.template.spec.containers[0].ports[0].containerPort"]
