"""`kube-proxy-py`: kube-proxy's flags, by its names. Heavy imports wait until they are needed.

Read next: `proxy/config.py`, then `proxy/agent.py`.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import click

from nodecore.daemon import entry

from . import config as settings

NAME = "kube-proxy-py"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", help="Who we are and where the API is; without it, the pod's ServiceAccount.")
@click.option("--config", "config_file", help="A KubeProxyConfiguration, YAML or JSON; flags given as well win.")
@click.option("--proxy-mode", help="nftables (the default here).")
@click.option("--hostname-override", help="This node's name, where it is not the host name.")
@click.option("--cluster-cidr", help="The pods' networks: what comes from elsewhere is masqueraded on its way to a ClusterIP.")
@click.option("--healthz-bind-address", help="For /healthz and /livez; default 0.0.0.0:10256, empty for none.")
@click.option("--metrics-bind-address", help="For /metrics and /proxyMode; default 127.0.0.1:10249, empty for none.")
@click.option("--nodeport-addresses", multiple=True,
              help="Networks whose local addresses answer for NodePorts; default all but loopback.")
@click.option("--masquerade-all", is_flag=True, default=None, help="Masquerade whatever goes to a ClusterIP.")
@click.option("--iptables-sync-period", "--nftables-sync-period", help="How often to look even if nothing happened; default 30s.")
@click.option("--iptables-min-sync-period", "--nftables-min-sync-period", help="The most that writes are held back; default 1s.")
@click.option("--cleanup", is_flag=True, help="Remove our rules and exit.")
@click.option("--dry-run", is_flag=True, help="Print what would be written and exit.")
@click.option("-v", "--v", "verbosity", type=int, default=0, help="Verbosity; 4 and up is debugging.")
@click.version_option(metadata.version("flanneld-py"), prog_name=NAME)
def command(config_file: str | None, cleanup: bool, dry_run: bool, verbosity: int, **flags: Any) -> None:  # noqa: FBT001
    """Answer for Services on this node: a drop-in for kube-proxy."""
    from nodecore.daemon import logs

    given = {name.replace("_", "-"): value for name, value in flags.items()}
    config = settings.build(_explicit(given), settings.read_file(config_file) if config_file else None)
    logs.setup(verbosity)

    import asyncio

    from . import agent

    if cleanup:
        asyncio.run(agent.clean_up())
    elif dry_run:
        asyncio.run(agent.print_plan(config))
    else:
        asyncio.run(agent.run(config))


def _explicit(given: dict[str, Any]) -> dict[str, Any]:
    """Flags by their first name, without those not given; an empty address switches its server off."""
    return {name: value for name, value in given.items() if value not in (None, ())}


def main() -> None:
    """Run, and end with the exit code an error deserves."""
    entry.run(lambda: command(prog_name=NAME), NAME)


if __name__ == "__main__":
    main()
