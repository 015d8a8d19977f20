"""What the reconciler runs: look at the node through its ports, write through the same.

Must not know: leases in etcd, which adapter is behind a port. Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flanneld_py.attend.port import Attendant
from flanneld_py.masq import Table
from flanneld_py.plan import (
    AddPeer,
    Desired,
    DropTable,
    Inputs,
    LoadTable,
    NodeOp,
    Observed,
    PeerOp,
    RemovePeer,
    StartServing,
    desired,
    plan_node,
)
from nodecore.errors import Fault, leaves
from nodecore.kernel.diff import NetOp
from nodecore.kernel.model import scope_of
from nodecore.kernel.ports import Firewall, Network

UNKNOWN = "?"


class NodeTarget:
    """One node: its kernel network, its nft tables, its backend's attendant; `inputs` gives None until they are complete."""

    def __init__(self, network: Network, firewall: Firewall, inputs: Callable[[], Inputs | None]) -> None:
        self._network, self._firewall, self._inputs = network, firewall, inputs
        self.attendant: Attendant | None = None
        self.served: Inputs | None = None  # what the pass now running, or else the last one, is for
        self._loaded: dict[str, tuple[str, str]] = {}  # table -> the script we loaded, and how nft lists it

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
        tables = {table.key: await self._script_of(table) for table in wanted.tables}
        serving, peers = (self.attendant.serving(), self.attendant.peers()) if self.attendant else (None, ())
        return Observed(net, {key: script for key, script in tables.items() if script is not None}, serving, peers)

    async def _script_of(self, table: Table) -> str | None:
        listing = await self._firewall.list_table(table.family, table.name)
        if listing is None:
            return None
        script, expected = self._loaded.get(table.key, ("", ""))
        return script if listing == expected else UNKNOWN

    def plan(self, actual: Observed, wanted: Desired) -> Sequence[NodeOp]:
        """The writes."""
        return plan_node(actual, wanted)

    async def apply(self, ops: Sequence[NodeOp]) -> None:
        """Write; the firewall goes on when the network fails, and the other way round."""
        faults: list[Fault] = []
        net: list[NetOp] = [op for op in ops if not isinstance(op, LoadTable | DropTable | PeerOp)]
        if net:
            try:
                await self._network.apply(net)
            except ExceptionGroup as group:
                faults += [leaf for leaf in leaves(group) if isinstance(leaf, Fault)]
        for op in ops:
            try:
                if isinstance(op, LoadTable | DropTable):
                    await self._write_table(op)
                elif isinstance(op, PeerOp):
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

    async def _write_table(self, op: LoadTable | DropTable) -> None:
        table = op.table
        if isinstance(op, DropTable):
            await self._firewall.load(f"add table {table.key}\ndelete table {table.key}\n")
            return
        await self._firewall.load(table.script)
        listing = await self._firewall.list_table(table.family, table.name)
        self._loaded[table.key] = (table.script, listing or "")

    def forget(self) -> None:
        """What nft lists is compared with what we loaded: forgetting that loads it again."""
        self._loaded.clear()
