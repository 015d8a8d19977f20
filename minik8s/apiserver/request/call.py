"""One request to the API, understood: who asks what of which kind, and how the answer should look; and the answer.

Values only. Must not know: HTTP's machinery. Read next: `handler.py`, which makes calls; `verbs/reading.py`, `verbs/writing.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from minik8s.apiserver.auth.authorize import User
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.request.negotiation import PROTOBUF, prefers_protobuf
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.status import Cause, Refused, invalid
from minik8s.apiserver.schema.protobuf_out import envelope

Object = dict[str, Any]
JSON = "application/json"
SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
MODES = ("Ignore", "Warn", "Strict")


@dataclass(frozen=True, slots=True)
class Call:
    """A request for a served kind."""

    kind: Kind
    target: Target
    verb: str
    query: Mapping[str, str]
    user: User
    body: bytes = b""
    content: str = JSON
    accept: str = ""
    agent: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def dry(self) -> bool:
        """Whether nothing is to be stored."""
        return dry_run([self.query["dryRun"]] if self.query.get("dryRun") else [], OPTIONS.get(self.verb, "DeleteOptions"))

    @property
    def strictness(self) -> str:
        """What unknown fields are: an error, a warning, or nothing."""
        mode = self.query.get("fieldValidation", "") or "Warn"
        if mode not in MODES:
            cause = Cause("fieldValidation", f'Unsupported value: "{mode}": supported values: "Ignore", "Strict", "Warn"',
                          "FieldValueNotSupported")
            raise invalid("CreateOptions", "meta.k8s.io", "", [cause])
        return mode


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. That to a list has its `items` apart: they follow the body, with commas between and `]}` behind."""

    status: int
    body: bytes
    content: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    items: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.body) + (sum(map(len, self.items)) + len(self.items) + 1 if self.items else 0)

    def pieces(self, size: int) -> Iterator[bytes]:
        """All of it, about so many bytes at a time."""
        if not self.items:
            yield from (self.body[at:at + size] for at in range(0, len(self.body), size or 1))
            return
        piece, length = [self.body], 0
        for at, item in enumerate(self.items):
            piece += (b",", item) if at else (item,)
            length += len(item)
            if length >= size:
                yield b"".join(piece)
                piece, length = [], 0
        yield b"".join([*piece, b"]}"])


def dry_run(values: list[Any], options: str = "DeleteOptions") -> bool:
    """Read a dryRun parameter of such options."""
    if any(value != "All" for value in values):
        cause = Cause("dryRun", f'Unsupported value: "{values[0]}": supported values: "All"', "FieldValueNotSupported")
        raise invalid(options, "meta.k8s.io", "", [cause])
    return bool(values)


def answer(body: Object, status: int = 200) -> Answer:
    """An object as JSON."""
    return Answer(status, msgspec.json.encode(body))


def refusal(refused: Refused, accept: str = "") -> Answer:
    """A Status of failure."""
    headers = {"Retry-After": str(refused.details.get("retryAfterSeconds", 1))} if refused.code in (429, 503) else {}
    if prefers_protobuf(accept):
        return Answer(refused.code, envelope(refused.body()), PROTOBUF, headers)
    return Answer(refused.code, msgspec.json.encode(refused.body()), headers=headers)


def now() -> str:
    """The time as the API writes it."""
    return _stamp(int(time.time()))


@lru_cache(4)
def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def later(stamp: str, seconds: int) -> str:
    """So many seconds after a stamp."""
    there = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) + timedelta(seconds=min(seconds, 10**9))
    return there.strftime("%Y-%m-%dT%H:%M:%SZ")


def suffix() -> str:
    """Five random letters for a generated name, none of which make words."""
    return "".join(random.choices(SUFFIX, k=5))
