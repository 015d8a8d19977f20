"""subnet.env: what this node's subnet is, for the CNI plugin, for Docker's script, and for ourselves after a restart.

Written by renaming, so that a reader sees the old or the new one whole. Read next: `flanneld_py/cni.py`.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable
from ipaddress import ip_interface
from pathlib import Path

from flanneld_py.lease import Lease
from flanneld_py.netconf import NetConf
from nodecore.errors import Denied, Fault, UserError
from nodecore.net import Family, IPNetwork

NAMES = {Family.IPV4: ("FLANNEL_NETWORK", "FLANNEL_SUBNET"), Family.IPV6: ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET")}


def render_subnet_file(conf: NetConf, lease: Lease, mtu: int, *, ip_masq: bool) -> str:
    """The text."""
    lines = []
    for block in conf.blocks:
        part = lease.part(Family.of(block.network))
        if part:
            network, subnet = NAMES[part.family]
            lines += [f"{network}={block.network}", f"{subnet}={part.subnet.network_address + 1}/{part.subnet.prefixlen}"]
    lines += [f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={str(ip_masq).lower()}"]
    return "\n".join(lines) + "\n"


def read_previous(path: Path) -> tuple[IPNetwork, ...]:
    """The subnets an earlier life had; none where the file is missing or says nothing sensible."""
    return _read(path, [subnet for _, subnet in NAMES.values()])


def read_networks(path: Path) -> tuple[IPNetwork, ...]:
    """The networks it was part of."""
    return _read(path, [network for network, _ in NAMES.values()])


def _read(path: Path, names: Iterable[str]) -> tuple[IPNetwork, ...]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return ()
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    found = []
    for name in names:
        try:
            found.append(ip_interface(values[name]).network)
        except (KeyError, ValueError):
            continue
    return tuple(found)


def write_subnet_file(path: Path, text: str) -> None:
    """Put the text in place, if it is not there already."""
    try:
        if path.exists() and path.read_text() == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--subnet-file: cannot write {path}: {error.strerror}") from None
    except OSError as error:
        kind = Denied if error.errno == errno.EROFS else Fault
        raise kind(f"--subnet-file: cannot write {path}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".subnet.env.", delete=False) as file:
        new = Path(file.name)
        try:
            file.write(text)
            file.flush()
            new.chmod(0o644)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
