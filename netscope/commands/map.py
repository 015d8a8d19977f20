"""`netscope map`: the cluster's network as a picture. Read next: `netscope/map.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from netscope.commands.looking import looking, scene_of, show


@click.command()
@click.option("--svg", "picture", type=click.Path(dir_okay=False, writable=True), help="Write an SVG picture there as well.")
@click.option("--still", is_flag=True, help="Send no echo requests: only what is there, not whether it answers.")
@looking
def command(picture: str | None, kubeconfig: str, via: str, bundle: str | None, output: str, *, still: bool) -> None:
    """Draw nodes, links, tunnels, pods and Services, with reachability and latency between every two nodes.

    Exit code 3 where a node does not answer another.
    """
    import shutil

    from netscope import mapdrawing, mappicture
    from netscope.map import map_of

    drawn = map_of(scene_of(kubeconfig, via, bundle, sending=not still))
    if picture:
        write(Path(picture), mappicture.svg(drawn))
    show(output, drawn, lambda: mapdrawing.draw(drawn, shutil.get_terminal_size((100, 24)).columns))
    sys.exit(0 if all(pair.works for pair in drawn.pairs) else 3)


def write(path: Path, text: str) -> None:
    """The picture; where it cannot be written, that is one line."""
    from nodecore.errors import UserError

    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"--svg: {path}: {error.strerror}") from None
