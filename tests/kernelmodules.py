"""What this kernel can do: tests of what it cannot are skipped, with the module's name, and run in the virtual machine."""

from __future__ import annotations

import functools
import os

import pytest

from nodecore.errors import Fault
from nodecore.kernel.ipvs import Ipvs
from nodecore.kernel.netns import Netns


@functools.cache
def lacks(kind: str) -> str:
    """Why a device of a kind cannot be made here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root"
    with Netns.create() as ns:
        options = ["local", "192.0.2.1"] if kind == "ipip" else []
        made = ns.run(["ip", "link", "add", "probe", "type", kind, *options], check=False)
    return "" if made.returncode == 0 else f"this kernel has no module {kind}"


def need(kind: str) -> None:
    """Skip the test that asks, where devices of a kind cannot be made."""
    if reason := lacks(kind):
        pytest.skip(reason)


@functools.cache
def lacks_ipvs() -> str:
    """Why virtual servers cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root"
    with Netns.create() as ns:
        kernel = Ipvs(ns.path)
        try:
            kernel.servers()
        except Fault as fault:
            return str(fault)
        finally:
            kernel.close()
    return lacks("dummy")


def need_ipvs() -> None:
    """Skip the test that asks, where there is no IPVS."""
    if reason := lacks_ipvs():
        pytest.skip(reason)
