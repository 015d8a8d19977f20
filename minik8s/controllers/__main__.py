"""`minik8s controllers`: the command line. Decides nothing; read next: `minik8s/controllers/agent.py`."""

from __future__ import annotations

import socket

import click

from nodecore.daemon.entry import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", default="", metavar="FILE", help="Where the API is and who we are.")
@click.option("--allocate-node-cidrs", is_flag=True, help="Give each node a pod network out of --cluster-cidr.")
@click.option("--cluster-cidr", default="", metavar="CIDR", help="The cluster's pod network, one of each family.")
@click.option("--node-cidr-mask-size", default=24, show_default=True, help="Prefix length of a node's IPv4 pod network.")
@click.option("--node-cidr-mask-size-ipv6", default=64, show_default=True, help="Prefix length of a node's IPv6 pod network.")
@click.option("--node-monitor-grace-period", default="40s", show_default=True, metavar="TIME",
              help="Silence after which a node is unknown.")
@click.option("--leader-elect/--no-leader-elect", default=True, show_default=True, help="Work only while holding the Lease.")
@click.option("--leader-elect-lease-duration", default="15s", show_default=True, metavar="TIME",
              help="How long a Lease counts that is not renewed.")
@click.option("--identity", default="", metavar="NAME", help="Our name in the election.  [default: the host's name]")
@click.option("--healthz-port", default=0, help="Serve /healthz on this loopback port; 0 does not.")
@click.option("-v", "--v", "verbosity", default=0, help="Log verbosity; 4 and up is debugging.")
def command(kubeconfig: str, cluster_cidr: str, node_cidr_mask_size: int, node_cidr_mask_size_ipv6: int,
            node_monitor_grace_period: str, leader_elect_lease_duration: str, identity: str, healthz_port: int,
            verbosity: int, **flags: bool) -> None:
    """Run the controllers: Deployments, endpoints, node health and the like."""
    import asyncio

    from nodecore.daemon import logs
    from nodecore.daemon.heap import stay_small

    stay_small()
    from nodecore.duration import parse_duration
    from nodecore.kube.election import lease_duration

    from . import agent

    logs.setup(verbosity)
    networks, prefixes = (agent.cluster_networks(cluster_cidr, node_cidr_mask_size, node_cidr_mask_size_ipv6)
                          if flags["allocate_node_cidrs"] else ((), ()))
    grace = parse_duration(node_monitor_grace_period, what="--node-monitor-grace-period")
    settings = agent.Settings(kubeconfig, identity or socket.gethostname(), networks, prefixes, grace, healthz_port,
                              flags["leader_elect"], lease_duration(leader_elect_lease_duration))
    asyncio.run(agent.run(settings))


def main() -> None:
    """Entry point of `python -m minik8s.controllers`."""
    run(command, "minik8s controllers")


if __name__ == "__main__":
    main()
