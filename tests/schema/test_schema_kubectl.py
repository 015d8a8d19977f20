"""kubectl, today's and Debian's 1.20, against the schema documents: explain, create, apply, strict validation, get."""

import json

import pytest

pytestmark = pytest.mark.slow

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {"name": "main", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                    {"name": "side", "image": "b:1"},
                ]
            },
        },
    },
}
PATH = "/apis/apps/v1/namespaces/default/deployments/web"


def changed(**containers):
    made = json.loads(json.dumps(DEPLOYMENT))
    made["spec"]["template"]["spec"]["containers"] = [{"name": name, **rest} for name, rest in containers.items()]
    return json.dumps(made)


def containers(stub):
    return stub.objects[PATH]["spec"]["template"]["spec"]["containers"]


async def test_apply_twice_merges_by_name(either, stub):
    await either.run("apply", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    stub.objects[PATH]["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = "/set-by-server"
    await either.run("apply", "-f", "-", stdin=changed(main={"image": "a:2", "env": [{"name": "Y", "value": "3"}]}))
    assert containers(stub) == [
        {"name": "main", "image": "a:2", "env": [{"name": "Y", "value": "3"}], "terminationMessagePath": "/set-by-server"}
    ]
    out = await either.run("apply", "-f", "-", stdin=changed(main={"image": "a:2", "env": [{"name": "Y", "value": "3"}]}))
    assert "unchanged" in out


async def test_set_image_restart_scale_and_labels(either, stub):
    await either.run("create", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    await either.run("set", "image", "deployment/web", "side=b:2")
    await either.run("rollout", "restart", "deployment/web")
    await either.run("label", "deployment/web", "tier=front", "app-")
    await either.run("patch", "deployment", "web", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":5}]')
    assert [item["image"] for item in containers(stub)] == ["a:1", "b:2"]
    assert "kubectl.kubernetes.io/restartedAt" in stub.objects[PATH]["spec"]["template"]["metadata"]["annotations"]
    assert stub.objects[PATH]["metadata"]["labels"] == {"tier": "front"}
    assert stub.objects[PATH]["spec"]["replicas"] == 5


async def test_taint_and_cordon(either, stub):
    path = "/api/v1/nodes/n1"
    stub.objects[path] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}, "status": {}}
    await either.run("taint", "node", "n1", "k=v:NoSchedule")
    await either.run("cordon", "n1")
    spec = stub.objects[path]["spec"]
    assert spec == {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}], "unschedulable": True}
    await either.run("uncordon", "n1")
    assert not stub.objects[path]["spec"].get("unschedulable")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("pod.spec.containers", ["FIELD", "containers", "image"]),
        ("deployment.spec.strategy", ["rollingUpdate", "type"]),
        ("service.spec.ports.targetPort", ["targetPort", "string"]),
        ("node", ["status", "spec", "metadata"]),
    ],
)
async def test_explain(either, stub, field, words):
    out = await either.run("explain", field)
    assert all(word in out for word in words), out


async def test_explain_recursive(either, stub):
    out = await either.run("explain", "endpointslices", "--recursive")
    assert "deprecatedTopology" in out
    assert "conditions" in out


async def test_unknown_field_is_refused(either, stub):
    wrong = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "dada": {}})
    assert "dada" in await either.run("create", "-f", "-", stdin=wrong, ok=False)
    assert not stub.objects


async def test_strict_decoding_words(kubectl, stub):
    err = await kubectl.run("create", "-f", "-", stdin=changed(main={"image": "a", "colour": "red"}), ok=False)
    assert 'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field ' in err
    assert '"spec.template.spec.containers[0].colour"' in err


async def test_get_prints_the_table(either, stub):
    await either.run("create", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    plain, wide = await either.run("get", "deployments"), await either.run("get", "deploy", "-o", "wide")
    assert [line.split() for line in plain.splitlines()] == [
        ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"],
        ["web", "0/2", "0", "0", "5m30s"],
    ]
    assert wide.splitlines()[0].split()[-3:] == ["CONTAINERS", "IMAGES", "SELECTOR"]
    assert wide.splitlines()[1].split()[-3:] == ["main,side", "a:1,b:1", "app=web"]


async def test_reviews_and_tokens_arrive_as_protobuf(kubectl, stub):
    await kubectl.run("auth", "can-i", "list", "pods", "--namespace", "x", ok=False)
    review = stub.received.pop()
    assert review["kind"] == "SelfSubjectAccessReview"
    asked = review["spec"]["resourceAttributes"]
    assert (asked["namespace"], asked["verb"], asked["resource"]) == ("x", "list", "pods")
    await kubectl.run("auth", "whoami")
    assert stub.received.pop()["kind"] == "SelfSubjectReview"
    await kubectl.run("create", "token", "robot", "--duration", "10m", ok=False)
    request = stub.received.pop()
    assert request["kind"] == "TokenRequest"
    assert request["spec"]["expirationSeconds"] == 600


async def test_dry_run_on_the_server_is_known_to_be_possible(either, stub):
    text = json.dumps(DEPLOYMENT)
    assert "server dry run" in await either.run("create", "-f", "-", "--dry-run=server", stdin=text)
    assert not stub.objects
    await either.run("apply", "-f", "-", stdin=text)
    out = await either.run("apply", "-f", "-", "--dry-run=server", "-o", "json", stdin=changed(main={"image": "a:9"}))
    assert [item["image"] for item in json.loads(out)["spec"]["template"]["spec"]["containers"]] == ["a:9"]
    assert [item["image"] for item in containers(stub)] == ["a:1", "b:1"]


async def test_replace_and_edit_of_a_namespaceless_kind(either, stub):
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "1"}}}
    await either.run("apply", "-f", "-", stdin=json.dumps(namespace))
    namespace["metadata"]["labels"] = {"a": "2"}
    await either.run("replace", "-f", "-", stdin=json.dumps(namespace))
    assert stub.objects["/api/v1/namespaces/n"]["metadata"]["labels"] == {"a": "2"}
    assert "namespace/n configured" in await either.run("apply", "-f", "-", stdin=json.dumps({**namespace, "spec": {}}))


async def test_diff_shows_the_change(kubectl, stub):
    await kubectl.run("apply", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    process_says = await kubectl.run("diff", "-f", "-", stdin=changed(main={"image": "a:9"}), ok=None)
    assert "image: a:9" in process_says
