"""fields.json against an independent reader: the descriptors compiled into the kubectl binary say the same numbers."""

import json
import zlib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from minik8s.apiserver.schema import protobuf

GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
FIELDS = json.loads(Path(protobuf.__file__).with_name("fields.json").read_text())
RENAMED = {("authentication.v1.BoundObjectReference", "aPIVersion"), ("authentication.v1.BoundObjectReference", "uID"),
           ("networking.v1.IngressClassParametersReference", "aPIGroup"),
           ("admissionregistration.v1.MutatingWebhookConfiguration", "Webhooks"),
           ("admissionregistration.v1.ValidatingWebhookConfiguration", "Webhooks")}
INLINED = {"handler", "probeHandler"}  # Go's name for an embedded struct, changed in 1.23


@pytest.fixture(scope="module")
def descriptors(new_kubectl):
    """Message -> number -> name of every k8s.io .proto in the binary."""
    body = Path(new_kubectl).resolve().read_bytes()
    found = {}
    at = body.find(GZIP)
    while at >= 0:
        try:
            text = zlib.decompressobj(31).decompress(body[at : at + 200_000], 2_000_000)
            file = descriptor_pb2.FileDescriptorProto.FromString(text)
        except Exception:  # not every gzip in a binary is a descriptor
            file = descriptor_pb2.FileDescriptorProto()
        if file.package.startswith("k8s.io."):
            package = ".".join(file.package.split(".")[-2:])
            for message in file.message_type:
                found[f"{package}.{message.name}"] = {str(field.number): field.name for field in message.field}
        at = body.find(GZIP, at + 1)
    if "core.v1.PodSpec" not in found:
        pytest.skip("LOUD: no descriptors in this kubectl, field numbers stay unchecked")
    return found


def test_every_number_names_the_same_field(descriptors):
    wrong = []
    for message, fields in FIELDS.items():
        for number, line in fields.items():
            name, theirs = line.split()[0], descriptors.get(message, {}).get(number)
            if theirs and theirs != name and (message, theirs) not in RENAMED and {theirs, name} - INLINED:
                wrong.append((message, number, name, theirs))
    assert wrong == []


def test_no_field_of_a_body_is_missing(descriptors):
    missing = [
        (message, number, name)
        for message in FIELDS
        for number, name in descriptors.get(message, {}).items()
        if number not in FIELDS[message]
    ]
    assert missing == []
