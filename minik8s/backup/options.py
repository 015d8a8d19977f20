"""The flags by which backup and restore find etcd, named as the API server's. Read next: `state.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

FLAGS = (
    click.option("--etcd-servers", default="http://127.0.0.1:2379", show_default=True, help="etcd's endpoints, comma-separated."),
    click.option("--etcd-cafile", default="", help="CA that etcd's certificate is from."),
    click.option("--etcd-certfile", default="", help="Our client certificate for etcd."),
    click.option("--etcd-keyfile", default="", help="Its key."),
    click.argument("file"),
)


def etcd_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add them to a command."""
    for flag in reversed(FLAGS):
        function = flag(function)
    return function
