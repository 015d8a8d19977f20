"""From `Backend.Type` to a backend: the one table of all there are.

The devices of all of them are known here, whichever is chosen: changing the backend removes the devices of the one before.

Pure. What there is not is refused by name. Read next: `flanneld_py/backends/port.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flanneld_py.backends.alloc import AllocBackend, parse_alloc
from flanneld_py.backends.extension import ExtensionBackend, parse_extension
from flanneld_py.backends.hostgw import HostGwBackend, parse_hostgw
from flanneld_py.backends.ipip import IpipBackend, parse_ipip
from flanneld_py.backends.ipsec import parse_ipsec
from flanneld_py.backends.port import Backend
from flanneld_py.backends.udp import UdpBackend, parse_udp
from flanneld_py.backends.vxlan import VxlanBackend, parse_vxlan
from flanneld_py.backends.wireguard import WireguardBackend, parse_wireguard
from flanneld_py.netconf import NetConf
from nodecore.errors import UserError

Parser = Callable[[NetConf], Backend]


def _by_options(parse: Callable[[Mapping[str, Any]], Backend]) -> Parser:
    """The parser of a backend that asks for no more than its own options."""
    return lambda conf: parse(conf.options)


PARSERS: Mapping[str, Parser] = {
    "vxlan": _by_options(parse_vxlan),
    "alloc": _by_options(parse_alloc),
    "host-gw": _by_options(parse_hostgw),
    "ipip": _by_options(parse_ipip),
    "udp": parse_udp,
    "wireguard": parse_wireguard,
    "extension": parse_extension,
    "ipsec": parse_ipsec,
}
REFUSED = {"tencent-vpc": "it needs Tencent's cloud API"}
CLASSES: tuple[type[Backend], ...] = (
    VxlanBackend, HostGwBackend, AllocBackend, IpipBackend, UdpBackend, WireguardBackend, ExtensionBackend,
)
DEVICES = "|".join(backend.devices for backend in CLASSES if backend.devices)


def parse_backend(conf: NetConf) -> Backend:
    """The backend a network configuration asks for; raises `UserError` naming what is wrong."""
    name = conf.backend
    if name not in PARSERS:
        why = f" ({REFUSED[name]})" if name in REFUSED else ""
        raise UserError(f"network config: Backend.Type: {name!r} is not supported{why}; there are {', '.join(PARSERS)}")
    backend = PARSERS[name](conf)
    for family in conf.families:
        if family not in backend.families:
            key = f"EnableIPv{family.value}"
            raise UserError(f"network config: {key}: the backend {name!r} cannot do IPv{family.value}")
    return backend
