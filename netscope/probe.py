"""Sends a probe from inside whatever namespace of this node has its source address, and waits for what comes back.

Must not know: who listens. Read next: `netscope/records.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from netscope.crafted import answer_to, echo, init
from netscope.flow import ICMP, TCP, UDP
from netscope.records import Outcome, Probe
from nodecore.errors import Fault
from nodecore.kernel.host import KernelHost
from nodecore.kernel.netns import inside
from nodecore.net import Family, parse_address

OWN = "/proc/self/ns/net"
KINDS = {TCP: (socket.SOCK_STREAM, 0), UDP: (socket.SOCK_DGRAM, 0)}  # others are crafted
MEANINGS = {  # refused: no such protocol there; unreachable: our own routes say so, or somebody on the way did by ICMP
    errno.ENOPROTOOPT: "refused", errno.EPROTO: "refused",
    errno.ENETUNREACH: "unreachable", errno.EHOSTUNREACH: "unreachable", errno.EACCES: "unreachable"}


def send(probe: Probe) -> Outcome:
    """From the source's own namespace."""
    path = namespace_of(probe.source)
    if not path:
        return Outcome("unsent", f"no namespace of this node has the address {probe.source}")
    with inside(path), _socket(probe) as sock:
        begin = time.monotonic()
        what, detail = _ask(sock, probe)
        return Outcome(what, detail, (time.monotonic() - begin) * 1000)


def namespace_of(address: str) -> str:
    """A path to the network namespace that has an address: this one, or one that a link leads to; empty where none has it.

    Others on this machine may have the same address, in another cluster.
    """
    wanted, here = parse_address(address), KernelHost()
    for path in namespaces():
        with suppress(Fault, OSError):  # its process has ended meanwhile, and the namespace may have
            if any(wanted in each.addresses for each in KernelHost(path).interfaces()) and (path == OWN or here.leads_to(path)):
                return path
    return ""


def namespaces() -> Iterator[str]:
    """One path for each namespace that a process lives in, this one's first."""
    met: set[int] = set()
    for path in (OWN, *(f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit())):
        try:
            number = os.stat(path).st_ino
        except OSError:  # it has ended
            continue
        if number not in met:
            met.add(number)
            yield path


def _socket(probe: Probe) -> socket.socket:
    family = Family.of(parse_address(probe.source))
    kind, number = KINDS.get(probe.protocol, (socket.SOCK_RAW, probe.protocol))
    sock = socket.socket(family.af, kind, socket.IPPROTO_ICMPV6 if probe.protocol == ICMP and family is Family.IPV6 else number)
    sock.settimeout(probe.seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _ask(sock: socket.socket, probe: Probe) -> tuple[str, str]:
    try:
        if probe.protocol in KINDS:
            return _by_socket(sock, probe)
        return _crafted(sock, probe)
    except TimeoutError:
        return "silent", ""
    except ConnectionRefusedError:
        return "refused", ""
    except OSError as error:
        return MEANINGS.get(error.errno or 0, "unsent"), error.strerror or str(error)


def _by_socket(sock: socket.socket, probe: Probe) -> tuple[str, str]:
    sock.bind((probe.source, probe.mark))
    sock.connect((probe.target, probe.port))
    if probe.protocol != TCP:
        sock.send(b"netscope")
        sock.recv(65536)
    return "answered", ""


def _crafted(sock: socket.socket, probe: Probe) -> tuple[str, str]:
    """A raw socket hears all packets of its protocol from the target: the answer has to be picked."""
    family = Family.of(parse_address(probe.source))
    sock.bind((probe.source, 0))
    sock.connect((probe.target, 0))
    sock.send(echo(family, probe.mark) if probe.protocol == ICMP else init(probe.mark, probe.port, probe.mark))
    deadline = time.monotonic() + probe.seconds
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        if what := answer_to(family, probe.protocol, probe.mark, sock.recv(65536)):
            return what, ""
    raise TimeoutError
