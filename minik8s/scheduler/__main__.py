"""`minik8s scheduler`: the command line. Decides nothing; read next: `minik8s/scheduler/agent.py`."""

from __future__ import annotations

import socket

import click

from nodecore.daemon.entry import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", default="", metavar="FILE", help="Where the API is and who we are.")
@click.option("--leader-elect/--no-leader-elect", default=True, show_default=True, help="Work only while holding the Lease.")
@click.option("--leader-elect-lease-duration", default="15s", show_default=True, metavar="TIME",
              help="How long a Lease counts that is not renewed.")
@click.option("--identity", default="", metavar="NAME", help="Our name in the election.  [default: the host's name]")
@click.option("--healthz-port", default=0, help="Serve /healthz on this loopback port; 0 does not.")
@click.option("-v", "--v", "verbosity", default=0, help="Log verbosity; 4 and up is debugging.")
def command(kubeconfig: str, leader_elect_lease_duration: str, identity: str, healthz_port: int, verbosity: int,
            **flags: bool) -> None:
    """Give pods a node."""
    import asyncio

    from nodecore.daemon import logs
    from nodecore.daemon.heap import stay_small

    stay_small()
    from nodecore.kube.election import lease_duration

    from . import agent

    logs.setup(verbosity)
    asyncio.run(agent.run(kubeconfig, identity or socket.gethostname(), healthz_port, leader_elect=flags["leader_elect"],
                          lease=lease_duration(leader_elect_lease_duration)))


def main() -> None:
    """Entry point of `python -m minik8s.scheduler`."""
    run(command, "minik8s scheduler")


if __name__ == "__main__":
    main()
