"""Objects thrown by the dice from a served OpenAPI v3 document: mostly of the right types, with values nobody expects."""

from __future__ import annotations

import random
from typing import Any

STRINGS = [
    "", "a", "x" * 300, "a/b", "-", "A_B", "1", "-1", "1e400", "9" * 40 + "Gi", "0.0000000001", "100%", "-5%", "1e9999%",
    "*/61 * * * *", "0 0 31 2 *", "10.0.0.0/999", "10.0.0.1", "fd00::1", "fe80::1%eth0", "::ffff:1.2.3.4", "255.255.255.255",
    "²", "٣", "\u0000", "\ud800", "é" * 64, "2026-13-40T99:99:99Z", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z",
    "TCP", "Local", "Always", "Never", "None", "kubernetes.io/x", "https://h/", "{.spec", "[a-z", "In", "metadata.name", "*",
    "pods", "Pod", "v1", "apps/v1", "example.com/x", "\n", " ", "${A}", "%s%n", "../..", "dg==", "===", "default"]
NUMBERS = [0, 1, -1, 2, 80, 65535, 65536, 2**31 - 1, 2**31, -2**31, 2**63 - 1, 1.5]
CONFUSED: list[Any] = [None, [], {}, "", 0, True, [None], [[]], {"": None}, -2**63, 2**64, "x"]


class SchemaDice:
    """Values of the schemas of one document."""

    def __init__(self, document: Any, dice: random.Random, *, confused: float = 0.01) -> None:
        self.schemas, self.dice, self.confused = document["components"]["schemas"], dice, confused

    def value(self, schema: Any, depth: int = 0) -> Any:
        dice = self.dice
        if dice.random() < self.confused:
            return dice.choice(CONFUSED)
        for part in schema.get("allOf", [])[:1]:
            schema = {**schema, **part}
        if "$ref" in schema:
            return self.value(self.schemas[schema["$ref"].rpartition("/")[2]], depth)
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array":
            return [self.value(schema["items"], depth + 1) for _ in range(dice.choice((0, 1, 1, 2)) if depth < 12 else 0)]
        if kind in ("integer", "number"):
            return int(dice.choice(NUMBERS[:-1])) if kind == "integer" else dice.choice(NUMBERS)
        if kind == "boolean":
            return dice.random() < 0.5
        if schema.get("format") == "int-or-string" and dice.random() < 0.5:
            return dice.choice(NUMBERS[:-1])
        return dice.choice(STRINGS)

    def _object(self, schema: Any, depth: int) -> Any:
        dice, made = self.dice, {}
        required = schema.get("required", ())
        likely = 0.8 if depth < 2 else 0.25 if depth < 8 else 0.0
        for name, inner in schema.get("properties", {}).items():
            if name not in ("managedFields", "status") and (name in required or dice.random() < likely):
                made[name] = self.value(inner, depth + 1)
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            for _ in range(dice.choice((0, 1, 2))):
                made[dice.choice(STRINGS)] = self.value(more, depth + 1)
        return made


def mixed(good: Any, wild: Any, dice: random.Random) -> Any:
    """A good value with some of its parts taken from a wild one, so that most of it gets past the first check."""
    if not isinstance(good, dict) or not isinstance(wild, dict):
        return wild if dice.random() < 0.15 else good
    made = dict(good)
    for name, value in wild.items():
        if name in good:
            made[name] = mixed(good[name], value, dice)
        elif dice.random() < 0.2:
            made[name] = value
    return made
