"""How long to rest after a sync: a change alone is written at once, and many changes cost a bounded share of the time.

What was not used of that share is kept as credit, so that one sync that took long does not hold up the next change.

Pure. Read next: `proxy/agent.py`.
"""

from __future__ import annotations

REST_PER_WORK = 4  # in the long run, seconds of rest for each of syncing
CREDIT = 0.25  # seconds of syncing that may come without rest


class Pace:
    """Told of each sync, it says how long to wait before the next; never longer than `longest`."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._debt = 0.0
        self._told = 0.0

    def rest(self, now: float, worked: float) -> float:
        """Seconds to rest after a sync of `worked` seconds that ended `now`."""
        paid = (now - worked - self._told) / REST_PER_WORK
        self._debt = min(max(self._debt - paid, 0.0) + worked, CREDIT + self._longest / REST_PER_WORK)
        self._told = now
        return max(self._debt - CREDIT, 0.0) * REST_PER_WORK
