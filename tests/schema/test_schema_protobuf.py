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
