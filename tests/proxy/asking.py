"""Asking until everybody who may answer has: by a row of the table, or one moving Service both ways; and connections that
must go on.

Read next: `tests/proxy/test_transitions.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from conformance_rows import PROTOCOLS, Row
from proxy_net import NODE, World, eventually, of

from nodecore.net import Family

VIP, NODE_PORT = "10.96.0.50", 30066
WAYS = (("pod-a", VIP, 80), ("outside", NODE, NODE_PORT))
PATIENCE = float(os.environ.get("PATIENCE_SECONDS", "20"))  # a virtual machine in software needs more
NOBODY = frozenset({"nobody"})
SURE, ANSWERED, QUIET = 15.0, PATIENCE / 20, 0.5  # seconds to wait: for a sure answer, for one that may be lost, for none


def ask_until_all(net: World, row: Row, family: Family, protocol: str) -> None:
    """Everyone who may answer does, nobody else, and each sees the caller it should."""
    expected = {who: [of(family, address) for address in seen.split(" ")] for who, seen in row.answers.items()}
    answered: set[str] = set()
    asked = 0
    while asked < 4 or answered < expected.keys():
        who, source = net.ask(row.caller, of(family, row.address), row.port, protocol,
                              QUIET if "timeout" in expected else SURE)
        assert who in expected, f"{who}, {source}"
        assert source in expected[who], who
        answered.add(who)
        if expected.keys() <= {"refused", "timeout"}:
            return
        asked += 1
        assert asked < 60, f"only {answered}"


def gone(mode: str) -> set[str]:
    """How one is told that a Service's address is nobody's any more while a connection to it goes on.

    Without rules the packet is routed on, to where nobody answers. IPVS keeps the address until the connection has ended: it is
    the node's own, and no port of it is open.
    """
    return {"refused"} if mode == "ipvs" else {"timeout"}


def answers(net: World, family: Family, way: tuple[str, str, int], protocol: str, enough: set[str]) -> set[str]:
    """Who answers, asked until those have, and a few times more; or how one is told that nobody does."""
    caller, address, port = way
    found: set[str] = set()
    for turn in range(40):
        found.add(net.ask(caller, of(family, address), port, protocol, QUIET if enough == {"timeout"} else ANSWERED)[0])
        if turn > 5 and found >= enough:
            break
        if enough in ({"timeout"}, {"refused"}):
            break
    return found


def await_state(net: World, family: Family, inside: set[str], outside: set[str]) -> None:
    """By all protocols and both ways at once: that nobody answers takes a while to tell."""
    def reached(question: tuple[str, tuple[tuple[str, str, int], set[str]]]) -> None:
        protocol, (way, expected) = question
        eventually(lambda: answers(net, family, way, protocol, expected) == expected, PATIENCE, f"{protocol} {way}: {expected}")

    questions = list(itertools.product(PROTOCOLS, zip(WAYS, (inside, outside), strict=True)))
    with ThreadPoolExecutor(len(questions)) as pool:
        list(pool.map(reached, questions))


@contextlib.contextmanager
def lines(net: World, family: Family) -> Iterator[None]:
    """A connection each way that must go on until the end."""
    made = [net.connect(caller, of(family, address), port, 60) for caller, address, port in WAYS]
    try:
        for line in made:
            assert line.recv(100)
        yield
        for line in made:
            assert lives(line)
    finally:
        for line in made:
            line.close()


def lives(line: socket.socket) -> bool:
    line.sendall(b"ping")
    return line.recv(100) == b"ping"
