"""Does a CustomResourceDefinition hold together: names, versions, and schemas that are structural; CEL is refused by name.

Pure and total. Must not know: HTTP, storage. Read next: `structural.py`, `definitions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.kinds import causes, structural
from minik8s.apiserver.kinds.catalogue import KINDS
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.kinds.regular import Expression
from minik8s.apiserver.request.status import Cause
from minik8s.apiserver.schema.jsonpath import parse
from nodecore.errors import Invalid

Object = dict[str, Any]
OWN_GROUPS = frozenset(kind.resource.group for kind in KINDS)
CEL = "x-kubernetes-validations"
FORBIDDEN = ("definitions", "dependencies", "patternProperties", "additionalItems", "$ref", "$schema", "id", "uniqueItems")
COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
LIST_TYPES, MAP_TYPES = ("atomic", "map", "set"), ("atomic", "granular")
TYPES = ("array", "boolean", "integer", "number", "object", "string")
STRINGS = frozenset({"required", "x-kubernetes-list-map-keys"})
TEXTS = ("type", "format", "pattern", "title", "description", "x-kubernetes-list-type", "x-kubernetes-map-type")
LISTS = ("required", "enum", "allOf", "anyOf", "oneOf", "x-kubernetes-list-map-keys", CEL)
COUNTS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
SWITCHES = ("nullable", "exclusiveMaximum", "exclusiveMinimum", "uniqueItems", structural.INT_OR_STRING, structural.PRESERVE,
            "x-kubernetes-embedded-resource")
WORDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(TEXTS, (str,)), **dict.fromkeys(LISTS, (list,)), **dict.fromkeys(COUNTS, (int,)),
    **dict.fromkeys(("maximum", "minimum", "multipleOf"), (int, float)), **dict.fromkeys(SWITCHES, (bool,)),
    "properties": (dict,), "items": (dict,), "not": (dict,), "additionalProperties": (dict, bool),
}
SIMPLE_PATH = re.compile(r"(\.[A-Za-z_][\w-]*)+")
DEEPEST = 60


def definition(obj: Object) -> Iterator[Cause]:
    """All that is wrong with a definition."""
    spec, meta = section(obj, "spec"), obj["metadata"]
    names, group = section(spec, "names"), str(spec.get("group") or "")
    expected = f"{names.get('plural')}.{group}"
    if meta.get("name") != expected:
        yield causes.wrong("metadata.name", meta.get("name"), "must be spec.names.plural+\".\"+spec.group")
    if group in OWN_GROUPS:
        yield causes.forbidden("spec.group", f"{group} is the API's own group")
    elif "." not in group:
        yield causes.wrong("spec.group", group, "should be a domain with at least one dot")
    yield from causes.subdomain("spec.group", group)
    yield from causes.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    for field in ("plural", "singular"):
        if names.get(field):
            yield from causes.service_name(f"spec.names.{field}", names[field])
    for field in ("kind", "listKind"):
        if names.get(field):
            yield from causes.service_name(f"spec.names.{field}", str(names[field]).lower())
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        yield causes.wrong("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")
    yield from _whole(spec)
    for index, version in enumerate(each(spec, "versions")):
        yield from _version(f"spec.versions[{index}]", version)


def _whole(spec: Object) -> Iterator[Cause]:
    conversion = section(spec, "conversion")
    if conversion.get("strategy", "None") != "None":
        yield causes.forbidden("spec.conversion.strategy", "conversion webhooks are not called: only None is served")
    if value := spec.get("preserveUnknownFields"):
        yield causes.wrong("spec.preserveUnknownFields", value, "cannot set to true, set x-kubernetes-preserve-unknown-fields to "
                                                               "true in spec.versions[*].schema instead")
    found = [str(version.get("name")) for version in each(spec, "versions")]
    if len({*found}) < len(found):
        yield causes.wrong("spec.versions", found, "must contain unique version names")
    storage = [version for version in each(spec, "versions") if version.get("storage")]
    if len(storage) != 1:
        yield causes.wrong("spec.versions", found, "must have exactly one version marked as storage version")


def _version(where: str, version: Object) -> Iterator[Cause]:
    yield from causes.service_name(f"{where}.name", version.get("name"))
    schema = section(section(version, "schema"), "openAPIV3Schema")
    place = f"{where}.schema.openAPIV3Schema"
    if not schema:
        yield causes.required(place, "schemas are required")
        return
    if schema.get("type") != "object":
        yield causes.wrong(f"{place}.type", schema.get("type"), "must be object at the root")
    for name in section(section(schema, "properties"), "metadata").get("properties") or {}:
        if name not in ("name", "generateName"):
            yield causes.forbidden(f"{place}.properties[metadata]", 'must not specify anything other than name and generateName, '
                                                                    'but metadata is implicitly specified')
    if mistyped := list(_types(place, schema, 0)):
        yield from mistyped
        return
    yield from _schema(place, schema, 0)
    for index, column in enumerate(each(version, "additionalPrinterColumns")):
        at = f"{where}.additionalPrinterColumns[{index}]"
        yield from causes.one_of(f"{at}.type", column.get("type"), COLUMN_TYPES)
        yield from _path(f"{at}.jsonPath", column.get("jsonPath"))
    for index, field in enumerate(each(version, "selectableFields")):
        at = f"{where}.selectableFields[{index}].jsonPath"
        if not SIMPLE_PATH.fullmatch(str(field.get("jsonPath"))):
            yield causes.wrong(at, field.get("jsonPath"), "must be a simple path such as .spec.color")
        elif (kind := _type_at(schema, str(field["jsonPath"]))) not in ("boolean", "integer", "string"):
            yield causes.wrong(at, field["jsonPath"], f"must point to a field of type string, boolean or integer, not {kind!r}")
    yield from _scale(where, section(section(version, "subresources"), "scale"))


def _scale(where: str, scale: Object) -> Iterator[Cause]:
    for name, beginning in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status."), ("labelSelectorPath", ".")):
        path = scale.get(name)
        if scale and path and (not str(path).startswith(beginning) or not SIMPLE_PATH.fullmatch(str(path))):
            yield causes.wrong(f"{where}.subresources.scale.{name}", path, f"should be a json path under {beginning[:-1] or '.'}")


def _path(where: str, path: Any) -> Iterator[Cause]:
    try:
        if not str(path or "").startswith((".", "[")):
            raise Invalid("must be a simple json path starting with .")
        parse(str(path))
    except Invalid as error:
        yield causes.wrong(where, path, str(error))


def _type_at(schema: Object, path: str) -> str:
    for step in path.removeprefix(".").split("."):
        schema = section(section(schema, "properties"), step)
    return str(schema.get("type", ""))


def _types(where: str, schema: Object, depth: int) -> Iterator[Cause]:
    """Words of the wrong type: the API's own schema does not look below `items` and `additionalProperties`."""
    for key, value in schema.items():
        expected = WORDS.get(key)
        if expected is None or value is None:
            continue
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            yield causes.wrong(f"{where}.{key}", value, f"must be of type {' or '.join(each.__name__ for each in expected)}")
        elif key in STRINGS and isinstance(value, list) and not all(isinstance(item, str) for item in value):
            yield causes.wrong(f"{where}.{key}", value, "must be a list of strings")
        elif depth <= DEEPEST:
            for name, inner in _inner(key, value):
                if isinstance(inner, dict):
                    yield from _types(f"{where}.{key}{name}", inner, depth + 1)
                else:
                    yield causes.wrong(f"{where}.{key}{name}", inner, "must be an object")


