"""The API's types as compact tables: field -> type, merge key, list kind; what patches and validation steer by.

`Shapes.load` reads the one file the builder wrote (about 2,000 fields, under 2 MB once loaded).
Pure. Must not know: JSON schema, the cache's whereabouts. Read next: `strategic.py`, `validation.py`; `build.py` makes the file.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

LIST, MAP = "list", "map"
SCALARS = frozenset({"string", "int32", "int64", "number", "boolean", "bytes", "time", "quantity", "intorstring", "any"})


class GVK(NamedTuple):
    """Group, version and kind; a plain tuple of the three does as well wherever one is asked for."""

    group: str
    version: str
    kind: str

    @classmethod
    def of(cls, obj: dict[str, object]) -> GVK:
        """What an object says it is."""
        group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
        return cls(group, version, str(obj.get("kind", "")))


class Field(msgspec.Struct, array_like=True, frozen=True):
    """One field: its type is a scalar, `list`, `map`, or the name of another shape."""

    type: str
    item: Field | None = None
    merge_key: str = ""
    strategy: str = ""
    list_type: str = ""
    list_keys: tuple[str, ...] = ()

    @property
    def merges(self) -> bool:
        """Whether a strategic patch merges this list instead of replacing it."""
        return "merge" in self.strategy.split(",")

    @property
    def replaces(self) -> bool:
        """Whether a strategic patch replaces this object whole."""
        return "replace" in self.strategy.split(",")


class Shape(msgspec.Struct, array_like=True, frozen=True):
    """One object type; `open_` ones take any field, `atomic` ones are owned and applied whole."""

    fields: dict[str, Field]
    required: tuple[str, ...] = ()
    open_: bool = False
    atomic: bool = False


class Shapes(msgspec.Struct, array_like=True, frozen=True):
    """Every type reachable from the kinds served."""

    kinds: dict[str, str]
    types: dict[str, Shape]

    @classmethod
    def load(cls, body: bytes) -> Shapes:
        """Read what `dump` wrote."""
        return msgspec.msgpack.decode(body, type=cls)

    def dump(self) -> bytes:
        """The file's content."""
        return msgspec.msgpack.encode(self)

    def of_kind(self, gvk: tuple[str, str, str]) -> Shape | None:
        """The shape of a kind, or None if it is not served."""
        group, version, kind = gvk
        return self.types.get(self.kinds.get(f"{group}/{version}/{kind}", ""))

    def of_field(self, field: Field | None) -> Shape | None:
        """The shape a field (or a list's or map's item) refers to."""
        return self.types.get(field.type) if field else None
