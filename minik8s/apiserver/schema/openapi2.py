"""The OpenAPI v2 document in gnostic's protobuf form: all kubectl before 1.24 can read, and apply's fallback after. Builder only.

Extensions travel as YAML text; JSON is YAML. Read next: `openapi2.proto`, which fields there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minik8s.apiserver.schema import openapi3
from minik8s.apiserver.schema.definitions import Definition, by_kind, reach, target
from minik8s.apiserver.schema.served import group_versions, kinds, of_group_version
from nodecore import wire

FORMS = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
}


def document(definitions: dict[str, Definition]) -> bytes:
    """The Document, encoded."""
    known = by_kind(definitions)
    urls = (pair for gv in group_versions() for pair in openapi3.paths(*of_group_version(gv), known))
    names = reach(definitions, [known[kind] for kind in kinds() if kind in known])
    return part(urls, {name: FORMS.get(name, definitions[name]) for name in names}, head=True)


def part(urls: Iterable[tuple[str, dict[str, Any]]], schemas: dict[str, Definition], *, head: bool = False) -> bytes:
    """A Document of these paths and definitions, encoded; parts put together are one, as protobuf has it."""
    api = wire.load(Path(__file__).with_name("openapi2.proto"))
    made = api.Document()
    if head:
        made = api.Document(swagger="2.0", info=api.Info(title="Kubernetes", version="v1.33.0"))
    for path, operations in urls:
        item = made.paths.path.add(name=path).value
        for method in ("get", "put", "post", "delete", "patch"):
            if method in operations:
                _operation(getattr(item, method), operations[method])
    for name, schema in schemas.items():
        _schema(made.definitions.additional_properties.add(name=name).value, schema)
    return bytes(made.SerializeToString())


def _operation(made: Any, operation: dict[str, Any]) -> None:
    for parameter in operation["parameters"]:
        query = made.parameters.add().parameter.non_body_parameter.query_parameter_sub_schema
        query.name, query.type, query.unique_items = parameter["name"], parameter["schema"]["type"], True
        setattr(query, "in", "query")
    _extensions(made, operation)


def _schema(made: Any, schema: Definition) -> None:
    made.description = schema.get("description", "")
    made.format = schema.get("format", "")
    made.required.extend(schema.get("required", ()))
    if target(schema):
        made._ref = "#/definitions/" + target(schema)
    elif isinstance(schema.get("type"), str):
        made.type.value.append(schema["type"])
    if isinstance(schema.get("items"), dict):
        _schema(made.items.schema.add(), schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        _schema(made.additional_properties.schema, schema["additionalProperties"])
    for name, inner in schema.get("properties", {}).items():
        _schema(made.properties.additional_properties.add(name=name).value, inner)
    _extensions(made, schema)


def _extensions(made: Any, holder: dict[str, Any]) -> None:
    for name, value in holder.items():
        if name.startswith("x-"):
            made.vendor_extension.add(name=name).value.yaml = json.dumps(value) + "\n"
