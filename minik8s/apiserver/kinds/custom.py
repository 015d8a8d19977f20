"""What a CustomResourceDefinition says of one version of its kind, beyond what every kind has.

Values only. Must not know: HTTP, storage. Read next: `definitions.py`, which reads it; `structural.py`, which applies the schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Printed:
    """One additional printer column."""

    name: str
    type: str
    path: str
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Custom:
    """The schema objects are held to, what `kubectl get` shows, where the replicas are."""

    schema: Object = field(default_factory=dict)
    columns: tuple[Printed, ...] = ()
    replicas: str = ""
    status_replicas: str = ""
    selector: str = ""
