"""Who this node is to its peers: the MAC of its VXLAN device, or its WireGuard public key; and then it stays.

    MAC: the device's, else the one our lease tells already, else a random one
    key: the one in the key file, else a new one that is written there
    extension: what its PreStartupCommand prints

Read next: `flanneld_py/backends/port.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flanneld_py.attend.commands import run_command
from flanneld_py.backends.extension import ExtensionBackend
from flanneld_py.backends.port import Backend
from flanneld_py.backends.vxlan import VxlanBackend, vtep_mac
from flanneld_py.backends.wireguard import WireguardBackend
from flanneld_py.lease import Part
from flanneld_py.wgkey import key_file, read_or_make_key
from nodecore.kernel.ports import Host
from nodecore.net import Family


class Identity:
    """What our leases say of us."""

    def __init__(self, host: Host, backend: Backend) -> None:
        self._host, self._backend = host, backend
        self._known: dict[Family, str] = {}

    def lease_data(self, family: Family, before: Part | None) -> Mapping[str, Any]:
        """The backend's data for a lease; `before` is what the lease said until now."""
        if family not in self._known:
            self._known[family] = self._find(family, before)
        return self._backend.lease_data(family, self._known[family])

    def recognises(self, part: Part) -> bool:
        """Whether a lease tells what only this node can have told: the MAC of a device that is here, or our key."""
        if isinstance(self._backend, VxlanBackend):
            device = self._host.link(self._backend.device(part.family))
            return device is not None and device.mac == vtep_mac(part)
        key = self._backend.identity if isinstance(self._backend, WireguardBackend) else ""
        return bool(key) and dict(part.data) == dict(self._backend.lease_data(part.family, key))

    def _find(self, family: Family, before: Part | None) -> str:
        if isinstance(self._backend, VxlanBackend):
            device = self._host.link(self._backend.device(family))
            return (device.mac if device else vtep_mac(before)) or random_mac()
        return self._backend.identity if isinstance(self._backend, WireguardBackend) else ""


async def equip(backend: Backend, *, rehearsal: bool = False) -> Backend:
    """The backend with what only this node can give: its private key, or what a command prints; a rehearsal changes nothing."""
    if isinstance(backend, WireguardBackend):
        return replace(backend, private_key=read_or_make_key(key_file(os.environ), write=not rehearsal))
    if isinstance(backend, ExtensionBackend) and backend.pre_startup and not rehearsal:
        return replace(backend, data=await run_command("PreStartupCommand", backend.pre_startup, {}))
    return backend


def random_mac() -> str:
    """A locally administered unicast MAC."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")
