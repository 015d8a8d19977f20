"""Each form of resourceVersion in lists and watches: how new, from where, how refused; bookmarks; slow watchers."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from nodecore.etcd.client import EtcdClient, EtcdConfig
from tests.apiserver.apiprocess import Answer, ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

pytestmark = pytest.mark.etcd
FUTURE = 10**12


@pytest.fixture(scope="module")
def space(api: ApiServer) -> str:
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "watchforms"}})
    return "/api/v1/namespaces/watchforms/limitranges"


@pytest.fixture
def things(api: ApiServer, space: str) -> list[int]:
    """Three objects, and the revision of each."""
    api.call("DELETE", space)
    return [make(api, space, name) for name in ("a", "b", "c")]


def make(api: ApiServer, space: str, name: str) -> int:
    return version(api.call("POST", space, {"metadata": {"name": name, "annotations": {"n": "0"}}, "spec": {"limits": []}}).body)


def change(api: ApiServer, space: str, name: str, n: int, **more: str) -> int:
    patch = {"metadata": {"annotations": {"n": str(n), **more}}}
    answer = api.call("PATCH", f"{space}/{name}", patch, content="application/merge-patch+json")
    assert answer.code == 200, answer.body
    return version(answer.body)


def version(obj: Any) -> int:
    return int(obj["metadata"]["resourceVersion"])


def listed(api: ApiServer, space: str, **query: object) -> Any:
    found = api.call("GET", f"{space}?{urlencode(query)}")
    return found.body if found.code != 200 else ([item["metadata"]["name"] for item in found.body["items"]], version(found.body))


@contextmanager
def watching(api: ApiServer, space: str, **query: object) -> Iterator[Iterator[Any]]:
    connection = api.connection(seconds=60)
    connection.request("GET", f"{space}?watch=1&{urlencode(query)}", headers={"Accept": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    yield (json.loads(line) for line in reply)
    connection.close()


def brief(event: Any) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")


def test_lists_of_every_age(api: ApiServer, space: str, things: list[int]) -> None:
    names, now = listed(api, space)
    assert (names, now >= things[2]) == (["a", "b", "c"], True)
    assert listed(api, space, resourceVersion=0)[0] == names
    assert listed(api, space, resourceVersion=0, resourceVersionMatch="NotOlderThan")[0] == names
    for extra in ({}, {"resourceVersionMatch": "NotOlderThan"}, {"resourceVersionMatch": "NotOlderThan", "limit": 9}):
        got, at = listed(api, space, resourceVersion=things[0], **extra)
        assert (got, at >= now) == (names, True)
    for extra in ({"resourceVersionMatch": "Exact"}, {"limit": 9}, {"resourceVersionMatch": "Exact", "limit": 9}):
        assert listed(api, space, resourceVersion=things[1], **extra) == (["a", "b"], things[1])


def test_a_list_after_a_write_shows_it(api: ApiServer, space: str, things: list[int]) -> None:
    for n in range(1, 30):
        at = change(api, space, "a", n)
        found = api.call("GET", space).body
        assert (found["items"][0]["metadata"]["annotations"]["n"], version(found) >= at) == (str(n), True)
        one = api.call("GET", f"{space}/a").body
        assert (one["metadata"]["annotations"]["n"], version(one)) == (str(n), at)


COMING = ("", "resourceVersionMatch=NotOlderThan", "resourceVersionMatch=Exact", "limit=5",
          "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")


@pytest.fixture(scope="module")
def refused(api: ApiServer, space: str) -> dict[str, Answer]:
    """What is said of a revision still to come, to each question: the server waits for it for seconds, for all together."""
    def ask(query: str) -> Answer:
        return api.call("GET", f"{space}?resourceVersion={FUTURE}&{query}")

    with ThreadPoolExecutor(len(COMING)) as pool:
        return dict(zip(COMING, pool.map(ask, COMING), strict=True))


@pytest.mark.parametrize("query", COMING)
@pytest.mark.slow
def test_a_revision_still_to_come(refused: dict[str, Answer], query: str) -> None:
    answer = refused[query]
    assert (answer.code, answer.body["reason"]) == (504, "Timeout")
    assert answer.body["message"].startswith(f"Timeout: Too large resource version: {FUTURE}, current: ")
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


@pytest.mark.parametrize(("query", "why"), [
    ("resourceVersionMatch=Exact", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless"),
    ("resourceVersionMatch=Exact&resourceVersion=0", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
    ("resourceVersionMatch=Best&resourceVersion=1", 'Unsupported value: "Best": supported values: "Exact", "NotOlderThan", ""'),
    ("resourceVersionMatch=Exact&resourceVersion=1&continue=x", "resourceVersionMatch is forbidden when continue is provided"),
    ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
    ("watch=1&resourceVersionMatch=NotOlderThan", "resourceVersionMatch is forbidden for watch unless sendInitialEvents"),
    ("watch=1&sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
    ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", 'supported values: "NotOlderThan"'),
])
def test_what_makes_no_sense_is_invalid(api: ApiServer, space: str, query: str, why: str) -> None:
    refused = api.call("GET", f"{space}?{query}")
    assert (refused.code, refused.body["reason"], refused.body["details"]["kind"]) == (422, "Invalid", "ListOptions")
    assert why in refused.body["message"]


@pytest.mark.parametrize("query", ["continue=x", "continue=W10=", "resourceVersion=x", "resourceVersion=-1", "limit=x",
                                   "limit=-1", "watch=1&resourceVersion=x", "watch=1&timeoutSeconds=x"])
def test_what_cannot_be_read_is_a_bad_request(api: ApiServer, space: str, query: str) -> None:
    assert api.call("GET", f"{space}?{query}").code == 400


def test_pages_stay_at_the_first_ones_revision(api: ApiServer, api_etcd: EtcdServer, space: str, things: list[int]) -> None:
    first = api.call("GET", f"{space}?limit=1").body
    token = first["metadata"]["continue"]
    assert first["metadata"]["remainingItemCount"] == 2
    refused = api.call("GET", f"{space}?limit=1&continue={token}&resourceVersion=7")
    assert (refused.code, refused.body["message"]) == (400, "specifying resource version is not allowed when using continue")
    api.call("DELETE", f"{space}/b")
    make(api, space, "bb")
    second = api.call("GET", f"{space}?limit=1&continue={token}").body
    assert ([item["metadata"]["name"] for item in second["items"]], version(second)) == (["b"], version(first))
    compact(api_etcd)
    gone = api.call("GET", f"{space}?continue={second['metadata']['continue']}&limit=1")
    assert (gone.code, gone.body["reason"]) == (410, "Expired")
    assert gone.body["message"].startswith("The provided continue parameter is too old to display a consistent list result.")
    rest = api.call("GET", f"{space}?continue={gone.body['metadata']['continue']}").body
    assert [item["metadata"]["name"] for item in rest["items"]] == ["bb", "c"]  # what is there now, made meanwhile or not
    assert version(rest) > version(first)
    exact = api.call("GET", f"{space}?resourceVersion={things[0]}&resourceVersionMatch=Exact")
    assert (exact.code, exact.body["message"]) == (410, "The resourceVersion for the provided list is too old.")


def compact(etcd: EtcdServer) -> None:
    async def now() -> None:
        async with EtcdClient(EtcdConfig(etcd.endpoints)) as client:
            await client.compact(await client.revision())

    asyncio.run(now())


@pytest.mark.parametrize("query", [{}, {"resourceVersion": 0}])
def test_a_watch_from_nowhere_begins_with_what_there_is(api: ApiServer, space: str, things: list[int], query: Any) -> None:
    with watching(api, space, **query) as events:
        assert [brief(next(events)) for _ in range(3)] == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
        at = change(api, space, "b", 1)
        event = next(events)
        assert (brief(event), version(event["object"])) == (("MODIFIED", "b"), at)


def test_a_watch_from_a_revision_shows_each_change_after_it(api: ApiServer, space: str, things: list[int]) -> None:
    wanted = [change(api, space, "a", n) for n in range(1, 20)]
    api.call("DELETE", f"{space}/a")
    with watching(api, space, resourceVersion=things[1]) as events:
        seen = [next(events) for _ in range(21)]
        assert [brief(event) for event in seen] == [("ADDED", "c"), *[("MODIFIED", "a")] * 19, ("DELETED", "a")]
        assert [version(event["object"]) for event in seen[1:-1]] == wanted
        assert version(seen[-1]["object"]) > wanted[-1]


def test_a_watch_from_the_future_waits_for_it(api: ApiServer, space: str, things: list[int]) -> None:
    with watching(api, space, resourceVersion=version(api.call("GET", space).body) + 1) as events:
        change(api, space, "a", 1)
        at = change(api, space, "a", 2)
        assert version(next(events)["object"]) == at


@pytest.mark.slow
def test_initial_events_end_with_a_bookmark(api: ApiServer, space: str, things: list[int]) -> None:
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    for more in ({}, {"resourceVersion": 0}, {"resourceVersion": things[0]}):
        with watching(api, space, **query, **more) as events:
            assert [brief(next(events)) for _ in range(3)] == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
            mark = next(events)
            assert (mark["type"], mark["object"]["kind"]) == ("BOOKMARK", "LimitRange")
            assert version(mark["object"]) >= things[2]
            assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            at = change(api, space, "c", things[0])
            assert version(next(events)["object"]) == at
            things[0] += 1


def test_no_initial_events_when_none_are_wanted(api: ApiServer, space: str, things: list[int]) -> None:
    with watching(api, space, sendInitialEvents="false", resourceVersionMatch="NotOlderThan") as events:
        at = change(api, space, "a", 1)
        assert version(next(events)["object"]) == at


def test_a_watch_ends_in_time_with_a_bookmark_if_wanted(api: ApiServer, space: str, things: list[int]) -> None:
    """The bookmark is that of the end; a machine that does not come to changing something before it has longer."""
    for seconds in (1, 15):
        began = time.monotonic()
        with watching(api, space, resourceVersion=things[2], timeoutSeconds=seconds) as plain, \
                watching(api, space, resourceVersion=things[2], timeoutSeconds=seconds, allowWatchBookmarks="true") as marked:
            at = version(api.call("POST", "/api/v1/namespaces/watchforms/configmaps", {"metadata": {"generateName": "x"}}).body)
            changed = time.monotonic() - began
            assert list(plain) == []
            (mark,) = marked
        assert 0.9 * seconds < time.monotonic() - began < 60
        assert mark["type"] == "BOOKMARK"
        if version(mark["object"]) >= at:
            return
        assert changed > 0.9 * seconds
    raise AssertionError("an old bookmark")


@pytest.mark.slow
def test_what_is_forgotten_is_gone(api_etcd: EtcdServer, api: ApiServer, space: str, things: list[int]) -> None:
    """More happened since than the window holds: 410 inside the stream, and a new list brings the client back."""
    for n in range(2600):
        change(api, space, "a", n, fill="x" * 2000)
    with watching(api, space, resourceVersion=things[2]) as events:
        event = next(events)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert event["object"]["message"].startswith(f"too old resource version: {things[2]} (")
        assert list(events) == []


IMPATIENT = """
from minik8s.apiserver import connections
from minik8s.apiserver.verbs import watching
watching.BOOKMARK_PERIOD, watching.STUCK_SECONDS, connections.STUCK_SECONDS = 4.0, 2.0, 2.0
from minik8s.__main__ import main
main()
"""


@pytest.fixture
def impatient(api_etcd: EtcdServer, space: str) -> Iterator[ApiServer]:
    """One more server, whose clients have seconds instead of minutes; it knows the past from its first list on."""
    server = ApiServer.start(api_etcd, program=("-c", IMPATIENT))
    server.call("GET", space)
    yield server
    server.close()


@pytest.mark.slow
def test_who_reads_nothing_is_dropped_and_others_are_not(impatient: ApiServer, space: str, things: list[int]) -> None:
    raw = socket.create_connection(("127.0.0.1", impatient.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck = impatient.context().wrap_socket(raw, server_hostname="127.0.0.1")
    stuck.sendall(f"GET {space}?watch=1&resourceVersion={things[2]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    before = impatient.resident()
    with watching(impatient, space, resourceVersion=things[2]) as events:
        for n in range(800):
            change(impatient, space, "a", n, fill="x" * 10000)
            assert version(next(events)["object"]) > 0
    until(lambda: ended(impatient), seconds=100, what="the stuck watch to be dropped")
    assert impatient.resident() - before < 30e6
    stuck.close()


def ended(api: ApiServer) -> bool:
    return 'apiserver_longrunning_requests{verb="WATCH"} 0' in str(api.call("GET", "/metrics").body)
