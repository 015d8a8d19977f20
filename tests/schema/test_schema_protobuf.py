"""Protobuf bodies as the real kubectl sends them, compared with the JSON it would have sent."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.schema import decode_protobuf
from nodecore.errors import Invalid

COMMANDS = [
    "create deployment web --image=nginx:1 --replicas=0 --port=80",
    "create deployment web --image=a:1 -- sh -c sleep",
    "create deployment web --image=a:1 --image=b:2",
    "create service clusterip web --tcp=80:8080 --tcp=53:53",
    "create service nodeport web --tcp=80:8080 --node-port=30080",
    "create service clusterip web --clusterip=None",
    "create service externalname web --external-name=example.com",
    "create namespace extra",
    "create configmap settings --from-literal=a=1 --from-literal=empty=",
    "create secret generic keys --from-literal=k=v --type=my/type",
    "create serviceaccount robot",
]


def no_nulls(value):
    """Go's JSON names a null creationTimestamp where a body has none."""
    if isinstance(value, dict):
        return {key: no_nulls(inner) for key, inner in value.items() if inner is not None}
    return [no_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("command", COMMANDS)
async def test_create_says_the_same_as_its_json(kubectl, stub, command):
    await kubectl.run(*command.split())
    assert stub.raw[0].startswith(b"k8s\0"), "kubectl sends protobuf here"
    as_json = "--dry-run=client -o json"
    shown = command.replace(" -- ", f" {as_json} -- ") if " -- " in command else f"{command} {as_json}"
    assert no_nulls(stub.received[0]) == no_nulls(json.loads(await kubectl.run(*shown.split())))


async def test_bodies_cut_short_are_invalid(kubectl, stub):
    await kubectl.run("create", "deployment", "web", "--image=nginx")
    whole = stub.raw[0]
    for end in range(len(whole)):
        try:
            decode_protobuf(whole[:end])
        except Invalid:
            continue
        assert end > 8, "a body without an object is refused"


@given(st.binary(max_size=60))
def test_noise_is_invalid_and_never_a_crash(noise):
    prefix = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12" + bytes([len(noise)])
    with contextlib.suppress(Invalid):
        decode_protobuf(prefix + noise)
    with pytest.raises(Invalid):
        decode_protobuf(noise)


def number(field, value):
    return varint(field << 3) + varint(value)


def octets(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def varint(value):
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def envelope(api_version, kind, *fields):
    return (
        b"k8s\0"
        + octets(1, octets(1, api_version) + octets(2, kind))
        + octets(2, b"".join(fields))
        + octets(3, "")
        + octets(4, "")
    )


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers(value):
    body = envelope("v1", "DeleteOptions", number(1, value))
    assert decode_protobuf(body)["gracePeriodSeconds"] == value


def test_delete_options_and_eviction():
    options = number(1, 0) + octets(2, octets(1, "u-1")) + octets(4, "Foreground") + octets(5, "All") + number(99, 7)
    meant = {"gracePeriodSeconds": 0, "preconditions": {"uid": "u-1"}, "propagationPolicy": "Foreground", "dryRun": ["All"]}
    assert decode_protobuf(envelope("v1", "DeleteOptions", options)) == {"apiVersion": "v1", "kind": "DeleteOptions", **meant}
    body = envelope("policy/v1", "Eviction", octets(1, octets(1, "p") + octets(3, "default")), octets(2, options))
    assert decode_protobuf(body) == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "p", "namespace": "default"},
        "deleteOptions": meant,
    }


def test_binding_and_scale():
    body = envelope("v1", "Binding", octets(1, octets(1, "p")), octets(2, octets(1, "Node") + octets(3, "n1") + octets(2, "")))
    assert decode_protobuf(body) == {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"},
    }
    body = envelope("autoscaling/v1", "Scale", octets(1, octets(1, "d")), octets(2, number(1, 4)))
    assert decode_protobuf(body)["spec"] == {"replicas": 4}


