"""Strategic merge on the patches kubectl really sends, with a hand-made table of a few fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.schema.patch import clone
from minik8s.apiserver.schema.shapes import Field, Shape, Shapes
from minik8s.apiserver.schema.strategic import strategic_merge
from nodecore.errors import Invalid

STRING = Field("string")


def merge_list(item, key=""):
    return Field("list", Field(item), merge_key=key, strategy="merge")


SHAPES = Shapes(
    kinds={"apps/v1/Deployment": "Deployment", "/v1/Node": "Node", "/v1/Service": "Service"},
    types={
        "Deployment": Shape({"metadata": Field("Meta"), "spec": Field("DeploymentSpec")}),
        "Meta": Shape({"labels": Field("map", STRING), "annotations": Field("map", STRING), "finalizers": merge_list("string")}),
        "DeploymentSpec": Shape(
            {"replicas": Field("int32"), "strategy": Field("any", strategy="retainKeys"), "template": Field("Template")}
        ),
        "Template": Shape({"metadata": Field("Meta"), "spec": Field("PodSpec")}),
        "PodSpec": Shape({"containers": merge_list("Container", "name"), "volumes": merge_list("Volume", "name")}),
        "Container": Shape(
            {
                "image": STRING,
                "args": Field("list", STRING),
                "env": merge_list("Env", "name"),
                "ports": merge_list("Port", "containerPort"),
            }
        ),
        "Env": Shape({"name": STRING, "value": STRING}),
        "Port": Shape({"containerPort": Field("int32"), "protocol": STRING}),
        "Volume": Shape({"name": STRING, "emptyDir": Field("any"), "hostPath": Field("any")}),
        "Node": Shape({"metadata": Field("Meta"), "spec": Field("NodeSpec")}),
        "NodeSpec": Shape({"unschedulable": Field("boolean"), "taints": Field("list", Field("any"))}),
    },
)
DEPLOYMENT, NODE = ("apps", "v1", "Deployment"), ("", "v1", "Node")


def deployment(**pod):
    return {"spec": {"replicas": 2, "template": {"spec": pod}}}


def merged(gvk, target, patch):
    before = clone(target), clone(patch)
    result = strategic_merge(SHAPES, gvk, target, patch)
    assert (target, patch) == before, "inputs stay as they were"
    return result


def pod_after(pod, patch):
    return merged(DEPLOYMENT, deployment(**pod), deployment(**patch))["spec"]["template"]["spec"]


def test_set_image_touches_only_that_container():
    pod = {"containers": [{"name": "web", "image": "a:1", "args": ["x"]}, {"name": "side", "image": "b:1"}]}
    patch = {"$setElementOrder/containers": [{"name": "web"}, {"name": "side"}], "containers": [{"name": "web", "image": "a:2"}]}
    assert pod_after(pod, patch)["containers"] == [
        {"name": "web", "image": "a:2", "args": ["x"]},
        {"name": "side", "image": "b:1"},
    ]


def test_rollout_restart_adds_an_annotation():
    patch = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}
    result = merged(DEPLOYMENT, {"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}, patch)
    assert result["spec"]["template"]["metadata"] == {
        "labels": {"a": "b"},
        "annotations": {"kubectl.kubernetes.io/restartedAt": "now"},
    }


def test_taint_replaces_the_atomic_list():
    node = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
    assert merged(NODE, node, {"spec": {"taints": [{"key": "b", "effect": "NoExecute"}]}})["spec"]["taints"] == [
        {"key": "b", "effect": "NoExecute"}
    ]
    assert merged(NODE, node, {"spec": {"taints": None}}) == {"spec": {}}


def test_cordon_and_uncordon():
    assert merged(NODE, {"spec": {}}, {"spec": {"unschedulable": True}}) == {"spec": {"unschedulable": True}}
    assert merged(NODE, {"spec": {"unschedulable": True}}, {"spec": {"unschedulable": None}}) == {"spec": {}}


def test_apply_that_drops_a_container_and_an_env():
    pod = {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}]}
    patch = {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [
            {
                "name": "a",
                "$setElementOrder/env": [{"name": "Y"}],
                "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": "3"}],
            },
            {"name": "b", "$patch": "delete"},
        ],
    }
    assert pod_after(pod, patch)["containers"] == [{"name": "a", "env": [{"name": "Y", "value": "3"}]}]


def test_set_element_order_decides_the_order():
    pod = {"containers": [{"name": "a"}, {"name": "b"}]}
    patch = {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "c", "image": "i"}],
    }
    assert [c["name"] for c in pod_after(pod, patch)["containers"]] == ["c", "b", "a"]


def test_order_that_contradicts_the_patch_is_invalid():
    patch = {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "zzz"}]}
    with pytest.raises(Invalid, match="order"):
        pod_after({"containers": []}, patch)


def test_strategy_recreate_retains_only_its_type():
    before = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert merged(DEPLOYMENT, before, patch) == {"spec": {"strategy": {"type": "Recreate"}}}
    with pytest.raises(Invalid, match="retainKeys"):
        merged(DEPLOYMENT, before, {"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}})


def test_volume_source_swapped_with_retain_keys():
    patch = {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}
    assert pod_after({"volumes": [{"name": "v", "emptyDir": {}}]}, patch)["volumes"] == [
        {"name": "v", "hostPath": {"path": "/x"}}
    ]


def test_primitive_list_delete_and_add():
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}
    }
    assert merged(NODE, {"metadata": {"finalizers": ["a", "b"]}}, patch) == {"metadata": {"finalizers": ["c", "b"]}}


def test_a_replaced_list_may_repeat_a_merge_key():
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]
    change = {"containers": [{"name": "a", "ports": [*ports, {"$patch": "replace"}]}]}
    assert pod_after({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}, change) == {
        "containers": [{"name": "a", "ports": ports}]}


def test_replace_and_delete_directives():
    assert merged(NODE, {"spec": {"unschedulable": True, "x": 1}}, {"spec": {"$patch": "replace", "y": 2}}) == {"spec": {"y": 2}}
    assert merged(NODE, {"spec": {"x": 1}}, {"spec": {"$patch": "delete"}}) == {"spec": {}}
    assert pod_after({"containers": [{"name": "a"}]}, {"containers": [{"$patch": "replace"}, {"name": "b"}]}) == {
        "containers": [{"name": "b"}]
    }
    with pytest.raises(Invalid, match="patch"):
        merged(NODE, {}, {"$patch": "explode"})


def test_missing_merge_key_is_invalid():
    with pytest.raises(Invalid, match="merge key: name"):
        pod_after({"containers": [{"name": "a"}]}, {"containers": [{"image": "x"}]})


def test_a_new_container_has_no_directives_left():
    patch = {
        "containers": [{"name": "n", "$setElementOrder/env": [{"name": "E"}], "env": [{"name": "E", "value": "1"}], "args": None}]
    }
    assert pod_after({}, patch) == {"containers": [{"name": "n", "env": [{"name": "E", "value": "1"}]}]}


names = st.lists(st.sampled_from("abcde"), unique=True)


@given(names, names)
def test_merging_containers_is_idempotent_and_keeps_everyone(old, new):
    pod, patch = (
        {"containers": [{"name": n, "args": ["old"]} for n in old]},
        {"containers": [{"name": n, "image": "i"} for n in new]},
    )
    once = pod_after(pod, patch)
    assert {c["name"] for c in once["containers"]} == {*old, *new}
    assert pod_after(once, patch) == once
    assert [c["name"] for c in once["containers"] if c["name"] in new] == new
    assert [c["name"] for c in once["containers"] if c["name"] not in new] == [n for n in old if n not in new]


@given(names, names)
def test_an_explicit_order_is_obeyed(old, wanted):
    patch = {"$setElementOrder/containers": [{"name": n} for n in wanted], "containers": [{"name": n} for n in wanted]}
    got = [c["name"] for c in pod_after({"containers": [{"name": n} for n in old]}, patch).get("containers", [])]
    assert [n for n in got if n in wanted] == wanted