def _inner(key: str, value: Any) -> list[tuple[str, Any]]:
    """The schemas below a word."""
    if key == "properties":
        return [(f"[{name}]", inner) for name, inner in value.items()]
    if key in ("allOf", "anyOf", "oneOf"):
        return [(f"[{index}]", inner) for index, inner in enumerate(value)]
    return [("", value)] if key in ("items", "not", "additionalProperties") and not isinstance(value, bool) else []


def _schema(where: str, schema: Object, depth: int) -> Iterator[Cause]:
    """One node of a structural schema and all below it."""
    if depth > DEEPEST:
        yield causes.forbidden(where, f"schemas deeper than {DEEPEST} levels are not supported")
        return
    yield from _node(where, schema)
    for name, inner in section(schema, "properties").items():
        if isinstance(inner, dict) and not (depth == 0 and name in ("apiVersion", "kind", "metadata")):
            yield from _schema(f"{where}.properties[{name}]", inner, depth + 1)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _schema(f"{where}.{key}", schema[key], depth + 1)
    for key in ("allOf", "anyOf", "oneOf"):
        for index, inner in enumerate(each(schema, key)):
            yield from _junctor(f"{where}.{key}[{index}]", inner, depth + 1)
    if isinstance(schema.get("not"), dict):
        yield from _junctor(f"{where}.not", schema["not"], depth + 1)
    if "default" in schema:
        for cause in structural.validate(schema, schema["default"], "default"):
            yield Cause(f"{where}.default", cause.message, cause.reason)


