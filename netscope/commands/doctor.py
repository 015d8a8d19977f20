"""`netscope doctor`: what is wrong, and with --fix what is mended. Read next: `netscope/doctor.py`."""

from __future__ import annotations

import sys

import click

from netscope.commands.looking import looking, scene_of, show


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@looking
def command(kubeconfig: str, via: str, bundle: str | None, output: str, *, as_json: bool) -> None:
    """Examine every node's network and say what is wrong, what shows it, and what mends it. Exit code 3 where something is."""
    from netscope import doctor

    scene = scene_of(kubeconfig, via, bundle)
    found = doctor.findings_in(scene)
    show("json" if as_json else output, found, lambda: doctor.draw(found, len(scene.facts)))
    sys.exit(3 if found else 0)
