"""At which devices of a node a flow is looked for: all, but those that lead to a pod which is surely not concerned.

A packet socket costs every packet that passes its device, so other pods' traffic should not meet one. Surely: the device is a
bridge's port and one end of a pair, the kernel knows by address everybody whom it has met behind it, none of them is of the
flow, and it would send nobody of the flow there. Where it is in doubt about somebody of the flow, it is looked for everywhere.

Pure. Must not know: sockets. Read next: `nodecore/kernel/vicinity.py`, which knows who is behind what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodecore.kernel.vicinity import Device


def points(devices: Sequence[Device], wanted: Collection[bytes], ways: Mapping[bytes, int]) -> tuple[str, ...]:
    """The names of those where it is looked for; none: everywhere. `ways`: by which device (its number) it goes to each.

    A bridge's ports come before it, as packets that come in do, which have the same time at both.
    """
    bridges = {device.bridge for device in devices if device.bridge}
    met = {address for device in devices if device.bridge for address in device.addresses}
    if any(way in bridges and address not in met for address, way in ways.items()):
        return ()
    kept = tuple(device.name for device in sorted(devices, key=lambda device: not device.bridge)
                 if device.index in ways.values() or not _is_another_s(device, wanted))
    return kept if len(kept) < len(devices) else ()


def _is_another_s(device: Device, wanted: Collection[bytes]) -> bool:
    known = device.bridge and device.elsewhere and bool(device.addresses) and device.macs <= set(device.addresses.values())
    return bool(known) and not any(address in wanted for address in device.addresses)
