"""`minik8s token create`: a bootstrap token in the cluster, and the command to join with it.

Read next: `join.py`.
"""

from __future__ import annotations

import base64
import re
import secrets
import string
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from nodecore.errors import Conflict, UserError

if TYPE_CHECKING:
    from minik8s.access.api import Api, Object

LETTERS = string.ascii_lowercase + string.digits
SHAPE = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Tokens that machines join the cluster with."""


@command.command()
@click.argument("token", default="")
@click.option("--kubeconfig", default="/etc/kubernetes/admin.kubeconfig", show_default=True, help="Who makes the token.")
@click.option("--ttl", default="24h0m0s", show_default=True, help="How long it is good; 0s for ever.")
@click.option("--description", default="", help="A word on what it is for.")
def create(token: str, kubeconfig: str, ttl: str, description: str) -> None:
    """Make a bootstrap token, this one or a new one, and print the command that joins with it."""
    from minik8s.access.api import Api
    from minik8s.access.join import ca_of, pin_of
    from nodecore.duration import parse_duration

    if token and not SHAPE.fullmatch(token):
        raise UserError("TOKEN: six small letters or digits, a point, sixteen more")
    api, seconds = Api.of_kubeconfig(kubeconfig), parse_duration(ttl, what="--ttl")
    name, _, secret = (token or new_token()).partition(".")
    data = {"token-id": name, "token-secret": secret, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true"}
    if seconds:
        data["expiration"] = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if description:
        data["description"] = description
    put(api, name, {key: base64.b64encode(value.encode()).decode() for key, value in data.items()})
    server = api.server.removeprefix("https://")
    click.echo(f"minik8s join {server} --token {name}.{secret} --discovery-token-ca-cert-hash {pin_of(ca_of(api))}")


def new_token() -> str:
    """One that nobody can guess."""
    return ".".join("".join(secrets.choice(LETTERS) for _ in range(length)) for length in (6, 16))


def put(api: Api, name: str, data: dict[str, str]) -> None:
    """Have the token in the cluster; one of this name is replaced, so that what it is good for and how long is as said now."""
    path = "/api/v1/namespaces/kube-system/secrets"
    body: Object = {"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                    "metadata": {"name": f"bootstrap-token-{name}", "namespace": "kube-system"}, "data": data}
    try:
        api.ask("POST", path, body)
    except Conflict:
        api.ask("PUT", f"{path}/bootstrap-token-{name}", body)
