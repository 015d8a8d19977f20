"""What the daemon counts besides its reconciler's passes.

Counting needs no library: where nobody asks for metrics, none is imported. Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_counts = {"lease_lost": 0}


def lease_lost() -> None:
    """Our lease was revoked, stolen or had ended."""
    _counts["lease_lost"] += 1


def counts() -> dict[str, int]:
    """Everything counted so far."""
    return dict(_counts)


class Counts:
    """A collector of prometheus_client's kind."""

    def collect(self) -> Iterable[Any]:
        """The counters."""
        from prometheus_client.core import CounterMetricFamily

        what = "Times our lease was revoked, stolen or had ended, and was taken back"
        yield CounterMetricFamily("flannel_lease_lost", what, _counts["lease_lost"])
