"""One gRPC channel to one etcd member at a time: failover, deadlines, retries, login.

    unary(service, method, request)   one call within `timeout` seconds in all; when a member does not answer, the
                                      next is asked. Reads are repeated; a write only if it surely was not sent.
    member(), failed(member), login() for streams, which choose their own way to go on

Every call carries `hasleader`, so that a member cut off from the others says so instead of answering from the past.
Must not know: what the calls mean. Read next: `nodecore/etcd/watch.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nodecore import wire
from nodecore.errors import Fault
from nodecore.etcd import faults
from nodecore.etcd.config import EtcdConfig, Target
from nodecore.loop.backoff import Backoff

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core logs to stderr what we report ourselves
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio

API = wire.load(Path(__file__).with_name("rpc.proto"))
READS = frozenset({"Range", "LeaseTimeToLive", "Status", "Authenticate"})
OPTIONS = (
    ("grpc.keepalive_time_ms", 6000),  # etcd closes connections that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),  # without it a hung member is noticed after a minute
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),  # in truth the time a connect attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


class Member:
    """One endpoint: its channel and the stubs of etcd's services on it."""

    def __init__(self, target: Target, credentials: Any) -> None:
        self.address = target.address
        self.channel = (
            grpc.aio.secure_channel(target.address, credentials, options=OPTIONS)
            if target.tls
            else grpc.aio.insecure_channel(target.address, options=OPTIONS)
        )
        self.stubs: dict[str, SimpleNamespace] = {name: API.stub(self.channel, name) for name in API.services}


class Connection:
    """The members of one cluster, of which one is current."""

    def __init__(self, config: EtcdConfig, *, timeout: float = 5.0) -> None:
        self.config, self.timeout = config, timeout
        self._targets = config.targets()
        self._pem = config.pem()
        self._members: dict[int, Member] = {}
        self._current = 0
        self._token = ""
        self._login = asyncio.Lock()
        self.observe: Callable[[str, float], None] | None = None  # is told each answered call's name and seconds

    async def close(self) -> None:
        """Close every channel; calls under way end with an error."""
        members, self._members = list(self._members.values()), {}
        for member in members:
            await member.channel.close()

    def member(self) -> Member:
        """The member to talk to now."""
        found = self._members.get(self._current)
        if found is None:
            target = self._targets[self._current]
            pem = self._pem
            credentials = grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert) if target.tls else None
            found = self._members[self._current] = Member(target, credentials)
        return found

    def failed(self, member: Member) -> None:
        """That member did not answer: try the next one from now on."""
        if self._members.get(self._current) is member:
            self._current = (self._current + 1) % len(self._targets)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        leader = ("hasleader", "true")
        return (leader, ("token", self._token)) if self._token else (leader,)

    async def login(self, *, stale: str | None = None) -> None:
        """Get a token if there is a user; anew if `stale` is the one in use."""
        if not self.config.username or (self._token and self._token != stale):
            return
        async with self._login:
            if self._token and self._token != stale:
                return
            request = API.AuthenticateRequest(name=self.config.username, password=self.config.password)
            self._token = ""
            self._token = (await self.unary("Auth", "Authenticate", request, login=False)).token

    @property
    def token(self) -> str:
        """The token in use, to say later that it is stale."""
        return self._token

    async def unary(self, service: str, method: str, request: Any, *, read: bool | None = None, login: bool = True) -> Any:
        """Call once, or again as far as that is safe, until `timeout` seconds are over."""
        deadline = time.monotonic() + self.timeout
        repeatable = method in READS if read is None else read
        backoff = Backoff(first=0.02, cap=0.5)
        renewed = False
        while True:
            if login:
                await self.login()
            member, token = self.member(), self._token
            left = deadline - time.monotonic()
            attempt = max(1.0, self.timeout / len(self._targets)) if repeatable else left
            try:
                call = getattr(member.stubs[service], method)
                reply = await call(request, timeout=max(0.01, min(left, attempt)), metadata=self.metadata())
                if self.observe:
                    self.observe(method, self.timeout - deadline + time.monotonic())
                return reply
            except grpc.aio.AioRpcError as error:
                code, details = error.code().name, error.details() or ""
            if login and token and not renewed and faults.token_is_stale(details):
                renewed = True
                await self.login(stale=token)
                continue
            fault = faults.translate(code, details, member.address)
            self._give_up_unless(fault, repeatable=repeatable or faults.never_sent(code, details), member=member)
            pause = backoff.next()
            if time.monotonic() + pause >= deadline:
                raise fault
            await asyncio.sleep(pause)

    def _give_up_unless(self, fault: Fault, *, repeatable: bool, member: Member) -> None:
        if not faults.is_passing(fault):
            raise fault
        self.failed(member)
        if not repeatable:
            raise fault
