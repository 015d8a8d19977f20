"""`minik8s kubelet`: the command.

Read next: `minik8s/kubelet/agent.py`.
"""

from __future__ import annotations

import click


@click.command("kubelet", help="Run the pods bound to this node in a container runtime.")
@click.option("--kubeconfig", default="", metavar="FILE", help="How to reach the API.")
@click.option("--hostname-override", default="", metavar="NAME", help="This node's name.")
@click.option("--node-ip", default="", metavar="IP[,IP]", help="This node's address, or one of each family.")
@click.option("--container-runtime-endpoint", default="unix:///run/containerd/containerd.sock", show_default=True, metavar="URL",
              help="The runtime's CRI socket.")
@click.option("--tls-cert-file", default="", metavar="FILE", help="Serving certificate.")
@click.option("--tls-private-key-file", default="", metavar="FILE", help="Its key.")
@click.option("--client-ca-file", default="", metavar="FILE", help="The CA whose client certificates may ask.")
@click.option("--address", default="0.0.0.0", show_default=True, metavar="IP", help="Where to listen.")
@click.option("--port", default=10250, show_default=True, help="The port to listen on.")
@click.option("--root-dir", default="/var/lib/kubelet", show_default=True, metavar="DIR", help="Volumes and pod files.")
@click.option("--pod-log-dir", default="/var/log/pods", show_default=True, metavar="DIR", help="Container logs.")
@click.option("--cgroup-root", default="", metavar="/NAME", help="Where pods' cgroups are made; empty = the runtime's choice.")
@click.option("--cluster-dns", multiple=True, metavar="IP", help="DNS server for pods with dnsPolicy ClusterFirst.")
@click.option("--cluster-domain", default="cluster.local", show_default=True, help="The cluster's DNS domain.")
@click.option("--max-pods", default=110, show_default=True, help="How many pods this node takes.")
@click.option("--container-log-max-size", default="10Mi", show_default=True, metavar="SIZE", help="Rotate larger log files.")
@click.option("--container-log-max-files", default=5, show_default=True, metavar="N", help="Log files kept of a container.")
@click.option("--node-labels", default="", metavar="K=V,...", help="Labels to register with.")
@click.option("--cleanup", is_flag=True, help="Remove all pods, their volumes and logs from this machine, and exit.")
@click.option("-v", "--v", "verbosity", default=0, show_default=True, help="Log verbosity; 4 and up is debugging.")
def command(verbosity: int, *, cleanup: bool, cluster_dns: tuple[str, ...], **flags: str | int) -> None:
    """Read the flags, then live until told to stop."""
    import asyncio
    import os

    from nodecore.daemon import logs
    from nodecore.daemon.heap import stay_small

    from .config import Config

    config = Config(**flags, cluster_dns=tuple(cluster_dns))  # type: ignore[arg-type]
    logs.setup(verbosity)
    if cleanup:
        from .cleanup import clean_up

        return asyncio.run(clean_up(config))
    config.check()

    stay_small()
    os.environ["SSL_CERT_FILE"] = os.devnull  # the HTTP library reads the host's CAs when imported: 2 MB for nothing
    from .agent import run

    return asyncio.run(run(config))


if __name__ == "__main__":
    from nodecore.daemon.entry import run as run_command

    run_command(command, "minik8s kubelet")
