"""What these commands share: where the scene comes from, and how the answer is printed.

Read next: `netscope/scene.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from netscope.scene import Scene

SSH = "ssh {node} netscope agent"
Command = TypeVar("Command", bound=Callable[..., Any])

KUBECONFIG = click.option("--kubeconfig", default="", help="The cluster's API; KUBECONFIG, where it is not given.")
VIA = click.option("--via", default=SSH, envvar="NETSCOPE_VIA", show_default=True,
                   help="The command that starts an agent on {node}, or `kubectl`; or NETSCOPE_VIA.")
BUNDLE = click.option("--bundle", "bundle", type=click.Path(exists=True, dir_okay=False),
                      help="Look at a bundle, not at the cluster.")
OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
                      help="For people, or all of it as JSON.")


def looking(command: Command) -> Command:
    """The options of a command that looks at a scene."""
    for option in (OUTPUT, BUNDLE, VIA, KUBECONFIG):
        command = option(command)
    return command


def scene_of(kubeconfig: str, via: str, bundle: str | None, *, sending: bool = False) -> Scene:
    """From the bundle where one is given; `sending`: with echoes between the nodes. Who is missing is told."""
    from netscope.bundle import read
    from netscope.gather import gather

    scene = read(bundle) if bundle else gather(kubeconfig, via, sending=sending)
    for name, why in scene.missing.items():
        click.echo(f"nothing is known of {name}: {why}", err=True)
    return scene


def show(output: str, value: Any, text: Callable[[], str]) -> None:
    """As JSON, or as text."""
    import msgspec

    click.echo(msgspec.json.encode(value).decode() if output == "json" else text())
