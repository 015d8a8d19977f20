"""The pure parts: selectors, defaults, validation, metadata, permissions."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.kinds import defaults, meta, service_fields, validate
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request import selectors
from minik8s.apiserver.request.bodies import decode_json
from minik8s.apiserver.request.call import Answer, later
from minik8s.apiserver.request.negotiation import Form, discovery_version, form_of
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.schema.shapes import Shapes
from minik8s.apiserver.schema.strategic import strategic_merge

PODS, SERVICES, DEPLOYMENTS = BY_PLURAL["pods"], BY_PLURAL["services"], BY_PLURAL["deployments"]


def labelled(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "x", "labels": labels}}


@pytest.mark.parametrize(("text", "yes", "no"), [
    ("a=b", labelled(a="b"), labelled(a="c")),
    ("a==b,c", labelled(a="b", c=""), labelled(a="b")),
    ("a!=b", labelled(), labelled(a="b")),
    ("a in (x, y)", labelled(a="y"), labelled(a="z")),
    ("a notin (x),b", labelled(b="1"), labelled(a="x", b="1")),
    ("!a", labelled(), labelled(a="")),
    ("! a , b", labelled(b=""), labelled(a="", b="")),
    ("n>3", labelled(n="4"), labelled(n="x")),
    ("kubernetes.io/service-name=s1", {"metadata": {"labels": {"kubernetes.io/service-name": "s1"}}}, labelled()),
])
def test_label_selectors(text: str, yes: dict[str, Any], no: dict[str, Any]) -> None:
    matches = selectors.matcher(selectors.parse_labels(text), ())
    assert matches is not None
    assert matches(yes)
    assert not matches(no)


@pytest.mark.parametrize("text", ["a=b=c", "a in x", ",", "a,,b", "a in (b", "=x", "a=b,", "n>x", "a b", "(a)"])
def test_label_selectors_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        selectors.parse_labels(text)
    assert caught.value.code == 400


@given(st.text(alphabet="ab=!,() inot<>", max_size=30))
def test_label_selectors_total(text: str) -> None:
    with contextlib.suppress(Refused):
        selectors.parse_labels(text)


def test_field_selectors() -> None:
    terms = selectors.parse_fields("spec.nodeName=n1,status.phase!=Failed", PODS.fields)
    matches = selectors.matcher((), terms)
    assert matches is not None
    assert matches({"metadata": {}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}})
    assert not matches({"metadata": {}, "spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}})
    with pytest.raises(Refused, match=r"field label not supported: spec\.foo"):
        selectors.parse_fields("spec.foo=1", PODS.fields)


def pod(**spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "x:1"}], **spec}}


def defaulted(kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    defaults.default(kind, obj)
    once = copy.deepcopy(obj)
    defaults.default(kind, obj)
    assert obj == once, "doing it twice changes something"
    return obj


def test_pod_defaults() -> None:
    spec = defaulted("Pod", pod())["spec"]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"], spec["dnsPolicy"]) == ("Always", 30, "ClusterFirst")
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert len(spec["tolerations"]) == 2


def test_service_defaults() -> None:
    obj = {"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    spec = defaulted("Service", obj)["spec"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"], spec["internalTrafficPolicy"]) == ("ClusterIP", "None", "Cluster")


def test_secret_string_data() -> None:
    assert defaulted("Secret", {"metadata": {}, "stringData": {"a": "b"}}) == {
        "metadata": {}, "type": "Opaque", "data": {"a": "Yg=="}}


def causes(refused: Refused) -> set[tuple[str, str]]:
    return {(cause["field"], cause["reason"]) for cause in refused.details["causes"]}


def test_all_that_is_wrong_is_named_at_once() -> None:
    bad = pod(restartPolicy="Sometimes")
    bad["metadata"] = {"name": "Not_A_Name", "labels": {"a b": "c"}}
    resources = {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}
    bad["spec"]["containers"][0].update(ports=[{"containerPort": 70000}], resources=resources)
    with pytest.raises(Refused) as caught:
        validate.check_new(PODS, defaulted("Pod", bad))
    assert caught.value.code == 422
    assert causes(caught.value) >= {
        ("metadata.name", "FieldValueInvalid"), ("metadata.labels", "FieldValueInvalid"),
        ("spec.restartPolicy", "FieldValueNotSupported"), ("spec.containers[0].ports[0].containerPort", "FieldValueInvalid"),
        ("spec.containers[0].resources.requests", "FieldValueInvalid")}


def test_a_pod_may_change_its_image_only() -> None:
    old, new = defaulted("Pod", pod()), defaulted("Pod", pod())
    new["spec"]["containers"][0]["image"] = "y:2"
    validate.check_change(PODS, old, new)
    new["spec"]["containers"][0]["command"] = ["sh"]
    with pytest.raises(Refused, match="pod updates may not change fields other than"):
        validate.check_change(PODS, old, new)


def deployment() -> dict[str, Any]:
    return defaulted("Deployment", {
        "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}})


def test_a_selector_is_for_life() -> None:
    old, new = deployment(), deployment()
    validate.check_new(DEPLOYMENTS, new)
    new["spec"]["selector"]["matchLabels"] = new["spec"]["template"]["metadata"]["labels"] = {"a": "c"}
    with pytest.raises(Refused, match="field is immutable"):
        validate.check_change(DEPLOYMENTS, old, new)


def marked(obj: dict[str, Any], **options: Any) -> dict[str, Any] | None:
    kind = BY_PLURAL[{"Pod": "pods", "Deployment": "deployments", "Namespace": "namespaces"}[obj["kind"]]]
    return meta.deleting(kind, obj, options, "2026-01-01T00:00:00Z", later)


def test_deletion_of_pods() -> None:
    waiting = defaulted("Pod", pod())
    assert marked(waiting) is None, "a pod on no node goes at once"
    running = defaulted("Pod", pod(nodeName="n1"))
    held = marked(running)
    assert held is not None
    assert held["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    assert held["metadata"]["deletionGracePeriodSeconds"] == 30
    assert marked(copy.deepcopy(held), gracePeriodSeconds=0) is None
    again = marked(copy.deepcopy(held), gracePeriodSeconds=5)
    assert again is not None
    assert again["metadata"]["deletionGracePeriodSeconds"] == 5
    longer = marked(copy.deepcopy(held), gracePeriodSeconds=90)
    assert longer is not None
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 30


def test_propagation_is_by_finalizers() -> None:
    held = marked(deployment(), propagationPolicy="Foreground")
    assert held is not None
    assert held["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert marked(deployment(), propagationPolicy="Background") is None
    assert marked(deployment()) is None


def test_a_service_keeps_what_it_was_given() -> None:
    old = {"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                    "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30001}]}}
    new: dict[str, Any] = {"spec": {"type": "NodePort", "ports": [{"protocol": "TCP", "port": 80}]}}
    service_fields.carry(old, new)
    assert new["spec"]["clusterIP"] == "10.96.0.9"
    assert new["spec"]["ports"][0]["nodePort"] == 30001
    plain: dict[str, Any] = {"spec": {"type": "ClusterIP", "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30001}]}}
    service_fields.carry(old, plain)
    assert "nodePort" not in plain["spec"]["ports"][0]


def test_forms() -> None:
    kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
    assert form_of(kubectl) == Form("Table", "v1")
    assert form_of("application/vnd.kubernetes.protobuf,application/json") == Form()
    with pytest.raises(Refused) as caught:
        form_of("text/html")
    assert caught.value.code == 406
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    assert discovery_version(aggregated) == "v2"
    assert discovery_version("application/json") == ""


@pytest.mark.parametrize("body", [
    b"{" * 5000, b"[" * 3000 + b"]" * 3000, b'{"a":' * 150 + b"1" + b"}" * 150, b"", b"\xff", b"nul", b'{"a":1e999}',
    b'{"a":99999999999999999999}',
])
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_json(body)
    assert caught.value.code == 400


@given(st.binary(), st.lists(st.binary(min_size=1)), st.integers(1, 60))
def test_an_answer_in_pieces(body: bytes, items: list[bytes], size: int) -> None:
    answer = Answer(200, body, items=items)
    whole = body + b",".join(items) + b"]}" if items else body
    assert b"".join(answer.pieces(size)) == b"".join(answer.pieces(answer.size)) == whole
    assert answer.size == len(whole)


class Counted(str):
    """Text that counts how often it is compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_no_patch_compares_everything_with_everything() -> None:
    """One thread serves all: what grows with the square of a body is somebody's to stop the cluster with."""
    many = 500
    names = [Counted(f"example.com/{number}") for number in range(many)]
    kept = strategic_merge(Shapes({}, {}), ("", "v1", "X"), dict.fromkeys(names, "a"), {
        "$retainKeys": [*names, "last"], **{str(name): "b" for name in reversed(names)}})
    assert len(kept) == many
    before = {"metadata": {"name": "a", "finalizers": names}}
    after = {"metadata": {"name": "a", "finalizers": [Counted(f"example.com/x{number}") for number in range(many)]}}
    validate.check_change(BY_PLURAL["configmaps"], before, after)
    with pytest.raises(Refused, match="no new finalizers"):
        validate.check_change(BY_PLURAL["configmaps"], {"metadata": {**before["metadata"], "deletionTimestamp": "x"}}, after)
    assert Counted.times < 20 * many
