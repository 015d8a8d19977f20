"""What the reconciler runs: look at the node through its ports, write through the same.

After a pass that worked the kernel holds what was wanted, and the next pass starts from that instead of reading thousands
of entries again: whoever hears of a change by others calls `doubt()`, and now and then it is read without a reason.

Must not know: leases in etcd, which adapter is behind a port. Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from flanneld_py.attend.port import Attendant
from flanneld_py.lease import Lease
from flanneld_py.plan import (
    AddPeer,
    Desired,
    Inputs,
    NodeOp,
    Observed,
    PeerOp,
    RemovePeer,
    StartServing,
    desired,
    plan_node,
    remarks,
)
from nodecore.errors import Fault, leaves
from nodecore.kernel.diff import NetOp
from nodecore.kernel.model import NetState, scope_of
from nodecore.kernel.ports import Network

log = logging.getLogger(__name__)

TRUST = 25.0  # seconds for which a state is believed without a look
PATIENCE = 60.0  # and so many more while there is something else to do

class NodeTarget:
    """One node: its kernel network and its backend's attendant; `inputs` gives None until they are complete."""

    def __init__(self, network: Network, inputs: Callable[[], Inputs | None]) -> None:
        self._network, self._inputs = network, inputs
        self._settled: NetState | None = None  # what the kernel holds, as far as we have made or found it so
        self._trusted_until = 0.0
        self._seen: Sequence[Lease] = ()
        self._doubts = self._doubts_before = 0
        self._wanted = NetState()
        self._told: frozenset[str] = frozenset()
        self.attendant: Attendant | None = None
        self.served: Inputs | None = None  # what the pass now running, or else the last one, is for
        self.wanted: Desired | None = None  # and what it is to bring about

    def synced(self) -> bool:
        """Whether lease and peers are known."""
        return self._inputs() is not None

    def desired(self) -> Desired:
        """What the node should hold."""
        self.served = self._inputs()
        assert self.served
        self.wanted = desired(self.served)
        return self.wanted

    async def observe(self, wanted: Desired) -> Observed:
        """What it holds."""
        net = self._settled
        if net is None or self._is_time():
            self._doubts_before = self._doubts
            self._trusted_until = time.monotonic() + TRUST
            assert self.served
            net = await self._network.read(scope_of(wanted.net, *self.served.scope))
            self._remark()
        serving, peers = (self.attendant.serving(), self.attendant.peers()) if self.attendant else (None, ())
        return Observed(net, serving, peers)

    def _is_time(self) -> bool:
        """To look without a reason: rather in a pass that has nothing else to do."""
        assert self.served
        idle, self._seen = self.served.leases is self._seen, self.served.leases
        return time.monotonic() > self._trusted_until + (0.0 if idle else PATIENCE)

    def plan(self, actual: Observed, wanted: Desired) -> Sequence[NodeOp]:
        """The writes."""
        ops = plan_node(actual, wanted)
        self._wanted = wanted.net
        if all(isinstance(op, PeerOp) for op in ops):
            self._settle()
        return ops

    def _settle(self) -> None:
        """The kernel holds what was wanted, unless somebody had doubts while we were at it."""
        self._settled = self._wanted if self._doubts == self._doubts_before else None

    def doubt(self) -> None:
        """Somebody else changed something: the next pass reads everything."""
        self._doubts += 1
        self._settled = None

    def forget(self) -> None:
        """The next pass reads everything."""
        self.doubt()

    def _remark(self) -> None:
        """Tell what is odd, each thing once."""
        assert self.served
        found = frozenset(remarks(self.served))
        for text in sorted(found - self._told):
            log.warning("%s", text)
        self._told = found

    async def apply(self, ops: Sequence[NodeOp]) -> None:
        """Write; the attendant goes on when the network fails, and the other way round."""
        faults: list[Fault] = []
        net: list[NetOp] = [op for op in ops if not isinstance(op, PeerOp)]
        if net:
            try:
                await self._network.apply(net)
            except ExceptionGroup as group:
                faults += [leaf for leaf in leaves(group) if isinstance(leaf, Fault)]
            else:
                self._settle()
        for op in ops:
            if isinstance(op, PeerOp):
                try:
                    await self._attend(op)
                except Fault as fault:
                    faults.append(fault)
        if faults:
            raise ExceptionGroup("node writes", faults)

    async def _attend(self, op: PeerOp) -> None:
        assert self.attendant
        match op:
            case StartServing(own):
                await self.attendant.start(own)
            case AddPeer(peer):
                await self.attendant.add(peer)
            case RemovePeer(peer):
                await self.attendant.remove(peer)
