"""How many requests a second somebody may make: a bucket of tokens for each user, and for each address of unknown ones.

    nodes' heartbeats, system:kube-*, ServiceAccounts of kube-system, system:masters      not counted
    everybody else                                                                        by name
    nobody, and whose credentials are wrong                                               by address, an IPv6 one by its /64

A bucket holds two seconds' worth. Of each only the moment is kept at which it will be full again; a full one is none.
Pure: the time is handed in. Must not know: how a request is answered. Read next: `seats.py`, `handler.py`.
"""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest
from math import ceil

from minik8s.apiserver.auth.authorize import ACCOUNT_PREFIX, User
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.seats import vital
from minik8s.apiserver.request.status import Refused
from nodecore.net import read_address

HELD_SECONDS = 2.0
MOST, LONGEST = 4096, 256
OWN_ACCOUNTS = f"{ACCOUNT_PREFIX}kube-system:"
NOWHERE = Target("", "", "")


class Buckets:
    """The buckets of all who are counted alike; a rate of 0 counts nobody."""

    def __init__(self, rate: float) -> None:
        self._each = 1 / rate if rate else 0.0
        self._full: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full)

    def take(self, who: str, now: float) -> float:
        """Take a token; if there is none, how many seconds it is until there is one."""
        if not self._each:
            return 0.0
        full = max(self._full.get(who, now), now) + self._each
        missing = full - now - max(HELD_SECONDS, self._each)
        if missing > 1e-9:
            return missing
        if who not in self._full and len(self._full) >= MOST:
            self._forget(now)
        self._full[who] = full
        return 0.0

    def _forget(self, now: float) -> None:
        """The full ones; and of too many others those that lack least."""
        self._full = {who: full for who, full in self._full.items() if full > now}
        if len(self._full) >= MOST:
            for who in nsmallest(MOST // 2, self._full, key=self._full.__getitem__):
                del self._full[who]


class Rates:
    """Those of one server: so many requests a second of each user, and of each address that says nothing or nothing true."""

    def __init__(self, user: float, anonymous: float, rejected: Counter[str]) -> None:
        self._users, self._addresses, self._rejected = Buckets(user), Buckets(anonymous), rejected

    def count(self, user: User, target: Target | None, address: str, now: float) -> None:
        """Count a request, or refuse it."""
        if not user.known:
            self.count_stranger(address, now)
        elif not exempt(user, target or NOWHERE):
            self._judge(self._users.take(user.name[:LONGEST], now), f"user {user.name[:LONGEST]!r}")

    def count_stranger(self, address: str, now: float) -> None:
        """The same for whoever is at an address."""
        place = network(address)
        self._judge(self._addresses.take(place, now), f"{place}, unknown")

    def _judge(self, missing: float, who: str) -> None:
        if missing:
            self._rejected["rate-limit"] += 1
            why = f"too many requests a second from {who}, please try again later"
            raise Refused(429, why, details={"retryAfterSeconds": ceil(missing)})


def exempt(user: User, target: Target) -> bool:
    """Whether a request is never one too many."""
    return vital(user, target) or user.name.startswith(OWN_ACCOUNTS)


def network(address: str) -> str:
    """What somebody has one of: an IPv4 address, an IPv6 network of 64 bits."""
    if ":" not in address:
        return address
    found = read_address(address.partition("%")[0])
    if mapped := getattr(found, "ipv4_mapped", None):
        return str(mapped)
    return f"{type(found)(int(found) >> 64 << 64)}/64"
