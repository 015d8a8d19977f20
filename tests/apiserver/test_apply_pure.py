"""Laws of the sets of fields and of ownership, over random sets, schemas' own kinds and random configurations."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.apiserver.fields import paths
from minik8s.apiserver.fields.change import compare, named, whole
from minik8s.apiserver.fields.clientside import ANNOTATION, applied_as_kubectl
from minik8s.apiserver.fields.forms import Form, Forms
from minik8s.apiserver.fields.merge import merge
from minik8s.apiserver.fields.ownership import (
    ANCIENT,
    Contested,
    Who,
    applied,
    decode,
    decode_foreign,
    encode,
    updated,
)
from minik8s.apiserver.schema.shapes import Field, Shape, Shapes
from nodecore.errors import Invalid

Object = dict[str, Any]
ONE, TWO = Who("one", "Apply", "v1"), Who("two", "Apply", "v1")
HAND = Who("hand", "Update", "v1")
NAMED = Field("list", Field("t.Item"), list_type="map", list_keys=("name",))
SHAPES = Shapes({"/v1/Thing": "t.Thing"}, {
    "t.Thing": Shape({"metadata": Field("meta.v1.ObjectMeta"), "spec": Field("t.Spec"), "status": Field("any")}),
    "t.Spec": Shape({
        "n": Field("int32"), "whole": Field("list", Field("int32")), "labels": Field("map", Field("string")),
        "items": NAMED, "tags": Field("list", Field("string"), list_type="set"), "sel": Field("t.Whole"), "sub": Field("t.Spec"),
        "any": Field("any")}),
    "t.Item": Shape({"name": Field("string"), "v": Field("int32"), "w": Field("int32"), "env": NAMED}),
    "t.Whole": Shape({"a": Field("int32")}, atomic=True),
    "meta.v1.ObjectMeta": Shape({name: Field("map", Field("string")) for name in ("labels", "annotations")}),
})
FORM = Forms(SHAPES).of_kind(("", "v1", "Thing"))

FEW = settings(max_examples=60, deadline=None)
ELEMENTS = st.sampled_from(["f:a", "f:b", "f:c", 'k:{"n":1}', 'v:"x"'])
PATHS = st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple)
PATH_SETS = st.sets(PATHS, max_size=12)
WORDS = st.sampled_from("abc")
NUMBERS = st.integers(0, 3)


def items(depth: int) -> st.SearchStrategy[list[Object]]:
    more = {"env": items(depth - 1)} if depth else {}
    item = st.fixed_dictionaries({"name": WORDS}, optional={"v": NUMBERS, "w": NUMBERS, **more})
    return st.lists(item, min_size=1, max_size=3, unique_by=lambda each: each["name"])


def specs(depth: int = 1) -> st.SearchStrategy[Object]:
    more = {"sub": specs(depth - 1).filter(bool)} if depth else {}
    return st.fixed_dictionaries({}, optional={
        "n": NUMBERS, "whole": st.lists(NUMBERS, max_size=2), "labels": st.dictionaries(WORDS, WORDS, min_size=1, max_size=3),
        "items": items(1 if depth else 0), "tags": st.lists(WORDS, min_size=1, unique=True),
        "sel": st.fixed_dictionaries({"a": NUMBERS}),
        "any": st.dictionaries(WORDS, NUMBERS | st.dictionaries(WORDS, NUMBERS, min_size=1), min_size=1, max_size=2), **more})


CONFIGS = specs().map(lambda spec: {"metadata": {}, **({"spec": spec} if spec else {})})


def tree(members: set[tuple[str, ...]]) -> paths.Tree:
    made: paths.Tree = {}
    for path in members:
        one: paths.Tree = {}
        for element in reversed(path):
            one = {element: one}
        made = paths.union(made, one)
    return made


@given(PATH_SETS, PATH_SETS)
def test_trees_are_sets(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> None:
    left, right = tree(one), tree(other)
    assert set(paths.members(left)) == one
    assert set(paths.members(paths.union(left, right))) == one | other
    assert set(paths.members(paths.difference(left, right))) == one - other
    assert set(paths.members(paths.intersection(left, right))) == one & other
    assert (left == right) == (one == other), "one set has one tree"
    assert paths.read(json.loads(json.dumps(left))) == left
    assert paths.union(paths.difference(left, right), paths.intersection(left, right)) == left


@FEW
@given(CONFIGS)
def test_what_an_apply_makes_is_what_it_says(config: Object) -> None:
    made, owners = applied(FORM, {"metadata": {}}, config, {}, ONE, "1")
    assert made == config
    again, same = applied(FORM, made, config, owners, ONE, "2")
    assert (again, same) == (made, owners), "twice changes nothing, the time neither"
    assert decode(encode(owners)) == owners == decode_foreign(json.loads(msgspec.json.encode(encode(owners))))


@FEW
@given(CONFIGS, CONFIGS)
def test_nothing_is_left_of_one_who_wants_nothing(config: Object, other: Object) -> None:
    made, owners = applied(FORM, {"metadata": {}}, config, {}, ONE, "1")
    gone, none = applied(FORM, made, {"metadata": {}}, owners, ONE, "2")
    assert (gone, none) == ({"metadata": {}}, {})
    changed, _ = applied(FORM, made, other, owners, ONE, "2")
    assert set(paths.members(named(FORM, changed))) == set(paths.members(named(FORM, other)))


@FEW
@given(CONFIGS, CONFIGS)
def test_two_appliers(config: Object, other: Object) -> None:
    first, owners = applied(FORM, {"metadata": {}}, config, {}, ONE, "1")
    touched, _ = compare(FORM, first, merge(FORM, first, other))
    fought = paths.intersection(touched, owners[ONE.key].fields if ONE.key in owners else {})
    if fought:
        with pytest.raises(Contested) as contested:
            applied(FORM, first, other, owners, TWO, "2")
        assert [path for _, path in contested.value.fields] == sorted(paths.members(fought))
    both, shared = applied(FORM, first, other, owners, TWO, "2", force=bool(fought))
    assert not paths.intersection(fought, shared[ONE.key].fields if ONE.key in shared else {})
    assert set(paths.members(named(FORM, other))) <= set(paths.members(named(FORM, both)))
    assert shared[TWO.key].fields == named(FORM, other) if named(FORM, other) else TWO.key not in shared
    alone, left = applied(FORM, both, {"metadata": {}}, shared, TWO, "3", force=True)
    kept = shared[ONE.key].fields if ONE.key in shared else {}
    assert set(paths.members(kept)) <= set(paths.members(whole(FORM, alone))), "what the other owns stays"
    assert TWO.key not in left


@FEW
@given(CONFIGS, CONFIGS)
def test_updates_and_differences(old: Object, new: Object) -> None:
    touched, removed = compare(FORM, old, new)
    assert compare(FORM, old, old) == ({}, {})
    assert compare(FORM, new, old)[1] == compare(FORM, old, new)[0] or touched
    before = updated(FORM, {"metadata": {}}, old, {}, ONE, "1")
    after = updated(FORM, old, new, before, HAND, "2")
    mine = after[HAND.key].fields if HAND.key in after else {}
    others = after[ONE.key].fields if ONE.key in after else {}
    assert mine == touched
    assert paths.intersection(others, paths.union(touched, removed)) == {}
    everything = paths.union(mine, others)
    assert set(paths.members(named(FORM, new))) <= set(paths.members(everything)), "every field has an owner"


KEYS = st.text(max_size=6) | ELEMENTS | st.sampled_from([".", "k:", "i:0", "spec", "items", "name"])
SMALL = st.none() | st.integers() | st.text(max_size=5)


@given(st.recursive(SMALL, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10))
@FEW
def test_noise_is_invalid_and_never_a_crash(noise: Any) -> None:
    for attempt in (lambda: paths.read(noise), lambda: named(FORM, {"spec": noise}), lambda: decode_foreign(noise),
                    lambda: decode_foreign([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsV1": noise}]),
                    lambda: applied(FORM, {"metadata": {}, "spec": {"items": [1, {}], "sub": 7}}, {"spec": noise}, {}, ONE, "1")):
        try:
            attempt()
        except Invalid:
            continue
    touched, removed = compare(FORM, {"spec": {"items": noise, "sub": 1}}, {"spec": {"items": [{"name": "a"}], "sub": noise}})
    assert paths.read(touched) == touched
    assert paths.read(removed) == removed


def test_items_keep_their_order() -> None:
    def merged(live: str, config: str) -> str:
        made = merge(FORM, {"spec": {"tags": list(live)}}, {"spec": {"tags": list(config)}})
        return "".join(made["spec"]["tags"])

    assert [merged("ab", "c"), merged("ab", "bc"), merged("ab", "ca"), merged("", "ab"), merged("axb", "ab")] == [
        "abc", "abc", "cab", "ab", "axb"]


def test_many_updaters_become_one() -> None:
    owners: Any = {}
    for number in range(15):
        old = {"metadata": {}, "spec": {"labels": {str(each): "x" for each in range(number)}}}
        new = {"metadata": {}, "spec": {"labels": {str(each): "x" for each in range(number + 1)}}}
        owners = updated(FORM, old, new, owners, Who(f"m{number}", "Update", "v1"), f"{number:02}")
    names = [entry["manager"] for entry in encode(owners)]
    assert names == [ANCIENT, *(f"m{number}" for number in range(6, 15))]
    assert len(set(paths.members(owners[ANCIENT, "Update", "v1", ""].fields))) == 6


def test_kubectl_takes_over_what_it_applied_itself() -> None:
    """Fields that the annotation names, and that are as it says, are no conflict for the manager kubectl."""
    config = {"apiVersion": "v1", "kind": "Thing", "metadata": {}, "spec": {"n": 1, "labels": {"a": "1"}}}
    live = {**config, "metadata": {"annotations": {ANNOTATION: json.dumps(config)}}}
    owners = updated(FORM, {"metadata": {}}, live, {}, Who("kubectl-client-side-apply", "Update", "v1"), "1")
    kubectl, wanted = Who("kubectl", "Apply", "v1"), {**config, "spec": {"n": 2, "labels": {"a": "1"}}}
    made, _ = applied_as_kubectl(FORM, live, wanted, owners, kubectl, "2")
    assert made["spec"]["n"] == 2
    assert json.loads(made["metadata"]["annotations"][ANNOTATION])["spec"]["n"] == 2
    changed = {**live, "spec": {"n": 5, "labels": {"a": "1"}}}
    scaled = updated(FORM, live, changed, owners, HAND, "2")
    with pytest.raises(Contested, match=r'conflict with "hand" using v1: \.spec\.n'):
        applied_as_kubectl(FORM, changed, wanted, scaled, kubectl, "3")
    with pytest.raises(Contested):
        applied_as_kubectl(FORM, live, wanted, owners, Who("else", "Apply", "v1"), "3")


def test_a_custom_resource_has_its_own_form() -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "list": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}},
                 "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]},
        "plain": {"type": "array", "items": {"type": "string"}}, "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}}}}}
    form: Form = Forms(SHAPES).of_schema(schema)
    config = {"metadata": {"labels": {"a": "b"}}, "spec": {
        "list": [{"id": "x", "n": 1}], "plain": ["a"], "free": {"deep": {"er": 1}}, "map": {"k": "v"}, "port": "http"}}
    assert [paths.text(path) for path in paths.members(named(form, config))] == [
        ".metadata.labels.a", '.spec.list[id="x"]', '.spec.list[id="x"].id', '.spec.list[id="x"].n', ".spec.plain",
        ".spec.free.deep", ".spec.free.deep.er", ".spec.map.k", ".spec.port"]
    with pytest.raises(Invalid, match=r"\.spec\.strange: field not declared in schema"):
        named(form, {"metadata": {}, "spec": {"strange": 1}})
