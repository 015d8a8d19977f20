"""How long to wait after the nth failure: exponential, capped, jittered.

The jitter keeps a hundred nodes that lost the same server from returning in step (AWS Architecture Blog,
"Exponential Backoff and Jitter"). Read next: `nodecore/loop/reconcile.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SHARED = random.Random()  # seeding one asks the kernel


@dataclass
class Backoff:
    """A counter of failures that knows the next delay in seconds; half of each delay is random."""

    first: float = 0.1
    cap: float = 30.0
    factor: float = 2.0
    failures: int = 0
    rng: random.Random = field(default=SHARED, repr=False)

    def next(self) -> float:
        """Count one failure and say how long to wait before the next try."""
        ceiling = min(self.cap, self.first * self.factor ** min(self.failures, 60))
        self.failures += 1
        return ceiling * (0.5 + self.rng.random() / 2)

    def reset(self) -> None:
        """Forget the failures: it worked."""
        self.failures = 0
