"""The controllers and the scheduler as processes on a real API, asked through the real kubectl."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.controllers.cluster import Kubelets, deployment, kubelets, node, service
from tests.plane import Plane, until
from tests.promised import in_time

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
FLAGS = ("--node-monitor-grace-period", "1h", "--allocate-node-cidrs", "--cluster-cidr", "10.244.0.0/16")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane.start(tmp_path_factory.mktemp("plane")) as started:
        started.agent("controllers", *FLAGS)
        started.agent("scheduler")
        for name in ("n1", "n2", "n3"):
            started.kubectl("create", "--validate=false", "-f", "-", body=node(name))
        yield started


@pytest.fixture(scope="module")
def served(plane: Plane) -> Iterator[Kubelets]:
    with kubelets(plane) as running:
        yield running


@pytest.fixture
def web(plane: Plane, served: Kubelets) -> Iterator[Plane]:
    """A Deployment of three with a Service, rolled out; gone afterwards with all that belongs to it."""
    plane.apply(deployment(), service())
    rolled_out(plane)
    until(lambda: served.ready("web") == 3, "what is rolled out has come to the kubelets' own eyes")
    served.watching, served.most_active, served.fewest_ready = "web", 0, None
    yield plane
    served.watching = ""
    plane.kubectl("delete", "deployment/web", "service/web", "--ignore-not-found", "--cascade=foreground")
    until(lambda: not plane.get("pods", "-l", "app=web")["items"], "pods gone")


def rolled_out(plane: Plane, what: str = "deployment/web") -> None:
    assert "successfully rolled out" in plane.kubectl("rollout", "status", what, "--timeout=120s")


def images(plane: Plane) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in plane.get("pods", "-l", "app=web")["items"]
            if not pod["metadata"].get("deletionTimestamp")]


def addresses(plane: Plane) -> set[str]:
    found = plane.get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
    return {raw["addresses"][0] for each in found for raw in each.get("endpoints") or [] if raw["conditions"]["ready"]}


def pod_addresses(plane: Plane) -> set[str]:
    return {pod["status"].get("podIP", "") for pod in plane.get("pods", "-l", "app=web")["items"]
            if not pod["metadata"].get("deletionTimestamp")}


def test_three_replicas_stand_on_three_nodes_behind_their_service(web: Plane) -> None:
    pods = web.get("pods", "-l", "app=web")["items"]
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["n1", "n2", "n3"]
    until(lambda: addresses(web) == pod_addresses(web), "endpoints")
    legacy = until(lambda: (found := web.get("endpoints", "web").get("subsets")) and {
        each["ip"] for each in found[0].get("addresses", [])} == addresses(web) and found, "the older form of them")
    assert legacy[0]["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    until(lambda: "Successfully assigned default/web-" in web.kubectl("get", "events"), "event")


def test_a_rollout_forth_and_back_keeps_its_bounds(web: Plane, served: Kubelets) -> None:
    web.kubectl("set", "image", "deployment/web", "web=web:2")
    rolled_out(web)
    assert images(web) == ["web:2"] * 3
    assert served.most_active <= 4
    assert (served.fewest_ready or 0) >= 3
    history = web.kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["1", "2"]
    web.kubectl("rollout", "undo", "deployment/web")
    rolled_out(web)
    assert images(web) == ["web:1"] * 3
    history = web.kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["2", "3"]
    assert "web:2" in web.kubectl("rollout", "history", "deployment/web", "--revision=2")
    assert (served.fewest_ready or 0) >= 3
    until(lambda: addresses(web) == pod_addresses(web), "endpoints")


def test_restart_pause_resume_and_scale(web: Plane, served: Kubelets) -> None:
    before = {pod["metadata"]["uid"] for pod in web.get("pods", "-l", "app=web")["items"]}
    web.kubectl("rollout", "restart", "deployment/web")
    rolled_out(web)
    after = {pod["metadata"]["uid"] for pod in web.get("pods", "-l", "app=web")["items"]
             if not pod["metadata"].get("deletionTimestamp")}
    assert len(after) == 3
    assert not before & after
    web.kubectl("rollout", "pause", "deployment/web")
    web.kubectl("set", "image", "deployment/web", "web=web:9")
    web.kubectl("scale", "deployment/web", "--replicas=5")
    until(lambda: images(web) == ["web:1"] * 5, "scaled while paused")
    web.kubectl("rollout", "resume", "deployment/web")
    rolled_out(web)
    assert images(web) == ["web:9"] * 5
    web.kubectl("scale", "deployment/web", "--replicas=0")
    until(lambda: images(web) == [], "scaled to nothing")
    until(lambda: addresses(web) == set(), "no endpoints")
    web.kubectl("scale", "deployment/web", "--replicas=2")
    rolled_out(web)
    assert web.get("deployment", "web")["status"]["readyReplicas"] == 2


def test_a_rollout_that_cannot_succeed_fails_in_time_and_harms_nobody(web: Plane, served: Kubelets) -> None:
    web.kubectl("patch", "deployment/web", "-p", '{"spec":{"progressDeadlineSeconds":2,"minReadySeconds":0}}')
    web.kubectl("set", "image", "deployment/web", "web=broken")
    said = web.kubectl("rollout", "status", "deployment/web", "--timeout=120s", check=False)
    assert "exceeded its progress deadline" in said
    assert images(web).count("web:1") == 3
    assert (served.fewest_ready or 0) >= 3
    web.kubectl("rollout", "undo", "deployment/web")
    rolled_out(web)
    assert images(web) == ["web:1"] * 3


def test_a_lost_pod_is_replaced_and_leaves_the_endpoints(web: Plane) -> None:
    until(lambda: addresses(web) == pod_addresses(web), "endpoints")
    name = web.get("pods", "-l", "app=web")["items"][0]["metadata"]["name"]
    web.kubectl("delete", "pod", name, "--wait=false")
    until(lambda: len(pods := images(web)) == 3 and pods, "replacement")
    until(lambda: len(addresses(web)) == 3 and addresses(web) == pod_addresses(web), "endpoints")


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_a_deleted_deployment_takes_everything_with_it(web: Plane, cascade: str) -> None:
    web.kubectl("delete", "deployment/web", f"--cascade={cascade}")
    until(lambda: not web.get("replicasets,pods", "-l", "app=web")["items"], "nothing left")


def test_an_orphaned_replica_set_lives_on_and_is_adopted_again(web: Plane) -> None:
    web.kubectl("delete", "deployment/web", "--cascade=orphan")
    left = web.get("replicasets", "-l", "app=web")["items"]
    assert len(left) == 1
    assert not left[0]["metadata"].get("ownerReferences")
    assert len(images(web)) == 3
    web.apply(deployment())
    rolled_out(web)
    again = web.get("replicasets", "-l", "app=web")["items"]
    assert [each["metadata"]["uid"] for each in again] == [left[0]["metadata"]["uid"]]


def test_a_pod_that_fits_nowhere_says_why_and_goes_when_it_can(plane: Plane, served: Kubelets) -> None:
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "6"}}}
    plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"}, "spec": {"containers": [container]}})
    until(lambda: "0/3 nodes are available: 3 Insufficient cpu." in plane.kubectl("describe", "pod", "big"), "reason")
    plane.kubectl("create", "--validate=false", "-f", "-", body=node("n4", cpu="8"))
    until(lambda: plane.get("pod", "big")["spec"].get("nodeName") == "n4", "bound")
    plane.kubectl("delete", "pod/big", "node/n4")


def test_nodes_get_networks_that_differ(plane: Plane) -> None:
    cidrs = [each["spec"]["podCIDR"] for each in plane.get("nodes")["items"]]
    assert len(cidrs) == len(set(cidrs)) >= 3
    assert all(cidr.startswith("10.244.") and cidr.endswith("/24") for cidr in cidrs)


def test_a_drain_waits_for_its_budget(web: Plane, served: Kubelets) -> None:
    web.kubectl("create", "pdb", "web", "--selector=app=web", "--min-available=3")
    def columns() -> list[str]:
        return web.kubectl("get", "pdb", "web").splitlines()[1].split()[:4]
    try:
        until(lambda: columns() == ["web", "3", "N/A", "0"], "nothing may go")
        until(lambda: "Cannot evict pod as it would violate the pod's disruption budget" in web.kubectl(
            "drain", "n1", "--timeout=2s", check=False), "the refusal")
        assert len(images(web)) == 3
        web.kubectl("patch", "pdb", "web", "--type=merge", "-p", '{"spec":{"minAvailable":2}}')
        until(lambda: columns() == ["web", "2", "N/A", "1"], "one may go")
        assert "drained" in web.kubectl("drain", "n1", "n2", "--timeout=120s")
        assert (served.fewest_ready or 0) >= 2
        until(lambda: columns()[3] == "1", "one may go again")
        status = web.get("pdb", "web")["status"]
        assert (status["currentHealthy"], status["desiredHealthy"], status["expectedPods"]) == (3, 2, 3)
        assert not status.get("disruptedPods")
        assert status["conditions"][0]["reason"] == "SufficientPods"
    finally:
        web.kubectl("uncordon", "n1", "n2")
        web.kubectl("delete", "pdb", "web")


def test_a_daemon_set_follows_nodes_and_templates(plane: Plane, served: Kubelets) -> None:
    body: dict[str, Any] = deployment("agent")
    body["kind"] = "DaemonSet"
    del body["spec"]["replicas"]
    plane.apply(body)
    rolled_out(plane, "daemonset/agent")
    assert plane.get("daemonset", "agent")["status"]["numberReady"] == 3
    plane.kubectl("create", "--validate=false", "-f", "-", body=node("n5"))
    until(lambda: plane.get("daemonset", "agent")["status"].get("numberReady") == 4, "a fourth")
    plane.kubectl("set", "image", "daemonset/agent", "web=agent:2")
    rolled_out(plane, "daemonset/agent")
    rows = [line.split()[0] for line in plane.kubectl("rollout", "history", "daemonset/agent").splitlines() if line[:1].isdigit()]
    assert rows == ["1", "2"]
    assert "web:1" in plane.kubectl("rollout", "history", "daemonset/agent", "--revision=1")
    assert "daemonset.apps/agent" in plane.kubectl("get", "controllerrevisions")
    plane.kubectl("rollout", "undo", "daemonset/agent")
    rolled_out(plane, "daemonset/agent")
    assert plane.get("daemonset", "agent")["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1"
    until(lambda: "3" in plane.kubectl("rollout", "history", "daemonset/agent"), "the old template's new number")
    plane.kubectl("rollout", "undo", "daemonset/agent", "--to-revision=2")
    rolled_out(plane, "daemonset/agent")
    plane.kubectl("cordon", "n5")
    plane.kubectl("delete", "node", "n5")
    until(lambda: plane.get("daemonset", "agent")["status"].get("desiredNumberScheduled") == 3, "back to three")
    pods = until(lambda: len(found := plane.get("pods", "-l", "app=agent")["items"]) == 3 and found, "pod of the node gone")
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"agent:2"}
    plane.kubectl("delete", "daemonset", "agent")
    until(lambda: not plane.get("pods,controllerrevisions", "-l", "app=agent")["items"], "daemons gone, and their history")


def test_a_namespace_has_its_account_and_goes_with_all_it_holds(plane: Plane, served: Kubelets) -> None:
    plane.kubectl("create", "namespace", "short")
    until(lambda: plane.get("serviceaccounts", "-n", "short")["items"], "default account")
    body = deployment()
    body["metadata"]["namespace"] = "short"
    inside = {"name": "c", "namespace": "short"}
    plane.apply(body, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": inside},
                {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": inside, "revision": 1})
    assert "successfully" in plane.kubectl("rollout", "status", "deployment/web", "-n", "short", "--timeout=120s")
    plane.kubectl("delete", "namespace", "short", "--timeout=120s")
    assert "not found" in plane.kubectl("get", "namespace", "short", check=False)
    assert "No resources found" in plane.kubectl("get", "controllerrevisions", "-n", "short")


def test_a_service_range_stays_while_it_is_needed(plane: Plane) -> None:
    text = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
            "spec": {"cidrs": ["10.202.0.0/24"]}}
    inside = {**service("inside"), "spec": {**service()["spec"], "clusterIP": "10.202.0.9"}}
    plane.apply(text)
    plane.kubectl("wait", "servicecidr/more", "--for=condition=Ready", "--timeout=120s")
    until(lambda: plane.get("servicecidr", "more")["metadata"].get("finalizers"), "it is held")
    plane.apply(inside)
    plane.kubectl("delete", "servicecidr", "more", "--wait=false")
    said = until(lambda: plane.get("servicecidr", "more")["status"]["conditions"][0]["status"] == "False"
                 and plane.kubectl("describe", "servicecidr", "more"), "it says why it stays")
    assert "There are still IPAddresses referencing the ServiceCIDR" in said
    plane.kubectl("delete", "service", "inside")
    plane.kubectl("wait", "servicecidr/more", "--for=delete", "--timeout=120s")
    other = {**inside, "metadata": {"name": "late", "namespace": "default"}}
    assert "not in the valid range" in plane.kubectl("create", "-f", "-", body=other, check=False)


def test_what_only_discovery_names_goes_with_its_owner_too(plane: Plane) -> None:
    """No controller plans for ConfigMaps and Secrets: they are followed because the API serves them."""
    plane.kubectl("create", "configmap", "owner")
    uid = plane.get("configmap", "owner")["metadata"]["uid"]
    refs = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]
    plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned", "ownerReferences": refs}})
    plane.kubectl("delete", "configmap", "owner")
    until(lambda: "not found" in plane.kubectl("get", "secret", "owned", check=False), "the secret gone")


def test_kill_9_in_the_middle_of_a_rollout_changes_nothing(web: Plane, served: Kubelets) -> None:
    web.kubectl("set", "image", "deployment/web", "web=web:7")
    for agent in list(web.agents):
        if agent.name in ("controllers", "scheduler") and agent.process.poll() is None:
            agent.kill9()
    again = web.agent("controllers", *FLAGS)
    web.agent("scheduler")
    rolled_out(web)
    assert "standing by" not in again.log.read_text(), "the lease of an earlier life was waited for"
    assert images(web) == ["web:7"] * 3
    assert served.most_active <= 4
    assert (served.fewest_ready or 0) >= 3
    until(lambda: again.rss_mb() <= 60, "it is small")


def test_a_second_process_stands_by_and_takes_over(web: Plane) -> None:
    leader = next(agent for agent in web.agents if agent.name == "controllers" and agent.process.poll() is None)
    web.agent("controllers", "--identity", "other", "--node-monitor-grace-period", "1h")
    web.kubectl("scale", "deployment/web", "--replicas=4")
    rolled_out(web)
    made = [line for line in web.kubectl("get", "events").splitlines() if "Created pod: web-" in line]
    assert len({line.rpartition(" ")[2] for line in made}) == len(made)
    assert leader.stop() == 0
    web.kubectl("scale", "deployment/web", "--replicas=2")
    until(lambda: len(images(web)) == 2, "the other has taken over")
    lease = web.get("lease", "kube-controller-manager", "-n", "kube-system")
    assert lease["spec"]["holderIdentity"] == "other"


def test_a_wrong_flag_is_one_line_and_exit_code_2(plane: Plane) -> None:
    for flags, complaint in ((["--kubeconfig", "/nowhere"], "/nowhere: No such file"),
                             (["--kubeconfig", str(plane.kubeconfig), "--allocate-node-cidrs"], "--cluster-cidr: needed"),
                             (["--kubeconfig", str(plane.kubeconfig), "--node-monitor-grace-period", "x"], "is not a duration")):
        argv = [sys.executable, "-m", "minik8s", "controllers", *flags]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_after_all_this_work_the_agents_are_small_and_idle(plane: Plane, served: Kubelets) -> None:
    agents = [agent for agent in plane.agents if agent.process.poll() is None]
    assert {"apiserver", "controllers", "scheduler"} <= {agent.name for agent in agents}
    until(lambda: all(agent.rss_mb() <= 60 for agent in agents), f"at rest: {[agent.rss_mb() for agent in agents]}", timeout=75)

    def busiest() -> float:
        before = [agent.cpu_seconds() for agent in agents]
        time.sleep(15)
        return max(agent.cpu_seconds() - was for agent, was in zip(agents, before, strict=True))

    in_time(busiest, 0.15, "seconds of processor within fifteen at rest")
