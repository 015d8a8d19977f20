"""Whether the VXLAN device may leave checksums to the network card: a fault of kernels and cards that nobody can see from within.

Masquerading an outer packet whose inner checksum is still to be computed goes wrong in Linux before 5.7, and VMware's
vmxnet3 computes it wrongly for packets inside packets. Either way the far side drops every packet in silence. So the
device computes them itself where one of the two is so; --vxlan-tx-checksum says otherwise.

Pure. Read next: docs/explanation/healing.md.
"""

from __future__ import annotations

import re
from dataclasses import replace

from flanneld_py.backends.port import Backend
from flanneld_py.backends.vxlan import VxlanBackend

WISHES = ("auto", "on", "off")
MENDED = (5, 7)
BROKEN_DRIVERS = frozenset({"vmxnet3"})


def choose_deferral(wish: str, driver: str, release: str) -> tuple[bool | None, str]:
    """Whether checksums are deferred, None to leave it as it is, and in words why not."""
    if wish != "auto":
        return wish == "on", "--vxlan-tx-checksum says so"
    if driver in BROKEN_DRIVERS:
        return False, f"the network card is a {driver}"
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < MENDED:
        return False, f"the kernel is {release}"
    return None, ""


def tune(backend: Backend, wish: str, driver: str, release: str) -> tuple[Backend, str]:
    """The backend as it should be on this machine, and in words what was changed."""
    if not isinstance(backend, VxlanBackend):
        return backend, ""
    deferred, why = choose_deferral(wish, driver, release)
    return replace(backend, defers_checksums=deferred), why
