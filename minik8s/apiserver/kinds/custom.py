"""What a CustomResourceDefinition says of one version of its kind, beyond what every kind has.

Values only. Must not know: HTTP, storage. Read next: `definitions.py`, which reads it; `structural.py`, which applies the schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Custom:
    """The schema objects are held to, the layout of their tables, and where their replicas are, if anywhere.

    `source` is the version as the definition words it: two Customs are the same if they come of the same.
    """

    source: Object
    schema: Object = field(compare=False)
    layout: Any = field(compare=False, default=None)
    replicas: tuple[str, ...] = ()
    status_replicas: tuple[str, ...] = ()
    selector: tuple[str, ...] = ()
