"""What a node's agent is asked and what it answers: one JSON object a line, in this order.

    Start -> Ready      listen for the flow's packets and rules
    Probe -> Outcome    send one from here (of one node only)
    Look -> Report      what was seen since the last look
    Finish -> Report    the same, and how this node would send packets to some addresses; listen no more
    WaysTo -> Ways      how this node would send packets to some addresses
    Examine -> Facts    what the network of this node looks like (at any time)

Values only. Read next: `agent.py`, which answers; `story.py`, which makes sense of it.
"""

from __future__ import annotations

import msgspec

from netscope.facts import Facts
from netscope.flow import Flow
from netscope.headers import Headers


class Start(msgspec.Struct, tag=True, frozen=True):
    """Listen."""

    flow: Flow


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Listening."""


class Probe(msgspec.Struct, tag=True, frozen=True):
    """Send one packet and wait for the answer that long."""

    source: str
    target: str
    port: int
    protocol: int
    mark: int
    seconds: float


class Outcome(msgspec.Struct, tag=True, frozen=True):
    """`answered`, `refused`, `silent`, or `unreachable` and `unsent` with the kernel's words; how long it took."""

    what: str
    detail: str = ""
    milliseconds: float = 0.0


class Look(msgspec.Struct, tag=True, frozen=True):
    """Tell what was seen so far."""


class Finish(msgspec.Struct, tag=True, frozen=True):
    """Tell what was seen, and the ways to these addresses."""

    addresses: tuple[str, ...]


class Seen(msgspec.Struct, frozen=True):
    """A packet at an interface, addressed to it or (`foreign`) to another MAC; time in ns since 1970 by this node's clock."""

    interface: str
    leaving: bool
    foreign: bool
    time: int
    headers: Headers


class Hit(msgspec.Struct, frozen=True):
    """A rule or policy that a packet met; `headers` are the packet's as the chain's table first saw it."""

    packet: int
    family: str
    table: str
    chain: str
    handle: int
    rule: str
    verdict: str
    interface: str
    headers: Headers | None


class Way(msgspec.Struct, frozen=True):
    """How this node would send to an address: link, gateway, the gateway's MAC, and behind which host that is (VXLAN).

    `trouble` says why it would not, `mend` is the command against that, where the node itself knows one.
    """

    address: str
    link: str = ""
    gateway: str = ""
    mac: str = ""
    host: str = ""
    trouble: str = ""
    mend: str = ""


class Report(msgspec.Struct, tag=True, frozen=True):
    """All that one node knows; `lost` packets were seen by nobody for want of room.

    `remarks` say what could not be looked at, `switches` are the kernel's (sysctls) that decide what becomes of packets.
    """

    seen: tuple[Seen, ...]
    hits: tuple[Hit, ...]
    ways: tuple[Way, ...]
    lost: int = 0
    remarks: tuple[str, ...] = ()
    switches: dict[str, str] = {}


class WaysTo(msgspec.Struct, tag=True, frozen=True):
    """Say how you would send to these addresses."""

    addresses: tuple[str, ...]


class Ways(msgspec.Struct, tag=True, frozen=True):
    """How; and the switches that decide what becomes of packets."""

    ways: tuple[Way, ...]
    switches: dict[str, str]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """It cannot be done on this node, and why."""

    why: str


class Examine(msgspec.Struct, tag=True, frozen=True):
    """Say what is there."""


Question = Start | Probe | Look | WaysTo | Finish | Examine
Answer = Ready | Outcome | Report | Ways | Facts | Failed
