"""Which attendant a backend has: most have none.

Imports are made when they are needed: what one backend uses should not weigh on the others.
Read next: `flanneld_py/attend/port.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from flanneld_py.attend.port import Attendant
from flanneld_py.backends.extension import ExtensionBackend
from flanneld_py.backends.ipsec import IpsecBackend
from flanneld_py.backends.port import Backend
from flanneld_py.backends.udp import UdpBackend
from flanneld_py.iface import Underlay
from nodecore.net import Family


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
