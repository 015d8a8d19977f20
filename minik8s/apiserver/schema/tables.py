"""Objects -> a meta.k8s.io/v1 Table, which is all that `kubectl get` prints. Pure: ages are told from the `now` handed in.

Read next: `columns.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from minik8s.apiserver.schema.cells import DEFAULT, Column, Columns
from minik8s.apiserver.schema.columns import KINDS

Object = dict[str, Any]
META = "meta.k8s.io/v1"


def table(
    kind: str, objects: Iterable[Object], now: datetime.datetime, *,
    include: str = "Metadata", metadata: Object | None = None, headers: bool = True, layout: Columns | None = None,
) -> Object:
    """The Table of some objects of one kind; `include` is the includeObject parameter: Metadata, Object or None.

    A kind that the catalogue does not have brings its own `layout`.
    """
    layout = layout or KINDS.get(kind, DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": META,
        "metadata": metadata or {},
        "columnDefinitions": [_definition(column) for column in layout.columns] if headers else [],
        "rows": [{"cells": layout.cells(obj, now), **_object(obj, include)} for obj in objects],
    }


def _definition(column: Column) -> Object:
    form = "name" if column.name == "Name" else column.format
    return {"name": column.name, "type": column.type, "format": form, "description": column.description,
            "priority": column.priority}


def _object(obj: Object, include: str) -> Object:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": obj}
    return {"object": {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": obj.get("metadata") or {}}}
