"""The command: `minik8s certs check`, `renew` and `fetch`, for what is below /etc/kubernetes.

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
    click.echo("Restart what reads its files only when it starts: etcd, kubelet, controllers, scheduler. Then, before the old "
               "authority expires, on every other node: minik8s certs fetch, and restart its kubelet; on other servers of this "
               "cluster: copy pki/ca.crt. Pods and those who join are told by the API server, as soon as it sees the file.")


@command.command()
@DIRECTORY
def fetch(directory: Path) -> None:
    """On a node that joined: take over the authority's renewed certificate, as the cluster publishes it."""
    from minik8s.access.api import Api, authority_of
    from minik8s.access.join import ca_of, pin_of
    from minik8s.pki.renewal import kept, take_over
    from nodecore.errors import Denied
    from nodecore.files import read_bytes
    from nodecore.kube.config import load

    old = read_bytes(str(directory / "pki/ca.crt"), "--directory").decode()
    server = load(str(directory / "kubelet.kubeconfig")).server
    new = ca_of(Api(server, authority_of(old)))
    if pin_of(new) != pin_of(old):
        raise Denied(f"{server}: this cluster's authority has another key than {directory}/pki/ca.crt: join again")
    take_over(directory, new.encode())
    _show(kept(directory))


def _show(found: list[Kept]) -> None:
    width = max((len(each.name) for each in found), default=0) + 2
    click.echo(f"{'CERTIFICATE':<{width}}{'EXPIRES':<22}{'LEFT':<9}SIGNED BY")
    for each in found:
        click.echo(f"{each.name:<{width}}{each.expires:%Y-%m-%d %H:%M UTC}  {f'{each.days}d':<9}{each.signer}")
