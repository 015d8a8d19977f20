"""Asking until everybody who may answer has: by a row of the table, or one moving Service both ways; and connections that
must go on.

Read next: `tests/proxy/test_transitions.py`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from conformance_rows import PROTOCOLS, Row
from proxy_net import NODE, World, eventually, of

from nodecore.net import Family

VIP, NODE_PORT = "10.96.0.50", 30066
WAYS = (("pod-a", VIP, 80), ("outside", NODE, NODE_PORT))
PATIENCE = 20.0
NOBODY = {"nobody"}
ANSWERED, QUIET = 3.0, 0.5  # seconds: who does not answer so soon is not there


def ask_until_all(net: World, row: Row, family: Family, protocol: str) -> None:
    """Everyone who may answer does, nobody else, and each sees the caller it should."""
    expected = {who: [of(family, address) for address in seen.split(" ")] for who, seen in row.answers.items()}
    answered: set[str] = set()
    asked = 0
    while asked < 4 or answered < expected.keys():
        who, source = net.ask(row.caller, of(family, row.address), row.port, protocol,
                              QUIET if "timeout" in expected else ANSWERED)
        assert who in expected, f"{who}, {source}"
        assert source in expected[who], who
        answered.add(who)
        if expected.keys() <= {"refused", "timeout"}:
            return
        asked += 1
        assert asked < 60, f"only {answered}"


def answers(net: World, family: Family, way: tuple[str, str, int], protocol: str, enough: set[str]) -> set[str]:
    """Who answers, asked until those have, and a few times more; `nobody` if that is how it should be, however one is told."""
    caller, address, port = way
    found: set[str] = set()
    for turn in range(40):
        who = net.ask(caller, of(family, address), port, protocol, QUIET if enough == NOBODY else ANSWERED)[0]
        found.add("nobody" if enough == NOBODY and who in ("refused", "timeout") else who)
        if turn > 5 and found >= enough:
            break
        if enough in (NOBODY, {"refused"}):
            break
    return found


def await_state(net: World, family: Family, inside: set[str], outside: set[str]) -> None:
    for protocol in PROTOCOLS:
        for way, expected in zip(WAYS, (inside, outside), strict=True):
            eventually(lambda way=way, protocol=protocol, expected=expected:
                       answers(net, family, way, protocol, expected) == expected, PATIENCE, f"{protocol} {way}: {expected}")


@contextlib.contextmanager
def lines(net: World, family: Family) -> Iterator[None]:
    """A connection each way that must go on until the end."""
    made = [net.connect(caller, of(family, address), port, 10) for caller, address, port in WAYS]
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
