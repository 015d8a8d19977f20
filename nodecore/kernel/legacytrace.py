"""Which rules of iptables-legacy a traced packet met.

The mark that `rulestrace.py` sets on a packet is the one the legacy tables look at as well: what they have to say of it goes to
the logger of the packet's family, one for each network namespace (sysctl net.netfilter.nf_log). While this lives, that is
nfnetlink_log, whose group 0 it hears; a child puts the former one back, and it does so when we end, kill -9 included. Should that
child be killed as well, the next trace finds in RECORDS what the former one was.

Must not know: what the rules are for. Read next: `nodecore/kernel/iptables.py`, for those who write.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nodecore.errors import Busy, Denied, Fault, NotFound, Unsupported
from nodecore.kernel.batch import F_ACK, F_REQUEST, HEADER, attribute
from nodecore.kernel.nfnetlink import heard, open_socket
from nodecore.net import Family

ULOG_PACKET, ULOG_CONFIG = 4 << 8, 4 << 8 | 1
CFG_CMD, CFG_MODE, CFG_THRESHOLD = 1, 2, 5
BIND, COPY_PACKET, COPIED = 1, 2, 0xFFFF
INTERFACE_IN, PAYLOAD, PREFIX = 4, 9, 10
NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
PREFIXED = re.compile(r"TRACE: (?P<table>[^:]+):(?P<chain>.+):(?P<kind>rule|return|policy):(?P<number>\d+) ")
RECORDS = Path("/run/netscope")
SECONDS_TO_END = 5.0


@dataclass(frozen=True, slots=True)
class LegacyStep:
    """One rule (by its number in the chain) or policy a packet met; `data` is the packet as it was then."""

    table: str
    chain: str
    kind: str
    number: int
    interface: int
    data: bytes


class LegacyTrace:
    """Hears while this lives."""

    def __init__(self, family: Family) -> None:
        self.lost = 0
        self._socket = open_socket()
        try:
            _bind(self._socket)
            self._child = _lead_here(family)
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> list[LegacyStep]:
        """What has come since the last time."""
        found = []
        for each in heard(self._socket):
            self.lost += each.kind < 0
            if each.kind == ULOG_PACKET and (step := _step(each.attributes)):
                found.append(step)
        return found

    def close(self) -> None:
        """The family's logger is what it was."""
        self._socket.close()
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(SECONDS_TO_END)


def tables(family: Family) -> list[str]:
    """The legacy tables that packets pass here; asking makes none."""
    try:
        return Path(f"/proc/thread-self/net/{NAMES[family]}_tables_names").read_text().split()
    except OSError:
        return []


def _bind(sock: socket.socket) -> None:
    for attributes_ in (attribute(CFG_CMD, bytes([BIND])), attribute(CFG_MODE, struct.pack("!IBx", COPIED, COPY_PACKET))
                        + attribute(CFG_THRESHOLD, struct.pack("!I", 1))):
        body = bytes(4) + attributes_
        sock.settimeout(SECONDS_TO_END)
        sock.send(HEADER.pack(HEADER.size + len(body), ULOG_CONFIG, F_REQUEST | F_ACK, 1, 0) + body)
        (code,) = struct.unpack_from("=i", sock.recv(4096), HEADER.size)
        sock.settimeout(0)
        if code == -1:
            raise Denied("hearing netfilter: root is needed")
        if code == -16:
            raise Busy("rules of iptables-legacy: another program hears group 0 of nfnetlink_log")
        if code:
            raise Unsupported(f"rules of iptables-legacy: this kernel has no nfnetlink_log (error {-code})")


def _lead_here(family: Family) -> subprocess.Popen[bytes]:
    """Make nfnetlink_log the family's logger, and a child that undoes it when its stdin ends."""
    path = Path(f"/proc/sys/net/netfilter/nf_log/{family.af:d}")
    record = RECORDS / f"nf_log-{Path('/proc/thread-self/ns/net').stat().st_ino}-{family.af:d}"
    try:
        RECORDS.mkdir(exist_ok=True)
        before = (record if record.exists() else path).read_text().strip()
        record.write_text(before)
        script = f"trap '' HUP INT TERM; read -r over; echo {before} >{path}; rm -f {record}"
        child = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
        path.write_text("nfnetlink_log")
    except OSError as error:
        raise Unsupported(f"rules of iptables-legacy: this kernel has no nfnetlink_log ({path}: {error.strerror})") from None
    return child


def _step(found: dict[int, bytes]) -> LegacyStep | None:
    prefix = PREFIXED.match(found.get(PREFIX, b"").decode(errors="replace"))
    if not prefix:
        return None
    interface = struct.unpack("!I", found[INTERFACE_IN])[0] if INTERFACE_IN in found else 0
    return LegacyStep(prefix["table"], prefix["chain"], prefix["kind"], int(prefix["number"]), interface, found.get(PAYLOAD, b""))


def rules_of(family: Family, table: str, chain: str) -> list[str]:
    """A chain as iptables-legacy lists it: the policy, or that it is there, and then its rules by number."""
    program = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    try:
        done = subprocess.run([program, "-w", "5", "-t", table, "-S", chain], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotFound(f"{program}: {error.strerror}") from None
    if done.returncode:
        raise Fault(f"{program}: {done.stderr.strip()}")
    return done.stdout.splitlines()
