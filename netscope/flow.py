"""What is traced: one flow, named by the port its probe leaves from and by where it may come to after translation.

ICMP has no ports: an echo's identifier and its number are the mark. Real traffic is marked by nobody (`mark` 0): then all that
goes to or comes from one of the ends is of the flow.

    Flow(protocol=6, mark=40123, ends=(End("10.96.0.10", 80), End("10.244.1.7", 8080)))

A flow keeps neither its target (a Service's address becomes an endpoint's) nor its source (masquerading gives it another
address and port), so a packet is of the flow when it bears the mark as a port, or goes to or comes from one of the ends.

Pure. Must not know: where packets are seen. Read next: `bpf.py`, `headers.py`.
"""

from __future__ import annotations

import msgspec

from nodecore.net import Family

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
NAMES = {number: name for name, number in PROTOCOLS.items()} | {ICMPV6: "icmpv6"}
PORTED = (TCP, UDP, SCTP)


class End(msgspec.Struct, frozen=True):
    """An address and port that packets of the flow go to; `name` says whose it is."""

    address: str
    port: int
    name: str = ""


class Flow(msgspec.Struct, frozen=True):
    """One flow: IP protocol number, the probe's source port, and the ends it may reach, the target as it was asked for first."""

    family: Family
    protocol: int
    mark: int
    ends: tuple[End, ...]

    @property
    def wire(self) -> int:
        """The protocol's number in packets of this family."""
        return ICMPV6 if self.protocol == ICMP and self.family is Family.IPV6 else self.protocol
