"""`flanneld-py mk-docker-opts`: Docker's options from subnet.env, as flannel's script of that name writes them.

    DOCKER_OPT_BIP="--bip=10.5.3.1/24"
    DOCKER_OPT_IPMASQ="--ip-masq=true"
    DOCKER_OPT_MTU="--mtu=1450"
    DOCKER_OPTS=" --bip=10.5.3.1/24 --ip-masq=true --mtu=1450"

A program called mk-docker-opts.sh that is a link to `flanneld-py` does the same. What the environment has of FLANNEL_*,
DOCKER_OPT_* and the combined key counts too, as in the script.

Must not know: etcd, the daemon. Read next: `flanneld_py/subnetfile.py`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import click

from nodecore.errors import Fault, UserError

NAME = "mk-docker-opts"
ROUTES = Path("/proc/net/route")
MASQUERADE = {"true": "--ip-masq=false", "false": "--ip-masq=true"}


@click.command(NAME)
@click.option("-f", "flannel_env", default="/run/flannel/subnet.env", show_default=True, help="What flanneld wrote.")
@click.option("-d", "docker_env", default="/run/docker_opts.env", show_default=True, help="The file to write for Docker.")
@click.option("-i", "single", is_flag=True, help="One variable an option; with -c both, which is the default.")
@click.option("-c", "combined", is_flag=True, help="One variable for all options.")
@click.option("-m", "no_masq", is_flag=True, help="Leave out --ip-masq, for an old Docker.")
@click.option("-k", "key", default="DOCKER_OPTS", show_default=True, help="The name of the variable for all options.")
def command(flannel_env: str, docker_env: str, *, single: bool, combined: bool, no_masq: bool, key: str) -> None:
    """Write the options Docker's bridge needs on this node."""
    values = {**os.environ, **read_variables(Path(flannel_env))}
    options = docker_options(values, masquerade=not no_masq)
    gateway = gateway_of(values.get("FLANNEL_SUBNET", ""), ROUTES.read_text() if ROUTES.exists() else "")
    if gateway:
        raise Fault(f"{values['FLANNEL_SUBNET']} is already routed, by {gateway}: Docker's bridge would be cut off")
    both = single == combined
    lines = [f'{name}="{value}"' for name, value in sorted(options.items())] if single or both else []
    if combined or both:
        lines.append(f'{key}="{" ".join([values.get(key, ""), *(value for _, value in sorted(options.items()))])}"')
    try:
        Path(docker_env).write_text("".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"-d: cannot write {docker_env}: {error.strerror}") from None


def read_variables(path: Path) -> dict[str, str]:
    """`NAME=value` lines; a file that is not there has none."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"-f: cannot read {path}: {getattr(error, 'strerror', error)}") from None
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def docker_options(values: Mapping[str, str], *, masquerade: bool) -> dict[str, str]:
    """Every DOCKER_OPT_ there is: those the environment had, and ours."""
    found = {name: value for name, value in values.items() if name.startswith("DOCKER_OPT_")}
    if values.get("FLANNEL_SUBNET"):
        found["DOCKER_OPT_BIP"] = f"--bip={values['FLANNEL_SUBNET']}"
    if values.get("FLANNEL_MTU"):
        found["DOCKER_OPT_MTU"] = f"--mtu={values['FLANNEL_MTU']}"
    masq = values.get("FLANNEL_IPMASQ", "")
    if masq and masquerade:
        if masq not in MASQUERADE:
            raise UserError(f"FLANNEL_IPMASQ={masq}: true or false is wanted")
        found["DOCKER_OPT_IPMASQ"] = MASQUERADE[masq]
    return found


def gateway_of(subnet: str, table: str) -> str:
    """The gateway by which just this subnet is routed, in the words of /proc/net/route; empty where there is none."""
    if not subnet:
        return ""
    try:
        wanted = IPv4Interface(subnet).network
    except ValueError:
        raise UserError(f"FLANNEL_SUBNET={subnet}: not a subnet") from None
    for line in table.splitlines()[1:]:
        _, destination, gateway, _, _, _, _, mask, *_ = line.split()
        if IPv4Network((_address(destination), _address(mask))) == wanted and int(gateway, 16):
            return _address(gateway)
    return ""


def _address(word: str) -> str:
    """A number of /proc/net/route, which is in the machine's byte order."""
    return socket.inet_ntoa(struct.pack("=I", int(word, 16)))
