"""One channel (`nodecore/rpc`) to one etcd member at a time: failover, deadlines, retries, login.

    unary(service, method, request)   one call within `timeout` seconds in all; when a member does not answer, the
                                      next is asked. Reads are repeated; a write only if it surely was not sent.
    member(), failed(member), login() for streams, which choose their own way to go on

Every call carries `hasleader`, so that a member cut off from the others says so instead of answering from the past.
Must not know: what the calls mean. Read next: `nodecore/etcd/watch.py`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nodecore import wire
from nodecore.errors import Fault
from nodecore.etcd import faults
from nodecore.etcd.config import EtcdConfig, Target
from nodecore.loop.backoff import Backoff
from nodecore.rpc.channel import Channel
from nodecore.rpc.errors import RpcError

API = wire.load(Path(__file__).with_name("rpc.proto"))
READS = frozenset({"Range", "LeaseTimeToLive", "Status", "Authenticate"})


class Member:
    """One endpoint: its channel and the stubs of etcd's services on it."""

    def __init__(self, target: Target, config: EtcdConfig) -> None:
        self.address = target.address
        self.channel = Channel(target.address, partial(_context, config) if target.tls else None)
        self.stubs: dict[str, SimpleNamespace] = {name: API.stub(self.channel, name) for name in API.services}


class Connection:
    """The members of one cluster, of which one is current."""

    def __init__(self, config: EtcdConfig, *, timeout: float = 5.0) -> None:
        self.config, self.timeout = config, timeout
        self._targets = config.targets()
        config.check_files()
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
            found = self._members[self._current] = Member(self._targets[self._current], self.config)
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
            except RpcError as error:
                code, details = error.code, error.details
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


def _context(config: EtcdConfig) -> ssl.SSLContext:
    """Our side of TLS; made of the files as they are when a connection is made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if config.ca:
        context.load_verify_locations(config.ca)
    else:
        context.load_default_certs()
    if config.cert:
        context.load_cert_chain(config.cert, config.key)
    return context
