"""What `kubectl get` prints: ages, pod statuses, and a golden row for every kind."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.schema import table
from minik8s.apiserver.schema.age import human, since

NOW = datetime.datetime(2026, 1, 1, 0, 5, 30, tzinfo=datetime.UTC)
META = {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (615, "10m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 5 * MINUTE, "3h5m"),
        (8 * HOUR, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + 4 * HOUR, "2d4h"),
        (8 * DAY, "8d"),
        (400 * DAY, "400d"),
        (730 * DAY, "2y"),
        (731 * DAY, "2y1d"),
        (8 * 365 * DAY, "8y"),
    ],
)
def test_ages(seconds, text):
    assert human(seconds) == text


@given(st.integers(0, 20 * 365 * DAY))
def test_an_age_is_short_and_never_longer_than_the_truth(seconds):
    text = human(seconds)
    units = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "y": 365 * DAY}
    told, number = 0, ""
    for letter in text:
        if letter.isdigit():
            number += letter
        else:
            told, number = told + int(number) * units[letter], ""
    assert told <= seconds
    assert len(text) <= 6


def test_no_timestamp_is_unknown():
    assert since(None, NOW) == since("nonsense", NOW) == "<unknown>"


def pod(phase="Running", containers=("a",), statuses=(), **rest):
    spec = {"containers": [{"name": name} for name in containers], **rest.pop("spec", {})}
    status = {"phase": phase, "containerStatuses": list(statuses), **rest.pop("status", {})}
    return {"metadata": {**META, **rest}, "spec": spec, "status": status}


RUNNING = {"name": "a", "ready": True, "restartCount": 0, "state": {"running": {}}}
WAITING = {"name": "a", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
CRASHING = {
    "name": "a",
    "ready": False,
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:04:30Z"}},
}
COMPLETED = {"name": "b", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
KILLED = {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 137, "signal": 9}}}
FAILED = {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 2}}}
INIT = {"initContainers": [{"name": "i"}, {"name": "j"}]}
SIDECAR = {"initContainers": [{"name": "s", "restartPolicy": "Always"}]}


def init(**state):
    return {"name": "i", "restartCount": 0, "state": state}


@pytest.mark.parametrize(
    ("one", "ready", "status", "restarts"),
    [
        (pod("Pending"), "0/1", "Pending", "0"),
        (pod(statuses=[RUNNING]), "1/1", "Running", "0"),
        (pod("Pending", statuses=[WAITING]), "0/1", "ImagePullBackOff", "0"),
        (pod(statuses=[CRASHING]), "0/1", "CrashLoopBackOff", "3 (60s ago)"),
        (pod("Succeeded", statuses=[COMPLETED]), "0/1", "Completed", "0"),
        (pod("Failed", statuses=[KILLED]), "0/1", "Signal:9", "0"),
        (pod("Failed", statuses=[FAILED]), "0/1", "ExitCode:2", "0"),
        (pod(containers="ab", statuses=[RUNNING, COMPLETED]), "1/2", "NotReady", "0"),
        (pod(containers="ab", statuses=[COMPLETED, RUNNING]), "1/2", "NotReady", "0"),
        (
            pod(containers="ab", statuses=[COMPLETED, RUNNING], status={"conditions": [{"type": "Ready", "status": "True"}]}),
            "1/2",
            "Running",
            "0",
        ),
        (pod("Failed", status={"reason": "Evicted"}), "0/1", "Evicted", "0"),
        (pod(statuses=[RUNNING], deletionTimestamp="2026-01-01T00:05:00Z"), "1/1", "Terminating", "0"),
        (pod("Succeeded", statuses=[COMPLETED], deletionTimestamp="2026-01-01T00:05:00Z"), "0/1", "Completed", "0"),
        (pod(status={"reason": "NodeLost"}, deletionTimestamp="2026-01-01T00:05:00Z"), "0/1", "Unknown", "0"),
        (pod("Pending", spec=INIT, status={"initContainerStatuses": [init(running={})]}), "0/1", "Init:0/2", "0"),
        (
            pod("Pending", spec=INIT, status={"initContainerStatuses": [init(terminated={"exitCode": 0}), init(waiting={})]}),
            "0/1",
            "Init:1/2",
            "0",
        ),
        (
            pod("Pending", spec=INIT, status={"initContainerStatuses": [init(terminated={"exitCode": 1, "reason": "Error"})]}),
            "0/1",
            "Init:Error",
            "0",
        ),
        (
            pod("Pending", spec=INIT, status={"initContainerStatuses": [init(waiting={"reason": "CrashLoopBackOff"})]}),
            "0/1",
            "Init:CrashLoopBackOff",
            "0",
        ),
        (
            pod(
                statuses=[RUNNING],
                spec=SIDECAR,
                status={
                    "initContainerStatuses": [
                        {"name": "s", "restartCount": 2, "started": True, "ready": True, "state": {"running": {}}}
                    ]
                },
            ),
            "2/2",
            "Running",
            "2",
        ),
        (
            pod("Pending", status={"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "0/1",
            "SchedulingGated",
            "0",
        ),
    ],
)
def test_pod_columns(one, ready, status, restarts):
    assert table("Pod", [one], NOW)["rows"][0]["cells"][:4] == ["x", ready, status, restarts]


TEMPLATE = {"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}], "nodeSelector": {"k": "v"}}}
SELECTOR = {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "z", "operator": "In", "values": ["q", "p"]}]}
SELECTED = "a=1,b=2,z in (p,q)"
GOLDEN = {
    "Node": (
        {
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {
                    "kubeletVersion": "v1",
                    "osImage": "Debian",
                    "kernelVersion": "6.1",
                    "containerRuntimeVersion": "containerd://1.6",
                },
            },
        },
        ["x", "Ready,SchedulingDisabled", "<none>", "5m30s", "v1", "10.0.0.1", "<none>", "Debian", "6.1", "containerd://1.6"],
    ),
    "Service": (
        {
            "spec": {
                "type": "NodePort",
                "clusterIP": "10.96.0.9",
                "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
            }
        },
        ["x", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "5m30s", "a=b"],
    ),
    "Endpoints": (
        {"subsets": [{"addresses": [{"ip": f"10.0.0.{i}"} for i in range(5)], "ports": [{"port": 80}]}]},
        ["x", "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more...", "5m30s"],
    ),
    "EndpointSlice": (
        {"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]},
        ["x", "IPv4", "80", "10.0.0.1", "5m30s"],
    ),
    "Deployment": (
        {
            "spec": {"replicas": 3, "selector": SELECTOR, "template": TEMPLATE},
            "status": {"readyReplicas": 2, "updatedReplicas": 1},
        },
        ["x", "2/3", 1, 0, "5m30s", "c,d", "i:1,j", SELECTED],
    ),
    "ReplicaSet": (
        {"spec": {"replicas": 3, "selector": SELECTOR, "template": TEMPLATE}, "status": {"replicas": 2}},
        ["x", 3, 2, 0, "5m30s", "c,d", "i:1,j", SELECTED],
    ),
    "DaemonSet": (
        {"spec": {"selector": SELECTOR, "template": TEMPLATE}, "status": {"desiredNumberScheduled": 3, "numberReady": 2}},
        ["x", 3, 0, 2, 0, 0, "k=v", "5m30s", "c,d", "i:1,j", SELECTED],
    ),
    "Event": (
        {
            "type": "Normal",
            "reason": "Pulled",
            "message": "got it\n",
            "count": 4,
            "lastTimestamp": "2026-01-01T00:05:00Z",
            "firstTimestamp": "2026-01-01T00:00:00Z",
            "source": {"component": "kubelet", "host": "n1"},
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        },
        ["30s", "Normal", "Pulled", "pod/p", "spec.containers{c}", "kubelet, n1", "got it", "5m30s", 4, "x"],
    ),
    "ConfigMap": ({"data": {"a": "1"}, "binaryData": {"b": ""}}, ["x", 2, "5m30s"]),
    "Secret": ({"type": "Opaque", "data": {"a": ""}}, ["x", "Opaque", 1, "5m30s"]),
    "ServiceAccount": ({}, ["x", 0, "5m30s"]),
    "Namespace": ({"status": {"phase": "Active"}}, ["x", "Active", "5m30s"]),
    "Lease": ({"spec": {"holderIdentity": "n1"}}, ["x", "n1", "5m30s"]),
    "Anything": ({}, ["x", "2026-01-01T00:00:00Z"]),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_cells_match_their_columns(kind):
    obj, cells = GOLDEN[kind]
    made = table(kind, [{"metadata": META, **obj}], NOW)
    assert made["rows"][0]["cells"] == cells
    assert len(made["columnDefinitions"]) == len(cells)


@pytest.mark.parametrize("kind", [*GOLDEN, "Pod"])
def test_a_nearly_empty_object_has_a_row(kind):
    made = table(kind, [{"metadata": {"name": "bare"}}], NOW)
    assert "bare" in made["rows"][0]["cells"]


def test_service_addresses():
    def external(**spec):
        obj = {"metadata": META, "spec": spec, "status": spec.pop("status", {})}
        return table("Service", [obj], NOW)["rows"][0]["cells"][2:5]

    assert external(type="LoadBalancer", clusterIP="c") == ["c", "<pending>", "<none>"]
    assert external(type="LoadBalancer", clusterIP="c", status={"loadBalancer": {"ingress": [{"ip": "i"}]}}) == [
        "c",
        "i",
        "<none>",
    ]
    assert external(type="ExternalName", externalName="e.org") == ["<none>", "e.org", "<none>"]
    assert external(type="ClusterIP", clusterIP="None", externalIPs=["1.2.3.4"]) == ["None", "1.2.3.4", "<none>"]


def test_rows_carry_what_was_asked_for():
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": META, "data": {}}
    assert table("ConfigMap", [obj], NOW)["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": META,
    }
    assert table("ConfigMap", [obj], NOW, include="Object")["rows"][0]["object"] == obj
    assert "object" not in table("ConfigMap", [obj], NOW, include="None")["rows"][0]
    assert table("ConfigMap", [], NOW, headers=False, metadata={"resourceVersion": "7"}) == {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": "7"},
        "columnDefinitions": [],
        "rows": [],
    }
