"""`minik8s token create`: a bootstrap token in the cluster, and the command to join with it.

Read next: `join.py`.
"""

from __future__ import annotations

import base64
import secrets
import string
from datetime import UTC, datetime, timedelta

import click

LETTERS = string.ascii_lowercase + string.digits


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Tokens that machines join the cluster with."""


@command.command()
@click.option("--kubeconfig", default="/etc/kubernetes/admin.kubeconfig", show_default=True, help="Who makes the token.")
@click.option("--ttl", default="24h0m0s", show_default=True, help="How long it is good; 0s for ever.")
@click.option("--description", default="", help="A word on what it is for.")
def create(kubeconfig: str, ttl: str, description: str) -> None:
    """Make a bootstrap token and print the command that joins with it."""
    from minik8s.access.api import Api
    from minik8s.access.join import ca_of, pin_of
    from nodecore.duration import parse_duration

    api, seconds = Api.of_kubeconfig(kubeconfig), parse_duration(ttl, what="--ttl")
    name, secret = ("".join(secrets.choice(LETTERS) for _ in range(length)) for length in (6, 16))
    data = {"token-id": name, "token-secret": secret, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true"}
    if seconds:
        data["expiration"] = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if description:
        data["description"] = description
    api.ask("POST", "/api/v1/namespaces/kube-system/secrets", {
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{name}", "namespace": "kube-system"},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}})
    server = api.server.removeprefix("https://")
    click.echo(f"minik8s join {server} --token {name}.{secret} --discovery-token-ca-cert-hash {pin_of(ca_of(api))}")
