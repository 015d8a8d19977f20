"""Keeps the status of every ResourceQuota: what is allowed and what is used, written when it changes.

Read next: `../admission/quota.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from minik8s.apiserver.admission.asked import every
from minik8s.apiserver.admission.quota import Quota
from minik8s.apiserver.admission.quota_usage import words
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Fault

log = logging.getLogger(__name__)
Object = dict[str, Any]
PERIOD = 2.0


async def keep_status(cluster: Cluster, quota: Quota) -> None:
    """Look now and then, for ever; without quotas there is nothing to do."""
    writer = Writer(cluster)
    await cluster.cache(BY_PLURAL["resourcequotas"]).ready()
    while True:
        for each in every(cluster, "resourcequotas"):
            hard = (each.get("spec") or {}).get("hard") or {}
            status = {"hard": hard, "used": {key: words(key, amount) for key, amount in quota.used(each).items()}}
            if each.get("status") != status:
                await _write(writer, each["metadata"], status)
        await asyncio.sleep(PERIOD)


async def _write(writer: Writer, meta: Object, status: Object) -> None:
    try:
        await writer.alter(BY_PLURAL["resourcequotas"], meta["namespace"], meta["name"], lambda old: {**old, "status": status})
    except Fault as fault:
        log.debug("status of quota %s/%s: %s", meta["namespace"], meta["name"], fault)
