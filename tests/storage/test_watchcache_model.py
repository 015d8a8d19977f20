"""The cache's state against a plain history of etcd: writes, batches, proofs, compactions and clients in any order."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minik8s.apiserver.storage.watchcache import CacheWatch
from minik8s.apiserver.storage.watchcache_state import CacheState
from nodecore.errors import Expired
from nodecore.etcd.records import Event, KeyValue, Range

KEYS = ["/r/a/1", "/r/a/2", "/r/b/1"]
KINDS = ["put", "delete", "recreate", "passing", "foreign", "elsewhere"]
Items = dict[str, int]


class Etcd:
    """All that ever happened, one key a revision, and what a list at any revision would have shown."""

    def __init__(self) -> None:
        self.revision = 1
        self.now: dict[str, KeyValue] = {}
        self.history: list[Event] = []
        self.states: dict[int, Items] = {1: {}}

    def put(self, key: str, value: bytes | None = None) -> None:
        self.revision += 1
        before = self.now.get(key)
        created = before.create_revision if before else self.revision
        value = value if value is not None else json.dumps({"metadata": {"name": key}, "at": self.revision}).encode()
        self.now[key] = KeyValue(key, value, created, self.revision, 1, 0)
        self._happened(Event("PUT", self.now[key]))

    def delete(self, key: str) -> None:
        if key in self.now:
            self.revision += 1
            del self.now[key]
            self._happened(Event("DELETE", KeyValue(key, b"", 0, self.revision, 0, 0)))

    def _happened(self, event: Event) -> None:
        self.history.append(event)
        self.states[self.revision] = {key: kv.mod_revision for key, kv in self.now.items() if kv.value != b"?"}

    def elsewhere(self) -> None:
        self.states[self.revision + 1] = self.states[self.revision]
        self.revision += 1

    def after(self, revision: int) -> list[Event]:
        return [event for event in self.history if event.kv.mod_revision > revision]


class Client:
    """A snapshot kept up by events; `torn` while the rest of a re-list is still to come."""

    def __init__(self, cache: CacheState) -> None:
        found = cache.snapshot()
        self.items: Items = {entry.key: entry.revision for entry in found.entries}
        self.resume(cache, found.revision)

    def resume(self, cache: CacheState, since: int) -> None:
        self.watch = CacheWatch(cache, cache.window.position(since), since)  # type: ignore[arg-type]

    def read(self, limit: int) -> None:
        for _ in range(limit):
            event = self.watch._take()
            if event is None:
                return
            assert (event.entry.key in self.items) == (event.type != "ADDED"), event.type
            if event.type == "MODIFIED":
                assert event.previous is not None
                assert event.previous.created == event.entry.created, "another object of the same name"
            if event.type == "DELETED":
                del self.items[event.entry.key]
            else:
                self.items[event.entry.key] = event.revision
            assert json.loads(event.line)["object"]["metadata"]["resourceVersion"] == str(event.revision)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.etcd, self.cache = Etcd(), CacheState(limit=4)
        self.cache.fill(Range([], 1))
        self.clients = [Client(self.cache)]
        self.sent = 1  # up to here etcd's watch has delivered

    @rule(steps=st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(KINDS)), min_size=1, max_size=4))
    def write(self, steps: list[tuple[str, str]]) -> None:
        for key, kind in steps:
            match kind:
                case "put":
                    self.etcd.put(key)
                case "delete":
                    self.etcd.delete(key)
                case "recreate":
                    self.etcd.delete(key)
                    self.etcd.put(key)
                case "passing":
                    self.etcd.put(key)
                    self.etcd.delete(key)
                case "foreign":
                    self.etcd.put(key, b"?")
                case "elsewhere":
                    self.etcd.elsewhere()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for event in self.etcd.after(self.sent)[:count]:
            self.sent = event.kv.mod_revision
            self.cache.apply(event)
            self.cache.confirm(self.sent)

    @rule()
    def ask_whether_it_has_caught_up(self) -> None:
        newest = max((kv.mod_revision for kv in self.etcd.now.values()), default=0)
        if self.cache.equals(len(self.etcd.now), newest):
            self.cache.confirm(self.etcd.revision)

    @precondition(lambda self: self.sent < self.etcd.revision)
    @rule(read=st.integers(0, 3))
    def compacted_so_list_anew(self, read: int) -> None:
        self.cache.replace(Range(sorted(self.etcd.now.values(), key=lambda kv: kv.key), self.etcd.revision))
        self.sent = self.etcd.revision
        for index in range(len(self.clients)):
            self.client_reads(index, read)
            self.client_reconnects(index)

    @precondition(lambda self: len(self.clients) < 4)
    @rule()
    def new_client(self) -> None:
        self.clients.append(Client(self.cache))

    @rule(index=st.integers(0, 3), count=st.integers(1, 4))
    def client_reads(self, index: int, count: int) -> None:
        client = self.clients[index % len(self.clients)]
        try:
            client.read(count)
        except Expired:
            self.clients[self.clients.index(client)] = Client(self.cache)

    @rule(index=st.integers(0, 3))
    def client_reconnects(self, index: int) -> None:
        """From the revision a bookmark would have told it."""
        client = self.clients[index % len(self.clients)]
        try:
            client.resume(self.cache, client.watch.revision)
        except Expired:
            self.clients[self.clients.index(client)] = Client(self.cache)

    @invariant()
    def the_cache_is_what_etcd_was_at_its_revision(self) -> None:
        found = self.cache.snapshot()
        assert {entry.key: entry.revision for entry in found.entries} == self.etcd.states[found.revision]
        assert [entry.key for entry in found.entries] == sorted(self.etcd.states[found.revision])
        assert [entry.key for entry in self.cache.snapshot("/r/a/").entries] == [
            key for key in sorted(self.etcd.states[found.revision]) if key.startswith("/r/a/")
        ]

    @invariant()
    def a_client_that_reads_on_ends_with_the_same(self) -> None:
        for client in self.clients:
            ahead: Any = SimpleNamespace(items=dict(client.items), position=client.watch._position, given=client.watch._given)
            try:
                client.read(1000)
            except Expired:
                pass
            else:
                assert client.items == self.etcd.states[self.cache.revision]
                assert client.watch.revision >= self.cache.revision
            client.items, client.watch._position, client.watch._given = ahead.items, ahead.position, ahead.given


TestWatchCache = Machine.TestCase
TestWatchCache.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
