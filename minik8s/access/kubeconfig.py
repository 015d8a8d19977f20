"""`minik8s kubeconfig --user NAME`: a kubeconfig for somebody, with a client certificate the cluster signs.

Read next: `requests.py`.
"""

from __future__ import annotations

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--user", required=True, help="Who it is for: the certificate's CN.")
@click.option("--group", "groups", multiple=True, help="A group they are in; repeatable.")
@click.option("--kubeconfig", default="/etc/kubernetes/admin.kubeconfig", show_default=True, help="Who approves the certificate.")
@click.option("--ttl", default="8760h0m0s", show_default=True, help="How long it is to be good.")
def command(user: str, groups: tuple[str, ...], kubeconfig: str, ttl: str) -> None:
    """Print a kubeconfig for a user; what they may do is said by roles and bindings."""
    from minik8s.access.api import Api
    from minik8s.access.join import ca_of
    from minik8s.access.requests import obtain
    from minik8s.pki import kubeconfig as documents
    from minik8s.pki.authority import Identity
    from minik8s.pki.requests import CLIENT
    from nodecore.duration import parse_duration
    from nodecore.kube.config import load

    api = Api.of_kubeconfig(kubeconfig)
    authority = load(kubeconfig).ca or ca_of(api).encode()  # whom we trust ourselves, whatever the cluster says in public
    pair = obtain(api, CLIENT, Identity(user, groups), approve=True, seconds=int(parse_duration(ttl, what="--ttl")))
    click.echo(documents.kubeconfig(api.server, authority, pair.certificate, pair.key, user, "minik8s"), nl=False)
