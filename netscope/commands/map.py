"""`netscope map`: the cluster's network as a picture. Read next: `netscope/map.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netscope.commands.looking import looking, scene_of, show

if TYPE_CHECKING:
    from netscope.scene import Scene

SECONDS = 20.0


@click.command()
@click.option("--svg", "picture", type=click.Path(dir_okay=False, writable=True), help="Write an SVG picture there as well.")
@click.option("--still", is_flag=True, help="Send no echo requests: only what is there, not whether it answers.")
@looking
def command(picture: str | None, kubeconfig: str, via: str, bundle: str | None, output: str, *, still: bool) -> None:
    """Draw nodes, links, tunnels, pods and Services, with reachability and latency between every two nodes.

    Exit code 3 where a node does not answer another.
    """
    from netscope import mapdrawing
    from netscope.map import map_of

    scene = scene_of(kubeconfig, via, bundle)
    drawn = map_of(scene, {} if still or bundle else echoes_of(scene, via))
    if picture:
        Path(picture).write_text(mapdrawing.svg(drawn))
    show(output, drawn, lambda: mapdrawing.draw(drawn))
    sys.exit(0 if all(pair.works for pair in drawn.pairs) else 3)


def echoes_of(scene: Scene, via: str) -> dict[str, dict[str, float]]:
    """Every node asks every other; twice, as the first has to find its neighbour."""
    from netscope.map import targets_of
    from netscope.nodes import Nodes
    from netscope.records import Reach, Reached

    found: dict[str, dict[str, float]] = {}
    with Nodes(tuple(scene.facts), via) as nodes:
        for name, addresses in targets_of(scene).items():
            for _ in range(2):
                answer = nodes.ask(name, Reach(addresses), SECONDS)
                if isinstance(answer, Reached):
                    found[name] = answer.milliseconds
    return found
