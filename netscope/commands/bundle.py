"""`netscope bundle`: all that explain, doctor and map look at, in one file. Read next: `netscope/bundle.py`."""

from __future__ import annotations

import click

from netscope.commands.looking import KUBECONFIG, VIA, scene_of


@click.command()
@click.option("-w", "--write", "path", type=click.Path(dir_okay=False, writable=True), required=True,
              help="The archive, .tar.gz.")
@KUBECONFIG
@VIA
def command(path: str, kubeconfig: str, via: str) -> None:
    """Write objects, leases, rules, routes, neighbours, forwarding entries, connections and settings into FILE. Never secrets."""
    import os

    from netscope.bundle import write
    from netscope.gather import with_connections

    scene = with_connections(scene_of(kubeconfig, via, None, sending=True), via)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        write(scene, file)
    click.echo(f"{path}: {len(scene.facts)} nodes, {os.path.getsize(path)} bytes")
