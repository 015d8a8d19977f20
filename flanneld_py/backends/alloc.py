"""alloc: a subnet for this node and nothing else: how packets get there is somebody else's work.

Pure. Read next: `flanneld_py/backends/port.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease
from nodecore.kernel.model import NetState


@dataclass(frozen=True)
class AllocBackend(Backend):
    """The backend; it has no options."""

    type: ClassVar[str] = "alloc"

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """Nothing."""
        return NetState()


def parse_alloc(raw: Mapping[str, Any]) -> AllocBackend:
    """There is nothing to read."""
    return AllocBackend()
