"""The stored form: what goes in comes out, and a version put into its bytes is the version of the decoded object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.apiserver.storage.objects import decode, encode, versioned, with_version

TEXT = st.text(st.sampled_from('ab"\\{}:,é\n'), max_size=8)
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("metadata"), inner, max_size=3))
OBJECTS = st.builds(
    lambda head, meta, rest, last: {**({} if last else head), **rest, "metadata": meta, **head},
    st.fixed_dictionaries({}, optional={"apiVersion": TEXT, "kind": TEXT}),
    st.dictionaries(TEXT | st.sampled_from(["name", "resourceVersion"]), VALUES, max_size=3),
    st.dictionaries(TEXT | st.sampled_from(["spec", "data"]), VALUES, max_size=3), st.booleans())


@given(OBJECTS, st.integers(1, 2**63 - 1))
def test_a_version_in_the_bytes_is_a_version_in_the_object(obj: dict[str, Any], revision: int) -> None:
    value = encode(obj)
    assert "resourceVersion" not in decode(value, "key")["metadata"]
    assert decode(value, "key") == {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}
    there = with_version(value, revision)
    wanted = versioned(decode(value, "key"), revision)
    if there is None:
        assert '"resourceVersion"' in value.decode() or not with_plain_head(obj)
    else:
        assert json.loads(there) == wanted


def with_plain_head(obj: dict[str, Any]) -> bool:
    return not any(set(obj.get(name, "")) & set('"\\\n') for name in ("apiVersion", "kind"))


@pytest.mark.parametrize("value", [
    b"", b"k8s\0", b"[]", b'{"metadata":{"name":"a"}',
    b'{"metadata":{"name":"a"},}', b'{"metadata":[]}', b'{"spec":{},"metadata":{}}',
    b'{"kind":"A","apiVersion":"v1","metadata":{}}', b'{"metadata":{"resourceVersion":"7"}}', b'{"metadata":{"name":"\xff"}}',
])
def test_what_others_stored_is_looked_at_closely(value: bytes) -> None:
    assert with_version(value, 5) is None


def test_the_head_comes_first() -> None:
    made = encode({"spec": {"metadata": {}}, "metadata": {"name": "a"}, "kind": "Pod", "apiVersion": "v1"})
    assert made == b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"metadata":{}}}'
    made = encode({"metadata": {"name": "a"}, "kind": "Pod", "apiVersion": "v1"})
    assert with_version(made, 5) == b'{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"5","name":"a"}}'
    assert with_version(encode({"metadata": {}}), 5) == b'{"metadata":{"resourceVersion":"5"}}'