def _node(where: str, schema: Object) -> Iterator[Cause]:
    kind = schema.get("type")
    if kind:
        yield from causes.one_of(f"{where}.type", kind, TYPES)
    elif not schema.get(structural.INT_OR_STRING) and not schema.get(structural.PRESERVE):
        yield causes.required(f"{where}.type", "must not be empty for specified object fields")
    if kind == "array" and not isinstance(schema.get("items"), dict):
        yield causes.required(f"{where}.items", "must be specified")
    if schema.get("properties") and isinstance(schema.get("additionalProperties"), dict):
        yield causes.forbidden(f"{where}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if schema.get("additionalProperties") is False:
        yield causes.forbidden(f"{where}.additionalProperties", "additionalProperties cannot be set to false")
    yield from _words(where, schema)
    for key, known in (("x-kubernetes-list-type", LIST_TYPES), ("x-kubernetes-map-type", MAP_TYPES)):
        if schema.get(key) is not None:
            yield from causes.one_of(f"{where}.{key}", schema[key], known)
    if schema.get("x-kubernetes-list-type") == "map":
        keys, properties = schema.get("x-kubernetes-list-map-keys") or [], section(section(schema, "items"), "properties")
        if not keys:
            yield causes.required(f"{where}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
        for key in keys:
            if key not in properties:
                yield causes.wrong(f"{where}.x-kubernetes-list-map-keys", keys, f"{key} is not a property of the items")


def _words(where: str, schema: Object) -> Iterator[Cause]:
    """What no schema of ours may say, in a junctor as elsewhere."""
    if schema.get(CEL):
        yield causes.forbidden(f"{where}.{CEL}", "CEL rules are not evaluated by this server")
    for key in FORBIDDEN:
        if schema.get(key):
            yield causes.forbidden(f"{where}.{key}", f"{key} is not supported")
    if schema.get("pattern"):
        try:
            Expression(str(schema["pattern"]))
        except ValueError as error:
            yield causes.wrong(f"{where}.pattern", schema["pattern"], f"must be a valid regular expression, but isn't: {error}")


def _junctor(where: str, schema: Object, depth: int) -> Iterator[Cause]:
    """Inside allOf, anyOf, oneOf and not: values alone, no types."""
    if depth > DEEPEST:
        yield causes.forbidden(where, f"schemas deeper than {DEEPEST} levels are not supported")
        return
    yield from _words(where, schema)
    for key in ("default", "nullable", "additionalProperties", "description", "title"):
        if schema.get(key):
            yield causes.forbidden(f"{where}.{key}", "must be undefined to be structural")
    for name, inner in section(schema, "properties").items():
        if isinstance(inner, dict):
            yield from _junctor(f"{where}.properties[{name}]", inner, depth + 1)
    for key in ("allOf", "anyOf", "oneOf"):
        for index, inner in enumerate(each(schema, key)):
            yield from _junctor(f"{where}.{key}[{index}]", inner, depth + 1)


def definition_change(old: Object, new: Object) -> Iterator[Cause]:
    """What stays once a definition is established, and versions that objects are stored in."""
    before, after = section(old, "spec"), section(new, "spec")
    for path in (("scope",), ("names", "kind"), ("names", "plural"), ("group",)):
        values = []
        for value in (before, after):
            for step in path:
                value = value.get(step) or {}
            values.append(value)
        if values[0] != values[1]:
            yield causes.immutable("spec." + ".".join(path), values[1])
    known = {version.get("name") for version in each(after, "versions")}
    for index, stored in enumerate(section(new, "status").get("storedVersions") or []):
        if stored not in known:
            yield causes.wrong(f"status.storedVersions[{index}]", stored, "missing from spec.versions; "
                               f"{stored} was previously a storage version, and must remain in spec.versions until a storage "
                               "migration ensures no data remains persisted in it and removes it from status.storedVersions")
