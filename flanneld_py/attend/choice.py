"""Which attendant a backend has: most have none.

Imports are made when they are needed: what one backend uses should not weigh on the others.
Read next: `flanneld_py/attend/port.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flanneld_py.attend.charon import Charon, is_there
from flanneld_py.attend.port import Attendant
from flanneld_py.backends.extension import ExtensionBackend
from flanneld_py.backends.ipsec import IpsecBackend
from flanneld_py.backends.port import Backend
from flanneld_py.backends.udp import UdpBackend
from flanneld_py.iface import Underlay
from nodecore.errors import Fault, Unreachable
from nodecore.net import Family, IPNetwork

log = logging.getLogger(__name__)


def choose_attendant(backend: Backend, underlay: Underlay, changed: Callable[[], None] = lambda: None) -> Attendant | None:
    """The one that serves this backend's peers, None where the kernel does all; `changed` is called when it is not as it was."""
    if isinstance(backend, UdpBackend):
        from flanneld_py.attend.udp import UdpAttendant

        return UdpAttendant(backend, underlay.addresses[Family.IPV4], changed)
    if isinstance(backend, ExtensionBackend):
        from flanneld_py.attend.extension import ExtensionAttendant

        return ExtensionAttendant(backend)
    if isinstance(backend, IpsecBackend):
        from flanneld_py.attend.ipsec import IpsecAttendant

        return IpsecAttendant(backend, changed)
    return None


async def rehearsed_mtu(backend: Backend, underlay: Underlay) -> int:
    """The MTU pods get, as far as it can be told where no attendant is started: a charon that is there is asked."""
    counted = backend.mtu(underlay)
    if not isinstance(backend, IpsecBackend) or not is_there():
        return counted
    from flanneld_py.attend.ipsec import room

    try:
        return min(counted, await room(Charon()))
    except Unreachable:
        return counted


async def withdraw_others(backend: Backend, network: IPNetwork | None) -> None:
    """End what an attendant of another backend left that is no device: charon's connections would take this one's packets."""
    if isinstance(backend, IpsecBackend) or not network or not is_there():
        return
    from flanneld_py.attend.ipsec import withdraw

    try:
        await withdraw(network)
    except Fault as fault:
        log.warning("cannot look whether charon has connections of this network: %s", fault)
