"""Who may be answered at once: so many requests in all, part of them kept for what keeps a cluster alive.

    nodes' leases and status, leases of who leads, system:kube-* and system:masters      every seat
    everybody else                                                                       three in four, each user half of those

Pure. Must not know: how a request is answered. Read next: `handler.py`.
"""

from __future__ import annotations

from collections import Counter

from minik8s.apiserver.auth.authorize import MASTERS, User
from minik8s.apiserver.request.routes import Target

SEATS = 400
HEARTBEATS = frozenset({"leases", "nodes", "pods", "events"})


class Seats:
    """The seats of one server."""

    def __init__(self, seats: int = SEATS) -> None:
        self._seats, self._open = seats, seats * 3 // 4
        self._taken = 0
        self._users: Counter[str] = Counter()

    def take(self, user: User, target: Target) -> bool:
        """Take a seat if there is one for such a request."""
        mine = self._users[user.name]
        if not vital(user, target) and (self._taken >= self._open or mine >= self._open // 2):
            return False
        if self._taken >= self._seats:
            return False
        self._taken += 1
        self._users[user.name] = mine + 1
        return True

    def leave(self, user: User) -> None:
        """Give it back."""
        self._taken -= 1
        left = self._users[user.name] - 1
        if left > 0:
            self._users[user.name] = left
        else:
            del self._users[user.name]


def vital(user: User, target: Target) -> bool:
    """Whether a cluster lives by such requests."""
    if user.node:
        return target.plural in HEARTBEATS
    return user.name.startswith("system:kube-") or MASTERS in user.groups
