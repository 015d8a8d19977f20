"""`flanneld-py show`: the network this node is in, its leases, and what the kernel holds against what it should.

Reads the store and the kernel as the daemon would, with the daemon's flags, and writes nothing. Exit code 1 where they differ.
Must not know: how things are read. Read next: `flanneld_py/rehearsal.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from flanneld_py.lease import Lease, encode_data
from flanneld_py.options import flag_options, settings_of
from nodecore.errors import Unreachable

if TYPE_CHECKING:
    from flanneld_py.config import Settings
    from flanneld_py.rehearsal import Rehearsal

PATIENCE = 20.0


def start(*, output: str, **given: Any) -> None:
    """Read the flags, look, and print."""
    import asyncio

    from nodecore.daemon import logs

    settings = settings_of(given)
    logs.setup(settings.verbosity, settings.vmodule, settings.log_backtrace_at)
    logs.only_warnings()
    found = asyncio.run(look(settings))
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(render(found)))
    if found["differences"]:
        sys.exit(1)


async def look(settings: Settings) -> dict[str, Any]:
    """Everything, as a JSON value."""
    import asyncio

    from flanneld_py.rehearsal import rehearse

    try:
        async with asyncio.timeout(PATIENCE):
            return describe(await rehearse(settings))
    except TimeoutError:
        raise Unreachable(f"no answer within {PATIENCE:.0f} s: the log above says from whom") from None


def describe(found: Rehearsal) -> dict[str, Any]:
    """A rehearsal as a JSON value; peers of an attendant are its own matter."""
    from flanneld_py.plan import PeerOp

    inputs = found.inputs
    differences = [op.describe() for op in (*found.ops, *found.rules) if not isinstance(op, PeerOp)]
    net, there = found.wanted.net, found.observed.net
    kinds = {part.name: {"wanted": len(getattr(net, part.name)), "there": len(getattr(there, part.name))} for part in fields(net)}
    return {
        "networks": [str(block.network) for block in inputs.conf.blocks],
        "backend": inputs.backend.type,
        "interface": inputs.underlay.link,
        "mtu": found.mtu,
        "leases": [describe_lease(lease, own=inputs.own) for lease in with_own(inputs.leases, inputs.own)],
        "kernel": {kind: numbers for kind, numbers in kinds.items() if any(numbers.values())},
        "attended": len(found.wanted.peers),
        "differences": differences,
    }


def with_own(leases: Iterable[Lease], own: Lease) -> list[Lease]:
    """All leases, ours first, be it taken yet or not."""
    return [own, *(lease for lease in leases if lease.key != own.key)]


def describe_lease(lease: Lease, *, own: Lease) -> dict[str, Any]:
    """A lease as a JSON value."""
    return {
        "subnets": [str(part.subnet) for part in lease.parts],
        "publicIPs": [str(part.public_ip) for part in lease.parts if part.public_ip],
        "backend": lease.backend,
        "data": [encode_data(part.data) for part in lease.parts if part.data],
        "own": lease.key == own.key,
    }


def render(found: dict[str, Any]) -> list[str]:
    """The tables for people."""
    lines = table(("NETWORK", "BACKEND", "INTERFACE", "MTU"), [
        (",".join(found["networks"]), found["backend"], found["interface"], str(found["mtu"]))
    ])
    lines += ["", *table(("", "SUBNET", "PUBLIC IP", "BACKEND", "DATA"), [
        ("*" if lease["own"] else "", ",".join(lease["subnets"]), ",".join(lease["publicIPs"]) or "-", lease["backend"] or "-",
         " ".join(json.dumps(data, separators=(",", ":")) for data in lease["data"]) or "-")
        for lease in found["leases"]
    ])]
    rows = [(kind, str(numbers["wanted"]), str(numbers["there"])) for kind, numbers in found["kernel"].items()]
    lines += ["", *table(("KERNEL", "WANTED", "THERE"), rows)]
    if found["attended"]:
        lines += ["", f"{found['attended']} peers are served outside the kernel's tables."]
    if not found["differences"]:
        return [*lines, "", "The kernel holds what it should."]
    return [*lines, "", "The kernel differs; the daemon would:", *(f"  {text}" for text in found["differences"])]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


command = click.Command(
    "show", callback=start,
    params=[
        *flag_options(),
        click.Option(["-o", "--output"], type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form."),
    ],
    context_settings={"help_option_names": ["--help", "-help", "-h"]},
    help="Show leases, peers, and what the kernel holds against what it should; with the daemon's flags.",
)
