"""Other people's clients, unmodified: the official Python client with its watches and dynamic kinds, lightkube and kr8s."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.apiserver.test_crd import Widgets, definition
from tests.labs import until

kubernetes = pytest.importorskip("kubernetes", reason="the Python client is not installed")
lightkube = pytest.importorskip("lightkube", reason="lightkube is not installed")
kr8s = pytest.importorskip("kr8s", reason="kr8s is not installed")
pytestmark = pytest.mark.etcd
SPACE = "python-clients"


@pytest.fixture(scope="module")
def client(api: ApiServer) -> Any:
    made = kubernetes.config.new_client_from_config(str(api.file("admin.kubeconfig")))
    kubernetes.client.CoreV1Api(made).create_namespace({"metadata": {"name": SPACE}})
    return made


def test_the_official_client_reads_and_writes(client: Any) -> None:
    core, apps = kubernetes.client.CoreV1Api(client), kubernetes.client.AppsV1Api(client)
    core.create_namespaced_config_map(SPACE, kubernetes.client.V1ConfigMap(metadata={"name": "one"}, data={"k": "v"}))
    core.patch_namespaced_config_map("one", SPACE, {"data": {"k": "w"}})
    assert core.read_namespaced_config_map("one", SPACE).data == {"k": "w"}
    container = kubernetes.client.V1Container(name="c", image="x")
    pod = kubernetes.client.V1PodSpec(containers=[container])
    template = kubernetes.client.V1PodTemplateSpec(metadata={"labels": {"a": "b"}}, spec=pod)
    spec = kubernetes.client.V1DeploymentSpec(selector={"matchLabels": {"a": "b"}}, template=template)
    apps.create_namespaced_deployment(SPACE, kubernetes.client.V1Deployment(metadata={"name": "d"}, spec=spec))
    apps.patch_namespaced_deployment_scale("d", SPACE, {"spec": {"replicas": 4}})
    assert apps.read_namespaced_deployment("d", SPACE).spec.replicas == 4
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.read_namespaced_pod("nobody", SPACE)
    assert refused.value.status == 404
    assert "apps" in {group.name for group in kubernetes.client.ApisApi(client).get_api_versions().groups}
    assert kubernetes.client.VersionApi(client).get_code().major == "1"


def test_the_official_client_watches(client: Any) -> None:
    core, seen = kubernetes.client.CoreV1Api(client), []
    listed = core.list_namespaced_secret(SPACE)
    watch = kubernetes.watch.Watch()

    def follow() -> None:
        for event in watch.stream(core.list_namespaced_secret, SPACE, resource_version=listed.metadata.resource_version,
                                  timeout_seconds=60):
            seen.append((event["type"], event["object"].metadata.name, dict(event["object"].metadata.labels or {})))
            if event["type"] == "DELETED":
                watch.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_secret(SPACE, {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
    core.patch_namespaced_secret("s", SPACE, {"metadata": {"labels": {"a": "b"}}})
    core.delete_namespaced_secret("s", SPACE)
    follower.join(90)
    assert seen == [("ADDED", "s", {}), ("MODIFIED", "s", {"a": "b"}), ("DELETED", "s", {"a": "b"})]


def test_the_official_clients_informer_keeps_a_copy(client: Any) -> None:
    core, told = kubernetes.client.CoreV1Api(client), []
    kept = kubernetes.informer.SharedInformer(core.list_namespaced_service_account, SPACE, resync_period=1,
                                              label_selector="informed")
    for kind in ("ADDED", "DELETED"):
        kept.add_event_handler(kind, lambda obj, kind=kind: told.append((kind, obj.metadata.name)))
    kept.start()
    try:
        core.create_namespaced_service_account(SPACE, {"metadata": {"name": "a", "labels": {"informed": ""}}})
        until(lambda: kept.cache.get_by_key(f"{SPACE}/a"), what="the copy has it")
        core.patch_namespaced_service_account("a", SPACE, {"metadata": {"labels": {"informed": "twice"}}})
        until(lambda: kept.cache.get_by_key(f"{SPACE}/a").metadata.labels == {"informed": "twice"}, what="the copy has changed")
        core.create_namespaced_service_account(SPACE, {"metadata": {"name": "b", "labels": {"informed": ""}}})
        until(lambda: set(kept.cache.list_keys()) == {f"{SPACE}/a", f"{SPACE}/b"}, what="both are there")
        core.delete_namespaced_service_account("a", SPACE)
        until(lambda: kept.cache.list_keys() == [f"{SPACE}/b"], what="one is gone")
    finally:
        kept.stop()
    assert told == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]


def test_the_dynamic_client_finds_custom_kinds(api: ApiServer, client: Any) -> None:
    widgets = Widgets(api)
    widgets.define()
    dynamic = kubernetes.dynamic.DynamicClient(client)
    found = dynamic.resources.get(api_version=f"{widgets.group}/v1", kind="Widget")
    found.create(body=widgets.widget("dyn"), namespace="default")
    assert found.get(name="dyn", namespace="default").spec.size == 3
    applied = widgets.widget("dyn", size=7)
    found.server_side_apply(body=applied, name="dyn", namespace="default", field_manager="tester", force_conflicts=True)
    assert found.get(name="dyn", namespace="default").spec.size == 7
    assert [event["type"] for event in found.watch(namespace="default", timeout=1)][:1] == ["ADDED"]
    found.delete(name="dyn", namespace="default")
    api.call("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.{widgets.group}")


async def test_lightkube_lists_watches_and_applies(api: ApiServer, client: Any) -> None:
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
    from lightkube.resources.core_v1 import ConfigMap
    from lightkube.types import PatchType

    config = lightkube.KubeConfig.from_file(str(api.file("admin.kubeconfig")))
    made = lightkube.AsyncClient(config=config.get(), namespace=SPACE, field_manager="light")
    one = ConfigMap(apiVersion="v1", kind="ConfigMap", metadata=ObjectMeta(name="light", namespace=SPACE), data={"a": "1"})
    assert (await made.apply(one)).data == {"a": "1"}
    await made.patch(ConfigMap, "light", {"data": {"b": "2"}}, patch_type=PatchType.MERGE)
    assert (await made.get(ConfigMap, "light")).data == {"a": "1", "b": "2"}
    names = [item.metadata.name async for item in made.list(ConfigMap, labels=None)]
    assert "light" in names
    async for kind, obj in made.watch(ConfigMap, fields={"metadata.name": "light"}):
        assert (kind, obj.metadata.name) == ("ADDED", "light")
        break
    own = CustomResourceDefinition.from_dict(definition("light.example.com"))
    await made.create(own)
    await made.wait(CustomResourceDefinition, "widgets.light.example.com", for_conditions=["Established"])
    await made.delete(CustomResourceDefinition, "widgets.light.example.com")
    await made.delete(ConfigMap, "light")
    await made.close()


async def test_kr8s_watches_waits_and_finds_custom_kinds(api: ApiServer, client: Any) -> None:
    from kr8s.asyncio.objects import ConfigMap, Deployment

    made = await kr8s.asyncio.api(kubeconfig=str(api.file("admin.kubeconfig")), namespace=SPACE)
    assert (await made.version())["major"] == "1"
    meta, kinds = {"name": "kr8s", "namespace": SPACE, "labels": {"by": "kr8s"}}, list[str]()
    one = await ConfigMap({"metadata": meta, "data": {"a": "1"}}, api=made)
    await one.create()
    async with asyncio.timeout(60):
        following = asyncio.create_task(followed(made, kinds))
        while not kinds:  # it is told of what is there
            await asyncio.sleep(0.01)
        await one.patch({"data": {"b": "2"}})
        await one.label({"more": "yes"})
        assert [item.name async for item in made.get("configmaps", label_selector="more=yes")] == ["kr8s"]
        await one.delete()
        await following
    assert kinds == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    container = {"name": "c", "image": "x"}
    many = await Deployment({"metadata": {"name": "kr8s", "namespace": SPACE}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}}}, api=made)
    await many.create()
    await many.patch({"spec": {"replicas": 3}}, subresource="scale")
    await many.refresh()
    assert many.replicas == 3
    await many.delete()
    kind = await kr8s.asyncio.objects.CustomResourceDefinition(definition("kr8s.example.com"), api=made)
    await kind.create()
    await kind.wait("condition=Established")
    widget = kr8s.asyncio.objects.new_class("Widget", "kr8s.example.com/v1", namespaced=True, plural="widgets")
    assert [item async for item in widget.list(api=made, namespace=SPACE)] == []
    await kind.delete()


async def followed(made: Any, kinds: list[str]) -> None:
    """What becomes of one ConfigMap, until it is gone."""
    async for kind, obj in made.watch("configmaps", label_selector={"by": "kr8s"}):
        assert obj.name == "kr8s"
        kinds.append(kind)
        if kind == "DELETED":
            return
