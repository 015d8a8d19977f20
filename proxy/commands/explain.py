"""`kube-proxy-py explain 10.96.0.10:80`: which rule takes a packet where, in words and as a small drawing.

From files, or from the API; the kernel is not asked (`diff` does that). Read next: `proxy/explain.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodecore.errors import UserError
from nodecore.net import Family, parse_address
from proxy import explain
from proxy.commands.render import FILES
from proxy.options import CONTEXT, config_of, flag_options
from proxy.services import shown

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.snapshot import Snapshot


def start(*, destination: str, caller: str | None, files: tuple[str, ...], **given: Any) -> None:
    """Look, decide, draw; exit code 1 where no Service has that address."""
    import asyncio
    import logging

    from proxy.sources import take

    wanted = explain.parse_destination(destination)
    source = parse_address(caller, what="--from") if caller else None
    if source and Family.of(source) is not wanted.family:
        raise UserError(f"--from: {source} is not IPv{wanted.family.value}, which {wanted} is")
    logging.disable(logging.WARNING)
    picture = asyncio.run(take(config_of(given), files))
    asked = explain.callers(picture.config, wanted.family, source, picture.own)
    lines, known = tell(picture.snapshot, picture.config, wanted, asked)
    click.echo("\n".join(map(shown, lines)))
    if not known:
        raise SystemExit(1)


def tell(snapshot: Snapshot, config: Config, wanted: explain.Destination,
         callers: list[explain.Caller]) -> tuple[list[str], bool]:
    """The answer, and whether any Service has that address."""
    from proxy.modes import layouts
    from proxy.render.ways import claim_of

    routes = [route for key in sorted(snapshot.dirty) for route in snapshot.routes(key, wanted.family)[0]]
    matches = explain.find(routes, wanted)
    if not matches:
        if explain.is_a_services(routes, wanted):
            return [f"{wanted}: a Service's address, but no Service has that port: refused"], True
        return [f"{wanted}: no Service has that address and port: the packet is left alone"], False
    first, *others = matches
    lines: list[str] = []
    layout = next((layout for layout in layouts(config) if layout.family is wanted.family), None)
    if layout is None:
        raise UserError(f"--cluster-cidr: has no network of IPv{wanted.family.value}, so that the proxy leaves that alone")
    rules = explain.rules(layout.fragments(first.route), claim_of(first.route.port, first.way))
    for caller in callers:
        drawn = explain.draw(wanted, first, caller, explain.decide(first, caller, config), rules)
        lines += [*([""] if lines else []), *drawn]
    if first.way.address == "":
        lines.append(f"  (if {wanted.address} is an address of this node that answers for NodePorts)")
    lines += [f"  (Service {match.route.port.service} wants it as well, and does not get it)" for match in others]
    return lines, True


command = click.Command(
    "explain", callback=start,
    params=[
        click.Argument(["destination"], metavar="ADDRESS:PORT[/PROTOCOL]"),
        click.Option(["--from", "caller"], metavar="ADDRESS", help="Who sends the packet; else a pod, and somebody outside."),
        FILES, *flag_options(),
    ],
    context_settings=CONTEXT,
    help="Say what becomes of a packet to an address and port: which Service takes it, who answers, and whom that one sees.",
)
