"""Forgetting etcd's past: every few minutes, revisions older than that are compacted away.

The key `compact_rev_key` is Kubernetes' own protocol, so that any number of API servers, ours or the original, take
turns: its version counts the rounds, its value is the revision last compacted to, as text. Who moves the version
from the one seen a period ago compacts to the revision seen then; who finds it moved only takes note.

Must not know: what is stored. Read next: `minik8s/apiserver/storage/objects.py`.
"""

from __future__ import annotations

import asyncio
import logging

from nodecore.errors import Expired, Fault
from nodecore.etcd.client import Compare, EtcdClient, Get, Put

log = logging.getLogger(__name__)
KEY = "compact_rev_key"
PERIOD = 300.0


async def oldest_revision(etcd: EtcdClient) -> int:
    """The revision etcd was last compacted to, by this protocol's account; 0 if never."""
    found = await etcd.get(KEY)
    return int(found.value) if found and found.value.isdigit() else 0


async def compact_for_ever(etcd: EtcdClient, *, period: float = PERIOD) -> None:
    """Compact every `period` seconds to where etcd stood a period before; runs until cancelled."""
    rounds = revision = 0
    while True:
        try:
            rounds, revision = await compact_once(etcd, rounds, revision)
        except Fault as fault:
            log.warning("compaction: %s", fault)
        await asyncio.sleep(period)


async def compact_once(etcd: EtcdClient, rounds: int, revision: int) -> tuple[int, int]:
    """One turn: given the round and the revision seen a period ago, compact if nobody did; returns those of now."""
    turn = await etcd.txn([Compare(KEY, "version", "=", rounds)], [Put(KEY, str(revision).encode())], [Get(KEY)])
    if not turn.succeeded:
        return turn.responses[0].items[0].version if turn.responses[0].items else 0, turn.revision
    if revision:
        try:
            await etcd.compact(revision)
        except Expired:
            pass
        else:
            log.debug("compaction: forgot what was overwritten before revision %d", revision)
    return rounds + 1, turn.revision
