"""What the reconciler runs: look at the node through its ports, write through the same.

Must not know: leases in etcd, which adapter is behind a port. Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flanneld_py.attend.port import Attendant
from flanneld_py.plan import AddPeer, Desired, Inputs, NodeOp, Observed, PeerOp, RemovePeer, StartServing, desired, plan_node
from nodecore.errors import Fault, leaves
from nodecore.kernel.diff import NetOp
from nodecore.kernel.model import scope_of
from nodecore.kernel.ports import Network


class NodeTarget:
    """One node: its kernel network and its backend's attendant; `inputs` gives None until they are complete."""

    def __init__(self, network: Network, inputs: Callable[[], Inputs | None]) -> None:
        self._network, self._inputs = network, inputs
        self.attendant: Attendant | None = None
        self.served: Inputs | None = None  # what the pass now running, or else the last one, is for

    def synced(self) -> bool:
        """Whether lease and peers are known."""
        return self._inputs() is not None

    def desired(self) -> Desired:
        """What the node should hold."""
        self.served = self._inputs()
        assert self.served
        return desired(self.served)

    async def observe(self, wanted: Desired) -> Observed:
        """What it holds."""
        net = await self._network.read(scope_of(wanted.net))
        serving, peers = (self.attendant.serving(), self.attendant.peers()) if self.attendant else (None, ())
        return Observed(net, serving, peers)

    def plan(self, actual: Observed, wanted: Desired) -> Sequence[NodeOp]:
        """The writes."""
        return plan_node(actual, wanted)

    async def apply(self, ops: Sequence[NodeOp]) -> None:
        """Write; the attendant goes on when the network fails, and the other way round."""
        faults: list[Fault] = []
        net: list[NetOp] = [op for op in ops if not isinstance(op, PeerOp)]
        if net:
            try:
                await self._network.apply(net)
            except ExceptionGroup as group:
                faults += [leaf for leaf in leaves(group) if isinstance(leaf, Fault)]
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

    def forget(self) -> None:
        """Nothing is kept: every pass looks."""
