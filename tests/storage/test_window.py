"""The window of events at rest: what nobody looked at for a while is kept small, then forgotten."""

from __future__ import annotations

import json

import pytest

from minik8s.apiserver.storage.watchcache_window import AGES, KEPT, CacheEvent, Entry, Window
from nodecore.errors import Expired


def filled(count: int, window: Window | None = None, first: int = 1) -> Window:
    window = window or Window(2000)
    for revision in range(first, first + count):
        data = json.dumps({"metadata": {"name": "a", "resourceVersion": str(revision)}}).encode()
        window.append(CacheEvent("MODIFIED", Entry("/a", data, revision, 1), None, revision))
    return window


def events(window: Window, since: int) -> list[CacheEvent]:
    at, found = window.position(since), []
    while event := window.at(at + len(found)):
        found.append(event)
    return found


def test_decoded_objects_are_dropped_when_nothing_happened_for_a_while() -> None:
    window = filled(3)
    held = [event.entry.object for event in events(window, 0)]
    assert all(event.entry.object is obj for event, obj in zip(events(window, 0), held, strict=True))
    window.tick()
    assert events(window, 0)[0].entry.object is held[0]
    filled(1, window, 4)
    new = events(window, 3)[0].entry.object
    window.tick()
    found = events(window, 0)
    assert found[3].entry.object is new
    assert found[0].entry.object is not held[0]
    assert found[0].entry.object == held[0]
    assert b'"resourceVersion": "1"' in found[0].line


def test_old_events_are_forgotten_but_for_the_last() -> None:
    window = filled(KEPT + 50)
    position = window.position(KEPT + 50)
    for _ in range(AGES):
        window.tick()
        assert len(events(window, 0)) == KEPT + 50
    window.tick()
    with pytest.raises(Expired):
        window.position(49)
    assert [event.revision for event in events(window, 50)] == list(range(51, KEPT + 51))
    assert window.at(position) is None
    filled(1, window, 1000)
    found = window.at(position)
    assert found is not None
    assert found.revision == 1000


def test_a_few_events_are_never_too_old() -> None:
    window = filled(5)
    for _ in range(3 * AGES):
        window.tick()
    assert len(events(window, 0)) == 5
