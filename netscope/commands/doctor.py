"""`netscope doctor`: what is wrong, and with --fix what is mended. Read next: `netscope/doctor.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from netscope.commands.looking import looking, scene_of, show

if TYPE_CHECKING:
    from netscope.facts import Finding
    from netscope.scene import Scene

SECONDS = 20.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.option("--node-ports", default="30000-32767", metavar="LOW-HIGH", help="The API server's --service-node-port-range.")
@click.option("--fix", "mending", is_flag=True, help="Run the commands that are safe, and look again.")
@looking
def command(kubeconfig: str, via: str, bundle: str | None, output: str, node_ports: str, *, as_json: bool,
            mending: bool) -> None:
    """Examine every node's network and say what is wrong, what shows it, and what mends it. Exit code 3 where something is."""
    import msgspec

    from netscope import doctor
    from nodecore.errors import UserError

    if mending and bundle:
        raise UserError("--fix: a bundle is the past, and cannot be mended")
    ports = range_of(node_ports)
    scene = msgspec.structs.replace(scene_of(kubeconfig, via, bundle, sending=True), node_ports=ports)
    found = doctor.findings_in(scene)
    if mending:
        scene, found = mend(scene, found, via)
    show("json" if as_json else output, found, lambda: doctor.draw(found, len(scene.facts)))
    sys.exit(3 if found else 0)


def range_of(text: str) -> tuple[int, int]:
    """`30000-32767`."""
    from nodecore.errors import UserError

    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and int(low) <= int(high) < 65536):
        raise UserError(f"--node-ports: {text!r} is not LOW-HIGH")
    return int(low), int(high)


def mend(scene: Scene, found: list[Finding], via: str) -> tuple[Scene, list[Finding]]:
    """Run what is safe and look again, as long as that leads to something new."""
    import msgspec

    from netscope import doctor
    from netscope.gather import look, with_echoes
    from netscope.mending import mendable
    from netscope.nodes import Nodes
    from netscope.records import Mend

    done: set[tuple[str, str]] = set()
    with Nodes(tuple(scene.facts), via) as nodes:
        while todo := [each for each in mendable(found) if (each[0].node, each[0].fix) not in done]:
            for finding, commands in todo:
                done.add((finding.node, finding.fix))
                for words in commands:
                    answer = nodes.ask(finding.node, Mend(words), SECONDS)
                    trouble = getattr(answer, "trouble", "")
                    click.echo(f"{finding.node}: {' '.join(words)}{': ' + trouble if trouble else ''}", err=True)
            scene = msgspec.structs.replace(with_echoes(look(scene.objects, nodes), nodes), node_ports=scene.node_ports)
            found = doctor.findings_in(scene)
    return scene, found
