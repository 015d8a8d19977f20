"""The command: `minik8s certs check` and `minik8s certs renew`, for what is below /etc/kubernetes.

Must not know: what is in a certificate. Read next: `minik8s/pki/renewal.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from minik8s.pki.renewal import Kept

DIRECTORY = click.option("--directory", default="/etc/kubernetes", show_default=True, help="Where they are, and kubeconfigs.",
                         type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """When certificates expire, and new ones in time."""


@command.command()
@DIRECTORY
def check(directory: Path) -> None:
    """List all certificates with the day they expire."""
    from minik8s.pki.renewal import kept

    _show(kept(directory))


@command.command()
@DIRECTORY
def renew(directory: Path) -> None:
    """Give the authority, all it has signed here and the kubeconfigs new certificates, by the keys they have.

    Whoever knows only the old authority trusts the new one as well until the old one expires.
    """
    from minik8s.pki.renewal import kept, renew_all

    renew_all(directory)
    _show(kept(directory))
    click.echo("Restart what reads its files only when it starts: etcd, kubelet, controllers, scheduler. Copy the authority's "
               "certificate to the other nodes before the old one expires.")


def _show(found: list[Kept]) -> None:
    width = max((len(each.name) for each in found), default=0) + 2
    click.echo(f"{'CERTIFICATE':<{width}}{'EXPIRES':<22}{'LEFT':<9}SIGNED BY")
    for each in found:
        click.echo(f"{each.name:<{width}}{each.expires:%Y-%m-%d %H:%M UTC}  {f'{each.days}d':<9}{each.signer}")
