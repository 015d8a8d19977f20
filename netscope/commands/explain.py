"""`netscope explain`: what would become of a packet, with nothing sent. Read next: `netscope/explain.py`."""

from __future__ import annotations

import sys

import click

from netscope.commands.looking import looking, scene_of, show


@click.command()
@click.argument("who", nargs=-1, required=True, metavar="[SOURCE] TARGET[:PORT]")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp"]), default="tcp", show_default=True, help="Of the packet.")
@looking
def command(who: tuple[str, ...], protocol: str, kubeconfig: str, via: str, bundle: str | None, output: str) -> None:
    """Walk a packet from SOURCE to TARGET through Services, policies, rules, routes and tunnels: which of them decides.

    Nothing is sent. Without SOURCE, from each node itself. Exit code 3 where it would not arrive.
    """
    from netscope import explain
    from nodecore.errors import UserError

    if len(who) > 2:
        raise UserError(f"{' '.join(who)!r}: one source and one target, or a target alone")
    scene = scene_of(kubeconfig, via, bundle)
    told = explain.explain(scene, who[:-1], who[-1], protocol)
    show(output, told, lambda: "\n\n".join(explain.draw(each) for each in told))
    sys.exit(0 if all(each.arrives for each in told) else 3)
