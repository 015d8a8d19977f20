"""Leases: a time to live that keys can hang on.

Read next: `nodecore/etcd/client.py`, whose class takes these verbs in.
"""

from __future__ import annotations

import asyncio

from nodecore.errors import Denied, NotFound, Unreachable
from nodecore.etcd import faults
from nodecore.etcd.connection import API, Connection
from nodecore.etcd.records import LeaseStatus
from nodecore.rpc.errors import RpcError


class LeaseCalls:
    """The lease verbs of an `EtcdClient`."""

    _connection: Connection

    async def grant(self, ttl: int, lease: int = 0) -> int:
        """Make a lease of `ttl` seconds, with the number `lease` or one of etcd's choice; returns the number."""
        reply = await self._connection.unary("Lease", "LeaseGrant", API.LeaseGrantRequest(TTL=ttl, ID=lease))
        return int(reply.ID)

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        await self._connection.unary("Lease", "LeaseRevoke", API.LeaseRevokeRequest(ID=lease))

    async def time_to_live(self, lease: int) -> LeaseStatus:
        """How long a lease will last; its `ttl` is -1 when there is none of that number."""
        request = API.LeaseTimeToLiveRequest(ID=lease, keys=True)
        reply = await self._connection.unary("Lease", "LeaseTimeToLive", request)
        return LeaseStatus(reply.TTL, reply.grantedTTL, tuple(key.decode(errors="surrogateescape") for key in reply.keys))

    async def keepalive_once(self, lease: int) -> int:
        """Start a lease's time anew; returns its seconds. NotFound when it has ended."""
        connection = self._connection
        await connection.login()
        token = connection.token
        try:
            return await self._keepalive(lease)
        except Denied:
            if not token:
                raise
        await connection.login(stale=token)
        return await self._keepalive(lease)

    async def _keepalive(self, lease: int) -> int:
        connection = self._connection
        member = connection.member()
        call = member.stubs["Lease"].LeaseKeepAlive(metadata=connection.metadata())
        try:
            async with asyncio.timeout(connection.timeout):
                await call.write(API.LeaseKeepAliveRequest(ID=lease))
                reply = await call.read()
        except RpcError as error:
            connection.failed(member)
            raise faults.translate(error.code, error.details, member.address) from None
        except TimeoutError:
            connection.failed(member)
            raise Unreachable(f"etcd at {member.address}: no answer within {connection.timeout:g} s") from None
        finally:
            call.cancel()
        if reply is None:
            connection.failed(member)
            raise Unreachable(f"etcd at {member.address}: the stream ended")
        if reply.TTL <= 0:
            raise NotFound(f"etcd: lease {lease:x} has ended")
        return int(reply.TTL)
