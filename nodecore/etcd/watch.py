"""A watch that goes on for ever: broken streams are opened anew where the last event was.

The point to resume at is the last event's own `mod_revision` + 1. It is never the header's revision + 1: that one
may be ahead of events still on their way. Only a progress notice of etcd's (an answer without events, in order with
them) or the caller, by `confirm`, moves it further, which spares a quiet watch from running into compaction.

Ends only by raising: Expired when the point to resume at was compacted (read everything again), Denied, Invalid.
Must not know: what the keys mean. Read next: `nodecore/etcd/connection.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from nodecore.errors import Denied, Expired, Fault, Invalid, Unreachable
from nodecore.etcd import faults, messages
from nodecore.etcd.connection import API, Connection, Member
from nodecore.etcd.records import WatchBatch, range_end
from nodecore.loop.backoff import Backoff
from nodecore.rpc.errors import RpcError

log = logging.getLogger(__name__)


class Watch:
    """An asynchronous iterator of `WatchBatch`; cancelling a wait loses nothing, `close` gives the stream back."""

    def __init__(self, connection: Connection, prefix: str, revision: int, *, previous: bool) -> None:
        self._connection, self._prefix, self._previous = connection, prefix, previous
        self._next = revision
        self._member: Member | None = None
        self._stream: Any = None
        self._backoff = Backoff(first=0.02, cap=1.0)
        self._token_renewed = False

    @property
    def resume_at(self) -> int:
        """The revision a new stream would start at."""
        return self._next

    def confirm(self, revision: int) -> None:
        """The caller knows that nothing up to `revision` is missing."""
        self._next = max(self._next, revision + 1)

    def close(self) -> None:
        """Give the stream back; iterating again would open a new one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        while True:
            try:
                batch = await self._read()
            except (Expired, Denied, Invalid):
                self.close()
                raise
            except Fault as fault:
                await self._retreat(fault)
            except BaseException:
                self.close()
                raise
            else:
                if batch is not None:
                    return batch

    async def _retreat(self, fault: Fault) -> None:
        self.close()
        if self._member:
            self._connection.failed(self._member)
        failures = self._backoff.failures
        log.log(logging.WARNING if failures in (5, 50) else logging.DEBUG,
                "watch of %s from revision %d: %s; trying again", self._prefix, self._next, fault)
        await asyncio.sleep(self._backoff.next())

    async def _read(self) -> WatchBatch | None:
        """One answer's events, or None when it had none of interest."""
        if self._stream is None:
            await self._open()
        reply = await self._receive()
        if reply.canceled:
            await self._canceled(reply)
            return None
        revision = reply.header.revision
        if not reply.events:
            if not self._next or revision < self._next:
                return None
            self._next = revision + 1
            return WatchBatch([], revision)
        events = [messages.event(each) for each in reply.events]
        last = events[-1].kv.mod_revision
        self.confirm(last)
        return WatchBatch(events, last)

    async def _open(self) -> None:
        connection = self._connection
        await connection.login()
        self._member = connection.member()
        self._stream = self._member.stubs["Watch"].Watch(metadata=connection.metadata())
        request = API.WatchCreateRequest(
            key=self._prefix.encode() or b"\0", range_end=range_end(self._prefix), start_revision=self._next,
            progress_notify=True, prev_kv=self._previous,
        )
        try:
            async with asyncio.timeout(connection.timeout):
                await self._send(API.WatchRequest(create_request=request))
                reply = await self._receive()
        except TimeoutError:
            raise Unreachable(f"etcd at {self._member.address}: no answer within {connection.timeout:g} s") from None
        if reply.canceled:
            await self._canceled(reply)
            return await self._open()
        self._backoff.reset()
        self._token_renewed = False
        if not self._next:
            self._next = reply.header.revision + 1

    async def _canceled(self, reply: Any) -> None:
        """Raise what a cancellation means; return when logging in again made it worth another try."""
        assert self._member is not None
        self.close()
        if reply.compact_revision:
            raise Expired(f"etcd: revision {self._next} has been compacted, the oldest left is {reply.compact_revision}")
        fault = faults.translate("CANCELLED", reply.cancel_reason, self._member.address)
        token = self._connection.token
        if not isinstance(fault, Denied) or not token or self._token_renewed:
            raise fault
        self._token_renewed = True  # etcd 3.4 calls an old token "permission denied" here
        await self._connection.login(stale=token)

    async def _send(self, request: Any) -> None:
        try:
            await self._stream.write(request)
        except RpcError as error:
            raise self._fault(error) from None

    async def _receive(self) -> Any:
        try:
            reply = await self._stream.read()
        except RpcError as error:
            raise self._fault(error) from None
        if reply is None:
            raise Unreachable("etcd: the watch's stream ended")
        return reply

    def _fault(self, error: RpcError) -> Fault:
        return faults.translate(error.code, error.details, self._member.address if self._member else "?")
