"""What a node's agent is asked and what it answers: one JSON object a line, in this order.

    Start -> Ready      listen for the flow's packets and rules
    Clock -> Time       what this node's clock says
    Probe -> Outcome    send one from here (of one node only)
    Look -> Report      what was seen since the last look
    Finish -> Report    the same, and how this node would send packets to some addresses, or sent them; listen no more
    WaysTo -> Ways      how this node would send packets to some addresses
    Examine -> Facts    what the network of this node looks like (at any time)
    Watch -> Flows      the connections there are, and what became of others since the last time
    Reach -> Reached    who of some addresses answers an ICMP echo
    Mend -> Mended      run one command that changes something; only of the safe ones

Pure. Read next: `agent.py`, which answers; `story.py`, which makes sense of it.
"""

from __future__ import annotations

import msgspec

from netscope.facts import Facts
from netscope.flow import Flow
from netscope.headers import Headers


class Start(msgspec.Struct, tag=True, frozen=True):
    """Listen; where it is told who begins, not at the doors of other pods."""

    flow: Flow
    source: str = ""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Listening."""


class Clock(msgspec.Struct, tag=True, frozen=True):
    """Tell the time."""


class Time(msgspec.Struct, tag=True, frozen=True):
    """By this node's clock: ns since 1970."""

    now: int


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
    """Tell what was seen, and the ways to these addresses; `met`: and to those that packets left for."""

    addresses: tuple[str, ...] = ()
    met: bool = False


class Seen(msgspec.Struct, frozen=True):
    """A packet at an interface, addressed to it or (`foreign`) to another MAC; time in ns since 1970 by this node's clock."""

    interface: str
    leaving: bool
    foreign: bool
    time: int
    headers: Headers


class Hit(msgspec.Struct, frozen=True):
    """A rule or policy that a packet met; `headers` are the packet's as the chain's table first saw it, `element` that
    of the map it looks into, if it does.
    """

    packet: int
    family: str
    table: str
    chain: str
    handle: int
    rule: str
    verdict: str
    interface: str
    headers: Headers | None
    element: str = ""


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


class Connection(msgspec.Struct, frozen=True):
    """One, in connection tracking's eyes: asked and answered as (source, port, target, port); counters where it counts."""

    identity: int
    protocol: int
    asked: tuple[str, int, str, int]
    answered: tuple[str, int, str, int]
    state: str
    replied: bool
    packets: tuple[int, int] | None = None
    octets: tuple[int, int] | None = None

    def is_of(self, ends: tuple[str, int, str, int]) -> bool:
        """Whether a packet between these ends is one of it, translated or not, there or back."""
        return bool({ends, (*ends[2:], *ends[:2])} & {self.asked, self.answered})


class Report(msgspec.Struct, tag=True, frozen=True):
    """All that one node knows; `lost` packets were seen by nobody for want of room.

    `remarks` say what could not be looked at, `switches` are the kernel's (sysctls) that decide what becomes of packets,
    `tracked` the entries of connection tracking that they belong to.
    """

    seen: tuple[Seen, ...]
    hits: tuple[Hit, ...]
    ways: tuple[Way, ...]
    lost: int = 0
    remarks: tuple[str, ...] = ()
    switches: dict[str, str] = {}
    tracked: tuple[Connection, ...] = ()


class WaysTo(msgspec.Struct, tag=True, frozen=True):
    """Say how you would send to these addresses."""

    addresses: tuple[str, ...]


class Ways(msgspec.Struct, tag=True, frozen=True):
    """How; the switches that decide what becomes of packets; and the connections that those seen so far belong to."""

    ways: tuple[Way, ...]
    switches: dict[str, str]
    tracked: tuple[Connection, ...] = ()


class Failed(msgspec.Struct, tag=True, frozen=True):
    """It cannot be done on this node, and why."""

    why: str


class Examine(msgspec.Struct, tag=True, frozen=True):
    """Say what is there, with or without `rules`; of the pod that has the address `inside`, if one is named."""

    rules: bool = True
    inside: str = ""


class Watch(msgspec.Struct, tag=True, frozen=True):
    """Tell the connections."""


class Sent(msgspec.Struct, frozen=True):
    """What TCP of a namespace of this node did so far: segments sent, sent again, and resets sent; whose by its addresses."""

    addresses: tuple[str, ...]
    segments: int
    again: int
    resets: int


class Flows(msgspec.Struct, tag=True, frozen=True):
    """All there are; those that ended since the last `Watch`; how often news was lost; TCP's counters."""

    now: tuple[Connection, ...]
    ended: tuple[Connection, ...] = ()
    lost: int = 0
    sent: tuple[Sent, ...] = ()


class Reach(msgspec.Struct, tag=True, frozen=True):
    """Ask these addresses for an echo: with so many bytes behind the header, which nobody may take apart on the way."""

    addresses: tuple[str, ...]
    seconds: float = 2.0
    size: int = 0


class Reached(msgspec.Struct, tag=True, frozen=True):
    """Milliseconds of those that answered."""

    milliseconds: dict[str, float]


class Mend(msgspec.Struct, tag=True, frozen=True):
    """Run this."""

    command: list[str]


class Mended(msgspec.Struct, tag=True, frozen=True):
    """Empty where it worked, else what the command said."""

    trouble: str = ""


Question = Start | Clock | Probe | Look | WaysTo | Finish | Examine | Watch | Reach | Mend
Answer = Ready | Time | Outcome | Report | Facts | Flows | Reached | Mended | Failed | Ways