def test_times_quantities_and_either_or():
    created, renewed = number(1, 1767225600), number(1, 1767225600) + number(2, 123456000)
    lease = envelope(
        "coordination.k8s.io/v1", "Lease", octets(1, octets(8, created)), octets(2, octets(4, renewed) + octets(1, "n1"))
    )
    assert decode_protobuf(lease) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"renewTime": "2026-01-01T00:00:00.123456Z", "holderIdentity": "n1"},
    }
    ports = octets(1, octets(4, number(1, 1) + octets(3, "http"))) + octets(1, octets(4, number(1, 0) + number(2, 8080)))
    service = decode_protobuf(envelope("v1", "Service", octets(2, ports)))
    assert service["spec"]["ports"] == [{"targetPort": "http"}, {"targetPort": 8080}]
    limits = octets(1, octets(1, "cpu") + octets(2, octets(1, "500m")))
    pod = decode_protobuf(envelope("v1", "Pod", octets(2, octets(2, octets(1, "c") + octets(8, limits)))))
    assert pod["spec"]["containers"] == [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]


def test_packed_numbers_and_managed_fields():
    pod = envelope("v1", "Pod", octets(2, octets(14, octets(4, varint(1) + varint(300)))))
    assert decode_protobuf(pod)["spec"]["securityContext"] == {"supplementalGroups": [1, 300]}
    entry = octets(1, "kubectl") + octets(7, octets(1, '{"f:spec":{}}'))
    managed = decode_protobuf(envelope("v1", "Pod", octets(1, octets(17, entry))))
    assert managed["metadata"]["managedFields"] == [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]


def test_a_kind_not_served_is_named():
    with pytest.raises(Invalid, match=r'no kind "CronTab" is registered for version "stable\.example\.com/v1"'):
        decode_protobuf(envelope("stable.example.com/v1", "CronTab"))


def test_zeros_are_kept_where_kubernetes_keeps_them():
    """Go writes every plain field: an empty one counts where it is held by pointer, or where its JSON always has it."""
    port = octets(1, "") + octets(2, "TCP") + number(3, 0)
    piece = decode_protobuf(envelope("discovery.k8s.io/v1", "EndpointSlice", octets(4, "IPv4"), octets(3, port)))
    assert piece["ports"] == [{"name": "", "protocol": "TCP", "port": 0}]
    lease = decode_protobuf(envelope("coordination.k8s.io/v1", "Lease", octets(2, octets(1, "") + number(5, 0))))
    assert lease["spec"] == {"holderIdentity": "", "leaseTransitions": 0}
    daemons = number(1, 0) + number(2, 0) + number(3, 3) + number(4, 0) + number(5, 0) + number(6, 0)
    status = decode_protobuf(envelope("apps/v1", "DaemonSet", octets(3, daemons)))["status"]
    assert status == {"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 3, "numberReady": 0}
    container = octets(1, "") + octets(2, "") + octets(6, octets(1, "") + number(2, 0) + number(3, 0)) + number(16, 0)
    pod = decode_protobuf(envelope("v1", "Pod", octets(2, octets(2, container) + octets(6, "") + number(11, 0))))
    assert pod["spec"] == {"containers": [{"name": "", "ports": [{"containerPort": 0}]}]}
    volume = octets(1, "v") + octets(2, octets(1, octets(1, "/x") + octets(2, "")))
    assert decode_protobuf(envelope("v1", "Pod", octets(2, octets(1, volume))))["spec"]["volumes"] == [
        {"name": "v", "hostPath": {"path": "/x", "type": ""}}]


UNKNOWN = [number(999, 7), octets(998, "later"), varint(997 << 3 | 1) + bytes(8), varint(996 << 3 | 5) + bytes(4)]


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_numbers_of_a_later_kubernetes_are_passed_over(unknown):
    """As the original does, which has no strict decoding of protobuf either; what no Kubernetes writes is refused."""
    body = envelope("v1", "ConfigMap", octets(1, octets(1, "c") + unknown), unknown)
    assert decode_protobuf(body) == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    with pytest.raises(Invalid, match="damaged"):
        decode_protobuf(envelope("v1", "ConfigMap", varint(999 << 3 | 6)))
