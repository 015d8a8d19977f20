"""Whatever a definition and its objects say, the answer is a list of what is wrong with them, never an accident."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.apiserver.kinds import structural
from minik8s.apiserver.kinds.definition_rules import WORDS, definition, definition_change
from minik8s.apiserver.kinds.definitions import kinds_of, names_taken, settle
from minik8s.apiserver.schema.custom_shapes import forget, learn
from minik8s.apiserver.schema.jsonpath import find, parse
from minik8s.apiserver.schema.shapes import GVK, Shapes
from nodecore.errors import Invalid

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text("ab.[x*]({^", max_size=4))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c", "name"]), inner, max_size=3)), max_leaves=8)
WORD = st.sampled_from([*WORDS, "default", "$ref", "x-kubernetes-validations"])
TYPE = st.sampled_from(["object", "array", "string", "integer", "number", "boolean"])


def schemas(inner: Any) -> Any:
    """A schema that is mostly one, with some word or other that is not."""
    properties = st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    sound = st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": properties}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2), "type": TYPE}))
    return st.tuples(sound, st.dictionaries(WORD, VALUES, max_size=2)).map(lambda pair: {**pair[0], **pair[1]})


SCHEMAS = st.recursive(st.fixed_dictionaries({"type": TYPE}), schemas, max_leaves=6)


def body(schema: Any) -> dict[str, Any]:
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    whole = {"type": "object", "properties": {"spec": schema}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole}}
    return {"metadata": {"name": "things.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}}


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, VALUES)
def test_any_schema_and_any_value(schema: Any, value: Any) -> None:
    made = body(schema)
    if list(definition(made)):
        return
    assert list(definition_change(made, made)) == []
    whole = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    obj = {"spec": value}
    structural.default(whole, obj)
    again = {"spec": obj["spec"]}
    structural.default(whole, again)
    assert again == obj
    for cause in structural.validate(whole, obj):
        assert cause.message
    shapes, gvk = Shapes({}, {}), GVK("example.com", "v1", "Thing")
    learn(shapes, gvk, whole)
    forget(shapes, gvk)
    assert (shapes.kinds, shapes.types) == ({}, {})
    kind = kinds_of(settle(made, names_taken(made, [made]), "now"))[0]
    assert kind.custom is not None
    kind.custom.layout.cells({"metadata": {}, **obj}, None)


@given(st.text("ab.[]*?()@='\"\\-01", max_size=20), VALUES)
def test_any_path(text: str, value: Any) -> None:
    try:
        steps = parse(text)
    except Invalid:
        return
    assert isinstance(find(steps, value), list)
