"""How long ago, as kubectl says it: two units at most, fewer the longer it is. Pure.

Read next: `columns.py`.
"""

from __future__ import annotations

import datetime

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400
STEPS = (  # up to this many seconds: whole units, and the unit of the rest if one is shown
    (2 * MINUTE, 1, "s", 0, ""),
    (10 * MINUTE, MINUTE, "m", 1, "s"),
    (3 * HOUR, MINUTE, "m", 0, ""),
    (8 * HOUR, HOUR, "h", MINUTE, "m"),
    (48 * HOUR, HOUR, "h", 0, ""),
    (8 * DAY, DAY, "d", HOUR, "h"),
    (2 * YEAR, DAY, "d", 0, ""),
    (8 * YEAR, YEAR, "y", DAY, "d"),
)


def human(seconds: float) -> str:
    """A span of seconds: `90s`, `5m30s`, `3h`, `2d4h`, `400d`."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    for limit, unit, name, small, small_name in STEPS:
        if whole < limit:
            rest = whole % unit // small if small else 0
            return f"{whole // unit}{name}" + (f"{rest}{small_name}" if rest else "")
    return f"{whole // YEAR}y"


def moment(timestamp: str | None) -> datetime.datetime | None:
    """An RFC 3339 time of the API, or None."""
    if not timestamp:
        return None
    try:
        return datetime.datetime.fromisoformat(timestamp)
    except ValueError:
        return None


def since(timestamp: str | None, now: datetime.datetime) -> str:
    """The age of a timestamp, or `<unknown>`."""
    then = moment(timestamp)
    return human((now - then).total_seconds()) if then else "<unknown>"
