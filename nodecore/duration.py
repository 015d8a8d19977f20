"""Go's notation for spans of time, as flags take them. Pure. Must not know: which flag. Read next: `nodecore/errors.py`."""

from __future__ import annotations

import re

from nodecore.errors import UserError

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|h|m|s)")
PLAIN = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(text: str, *, what: str) -> float:
    """`40`, `40s`, `1m30s` or `1h0m0s` in seconds; `what` names the flag in the complaint."""
    stripped = text.strip()
    if PLAIN.fullmatch(stripped):
        return float(stripped)
    parts = PART.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise UserError(f"{what}: {text!r} is not a duration such as 40s or 1m30s")
    return sum(float(number) * UNITS[unit] for number, unit in parts)
