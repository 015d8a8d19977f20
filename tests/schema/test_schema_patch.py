"""JSON patch and merge patch: the RFCs' own examples, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.schema.patch import clone, json_patch, merge_patch, same
from nodecore.errors import Invalid

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab/~", max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
)
objects = st.dictionaries(st.text("ab", max_size=2), values, max_size=4)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_examples_of_the_rfc(target, patch, result):
    assert merge_patch(target, patch) == result


@given(objects, objects)
def test_merge_patch_is_idempotent_and_pure(target, patch):
    before = clone(target), clone(patch)
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == before


@given(values)
def test_replacing_the_whole_document(value):
    assert same(
        json_patch({"a": 1}, [{"op": "replace", "path": "", "value": value}, {"op": "test", "path": "", "value": value}]), value
    )


@given(objects, st.text("ab/~", max_size=3), values)
def test_add_then_test_then_remove_restores(document, key, value):
    path = "/" + key.replace("~", "~0").replace("/", "~1")
    document.pop(key, None)
    added = json_patch(document, [{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value}])
    assert added[key] == value
    assert json_patch(added, [{"op": "remove", "path": path}]) == document


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"thud": "fred"}},
        ),
        (
            {"a": {"b": 1}},
            [{"op": "copy", "from": "/a", "path": "/c"}, {"op": "replace", "path": "/c/b", "value": 2}],
            {"a": {"b": 1}, "c": {"b": 2}},
        ),
        (
            {"metadata": {"labels": {"a.b/c": "1"}}},
            [{"op": "remove", "path": "/metadata/labels/a.b~1c"}],
            {"metadata": {"labels": {}}},
        ),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1.0}], {"a": 1}),
    ],
)
def test_json_patch_examples(document, operations, result):
    before = clone(document)
    assert json_patch(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/a", "value": True},
        {"op": "test", "path": "/a"},
        {"op": "remove", "path": "/zzz"},
        {"op": "replace", "path": "/zzz", "value": 1},
        {"op": "add", "path": "/zzz/b", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "replace", "path": "/list/-", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "move", "from": "/object", "path": "/object/inner"},
        {"op": "frobnicate", "path": "/a"},
        {"path": "/a"},
        "nonsense",
    ],
)
def test_what_does_not_apply_is_invalid(operation):
    with pytest.raises(Invalid):
        json_patch({"a": 1, "list": [1], "object": {}}, [operation])
