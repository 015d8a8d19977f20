"""Between etcd and the backup file.

    backup     every key below the prefix at one revision, while the cluster goes on
    restore    into an empty prefix, or with `force` in the place of what is there; API servers are stopped meanwhile

A client may hold a revision from the time of the backup. Restored into another etcd, whose count is lower, that revision would
come again and mean something else: so the count is driven past the backup's, and everything before is compacted away, which
makes such a client list anew. Who saw revisions later than the backup in an etcd that is lost must be started anew.
Read next: `dump.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from minik8s.backup import dump
from nodecore.errors import UserError
from nodecore.etcd.client import EtcdClient, KeyValue, Put

PAGE, TOGETHER = 500, 64
STEP = "/minik8s/restore"


async def backup(etcd: EtcdClient, path: Path, prefix: str) -> dump.Head:
    """Write all there is below `prefix` to a file."""
    found: list[KeyValue] = []
    revision, start = 0, ""
    while True:
        page = await etcd.range(prefix, revision=revision, limit=PAGE, start=start)
        revision = revision or page.revision
        found += page.items
        if not page.more:
            break
        start = page.items[-1].key + "\0"
    leases = {lease: max(1, (await etcd.time_to_live(lease)).ttl) for lease in sorted({kv.lease for kv in found if kv.lease})}
    head = dump.Head(dump.FORMAT, prefix, revision, {str(lease): seconds for lease, seconds in leases.items()})
    keys = (dump.Key(kv.key, kv.value, kv.lease) for kv in found)
    await asyncio.to_thread(dump.write, path, head, keys)
    return head


async def restore(etcd: EtcdClient, path: Path, *, force: bool) -> tuple[int, int]:
    """Write the keys of a file into etcd; returns how many, and the revision reached."""
    head, keys = await asyncio.to_thread(dump.read, path)
    if (await etcd.range(head.prefix, limit=1, keys_only=True)).items:
        if not force:
            raise UserError(f"etcd holds keys below {head.prefix} already; --force puts the backup in their place")
        await etcd.delete_prefix(head.prefix)
    leases = {int(lease): await etcd.grant(seconds) for lease, seconds in head.leases.items()}
    for first in range(0, len(keys), TOGETHER):
        part = keys[first:first + TOGETHER]
        await etcd.txn([], [Put(each.key, each.value, leases.get(each.lease, 0)) for each in part])
    return len(keys), await _drive_past(etcd, head.revision)


async def _drive_past(etcd: EtcdClient, revision: int) -> int:
    """Let etcd count on until it is past `revision`, then forget all before now."""
    missing = revision + 1 - await etcd.revision()
    while missing > 0:
        await asyncio.gather(*(etcd.put(STEP, b"") for _ in range(min(missing, TOGETHER))))
        missing -= TOGETHER
    await etcd.delete(STEP)
    now = await etcd.put(STEP, b"")
    await etcd.compact(now)
    await etcd.delete(STEP)
    return now
