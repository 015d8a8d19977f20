"""Makes `fields.json`, the field numbers of request bodies, from Kubernetes' `generated.proto` and `types.go` files.

    apt-get source kubernetes        # Debian's 1.20
    python -m minik8s.apiserver.schema.fields_tool --source kubernetes-1.20.2 --out fields.json

Fields younger than 1.20 come from `fields_later.proto` beside this file. A field's line says `name type`, where the type
is prefixed by `*` (scalar held by pointer: a zero is meant), `!` (scalar that JSON always shows, a zero too), `[]` (repeated),
`map ` (string keys) or `<` (inlined in JSON).
Run by hand when the API grows; prints the fields that the schema has and no .proto named. Read next: `protobuf.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

from minik8s.apiserver.schema.compact import compact
from minik8s.apiserver.schema.definitions import load
from minik8s.apiserver.schema.served import kinds
from minik8s.apiserver.schema.shapes import Shapes

Messages = dict[str, dict[str, str]]
HERE = Path(__file__).parent
GROUPS = {
    "api/core/v1": "core.v1", "api/apps/v1": "apps.v1", "api/autoscaling/v1": "autoscaling.v1",
    "api/autoscaling/v2beta2": "autoscaling.v2", "api/batch/v1": "batch.v1", "api/batch/v1beta1": "batch.v1",
    "api/coordination/v1": "coordination.v1", "api/authentication/v1": "authentication.v1",
    "api/authorization/v1": "authorization.v1", "api/policy/v1beta1": "policy.v1", "api/discovery/v1beta1": "discovery.v1",
    "api/networking/v1": "networking.v1", "api/rbac/v1": "rbac.v1", "api/scheduling/v1": "scheduling.v1",
    "api/node/v1": "node.v1",
    "api/storage/v1alpha1": "storage.v1", "api/storage/v1": "storage.v1", "api/certificates/v1": "certificates.v1",
    "api/events/v1": "events.v1", "api/admissionregistration/v1": "admissionregistration.v1",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1": "apiextensions.v1", "apimachinery/pkg/apis/meta/v1": "meta.v1",
}
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"(?:map<\s*string\s*,\s*([\w.]+)\s*>|(optional|repeated)\s+([\w.]+))\s+(\w+) = (\d+);")
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
POINTER = re.compile(r"\*[\w.]+\s+`json:\"(\w+)")
ROOTS = ("meta.v1.LabelSelector", "meta.v1.PartialObjectMetadata", "meta.v1.PartialObjectMetadataList", "meta.v1.WatchEvent")
SCALARS = frozenset({"string", "bytes", "bool", "int32", "int64", "double"})
LATER_POINTERS = {  # strings of fields_later.proto that Go holds by pointer; its other scalars all are
    "IngressClassParametersReference": "apiGroup scope namespace", "IngressPortStatus": "error",
    "JobSpec": "completionMode podReplacementPolicy managedBy", "PodFailurePolicyOnExitCodesRequirement": "containerName",
    "SuccessPolicyRule": "succeededIndexes", "JobStatus": "failedIndexes", "CronJobSpec": "timeZone",
    "PersistentVolumeClaimStatus": "currentVolumeAttributesClassName", "PersistentVolumeSpec": "volumeAttributesClassName",
    "PodDisruptionBudgetSpec": "unhealthyPodEvictionPolicy", "ValidationRule": "reason",
    "AppArmorProfile": "localhostProfile", "ClusterTrustBundleProjection": "name signerName", "Container": "restartPolicy",
    "ContainerStatus": "stopSignal", "Endpoint": "zone", "EphemeralContainerCommon": "restartPolicy", "GRPCAction": "service",
    "LeaseSpec": "strategy preferredHolder", "Lifecycle": "stopSignal", "LoadBalancerIngress": "ipMode",
    "PersistentVolumeClaimSpec": "volumeAttributesClassName", "PodResourceClaim": "resourceClaimName resourceClaimTemplateName",
    "PodResourceClaimStatus": "resourceClaimName", "PodSecurityContext": "supplementalGroupsPolicy seLinuxChangePolicy",
    "ServiceSpec": "loadBalancerClass internalTrafficPolicy trafficDistribution", "TypedObjectReference": "apiGroup namespace",
    "TopologySpreadConstraint": "nodeAffinityPolicy nodeTaintsPolicy", "VolumeMount": "recursiveReadOnly",
    "VolumeMountStatus": "recursiveReadOnly",
}
WELL_KNOWN = {"Quantity": "quantity", "IntOrString": "intorstring", "Time": "time", "MicroTime": "time",
              "FieldsV1": "json", "RawExtension": "json", "ExtraValue": "strings", "JSON": "json",
              "JSONSchemaPropsOrArray": "schemas", "JSONSchemaPropsOrBool": "schemabool",
              "JSONSchemaPropsOrStringArray": "schemastrings"}
DASHED = re.compile(r"xKubernetes(\w+)")
RENAMED = {("apiextensions.v1.JSONSchemaProps", "ref"): "$ref", ("apiextensions.v1.JSONSchemaProps", "schema"): "$schema"}
POINTERS = ("$ref", "x-kubernetes-preserve-unknown-fields")


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True, help="An unpacked Kubernetes source tree.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "fields.json", show_default=True)
def command(source: Path, out: Path) -> None:
    """Write the table of field numbers."""
    shapes = compact(load(), kinds())
    messages: Messages = {}
    for place, package in GROUPS.items():
        folder = source / "staging/src/k8s.io" / place
        pointers = {each for path in sorted(folder.glob("types*.go")) for each in read_pointers(path.read_text())}
        merge(messages, read_proto((folder / "generated.proto").read_text(), package, pointers))
    merge(messages, read_later((HERE / "fields_later.proto").read_text()))
    rename(messages)
    mark_inlined(messages, shapes)
    mark_always_shown(messages, shapes)
    kept = reachable(messages, shapes)
    lines = (f"{json.dumps(name)}: {json.dumps(messages[name])}" for name in sorted(kept))
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for missing in unnumbered(messages, shapes):
        click.echo(missing)


def merge(messages: Messages, more: Messages) -> None:
    """Later fields join, and win over, earlier ones."""
    for name, fields in more.items():
        messages.setdefault(name, {}).update(fields)


def read_pointers(text: str) -> Iterator[tuple[str, str]]:
    """(struct, JSON name) of every field held by pointer in a types.go."""
    for name, body in STRUCT.findall(text):
        for field in POINTER.findall(body):
            yield name, field


def read_proto(text: str, package: str, pointers: set[tuple[str, str]]) -> Messages:
    """The messages of one generated.proto."""
    found: Messages = {}
    for name, body in MESSAGE.findall(COMMENT.sub("", text)):
        fields = found.setdefault(f"{package}.{name}", {})
        for values, label, kind, field, number in FIELD.findall(body):
            optional = "*" if (name, field) in pointers and kind in SCALARS else ""
            prefix = "map " if values else "[]" if label == "repeated" else optional
            fields[number] = f"{field} {prefix}{type_name(values or kind, package)}"
    return found


def read_later(text: str) -> Messages:
    """The messages of fields_later.proto: several packages, and `optional` means a pointer, but for most strings."""
    found: Messages = {}
    for part in re.split(r"^package ", text, flags=re.M)[1:]:
        package, _, body = part.partition(";")
        for name, inner in MESSAGE.findall(COMMENT.sub("", body)):
            fields = found.setdefault(f"{package}.{name}", {})
            for values, label, kind, field, number in FIELD.findall(inner):
                plain = type_name(values or kind, package)
                pointer = plain in SCALARS and (plain != "string" or field in LATER_POINTERS.get(name, "").split())
                prefix = "map " if values else "[]" if label == "repeated" else "*" if pointer else ""
                fields[number] = f"{field} {prefix}{plain}"
    return found


def type_name(kind: str, package: str) -> str:
    """A scalar, a well-known type, or a message as the table calls it."""
    last = kind.rpartition(".")[2]
    if kind in ("string", "bytes", "bool", "int32", "int64", "double"):
        return kind
    if last in WELL_KNOWN:
        return WELL_KNOWN[last]
    return ".".join(kind.split(".")[-3:]) if "." in kind else f"{package}.{kind}"


def rename(messages: Messages) -> None:
    """Give fields the names they have in JSON where the .proto spells them otherwise."""
    for message, fields in messages.items():
        for number, line in fields.items():
            field, _, kind = line.partition(" ")
            found = DASHED.fullmatch(field)
            dashed = re.sub(r"[A-Z]", lambda letter: "-" + letter[0].lower(), found[1]) if found else ""
            known = RENAMED.get((message, field)) or (f"x-kubernetes{dashed}" if found else field)
            known = "webhooks" if known == "Webhooks" else known
            fields[number] = f"{known} {'*' if known in POINTERS else ''}{kind}"


def mark_inlined(messages: Messages, shapes: Shapes) -> None:
    """A field whose name JSON does not know is a Go struct embedded in its holder, or one that is no more."""
    for name, fields in messages.items():
        shape = shapes.types.get(name)
        for number, line in list(fields.items()):
            field, _, kind = line.partition(" ")
            if shape and field not in shape.fields:
                if kind in messages:
                    fields[number] = f"{field} <{kind}"
                else:
                    del fields[number]


def mark_always_shown(messages: Messages, shapes: Shapes) -> None:
    """What the schema requires has no `omitempty` in Go, so that its zero, or its empty list, is part of the object."""
    for name, fields in messages.items():
        required = shapes.types[name].required if name in shapes.types else ()
        for number, line in fields.items():
            field, _, kind = line.partition(" ")
            if field in required and (kind in SCALARS or kind.startswith("[]")):
                fields[number] = f"{field} !{kind}"


def reachable(messages: Messages, shapes: Shapes) -> set[str]:
    """The served kinds' messages and those they refer to."""
    todo = [name for name in (*shapes.kinds.values(), *ROOTS) if name in messages]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            kinds_used = (line.partition(" ")[2].lstrip("*!<[]").removeprefix("map ") for line in messages[name].values())
            todo += [kind for kind in kinds_used if kind in messages]
    return seen


def unnumbered(messages: Messages, shapes: Shapes) -> Iterator[str]:
    """Fields of the schema that no message numbers, and names that JSON does not know."""
    for name, shape in sorted(shapes.types.items()):
        numbered = dict(_json_names(messages, name))
        for field in shape.fields:
            if field not in numbered and field not in ("apiVersion", "kind"):
                yield f"no number: {name}.{field} ({shape.fields[field].type})"
        for field in numbered:
            if field not in shape.fields:
                yield f"not in the schema: {name}.{field}"


def _json_names(messages: Messages, name: str) -> Iterator[tuple[str, str]]:
    for line in messages.get(name, {}).values():
        field, _, kind = line.partition(" ")
        if kind.startswith("<"):
            yield from _json_names(messages, kind[1:])
        else:
            yield field, kind


if __name__ == "__main__":
    command()
