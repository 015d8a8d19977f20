"""The command: `minik8s apiserver`, with kube-apiserver's names for the flags it has.

Heavy imports wait until the command runs. Read next: `config.py`, `server.py`.
"""

from __future__ import annotations

import click

from nodecore.daemon.entry import run

ISSUER = "https://kubernetes.default.svc.cluster.local"

@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--etcd-servers", default="http://127.0.0.1:2379", show_default=True, help="etcd's endpoints, comma-separated.")
@click.option("--etcd-cafile", default="", help="CA that etcd's certificate is from.")
@click.option("--etcd-certfile", default="", help="Our client certificate for etcd.")
@click.option("--etcd-keyfile", default="", help="Its key.")
@click.option("--bind-address", default="0.0.0.0", show_default=True, help="Address to serve on, beside inherited sockets.")
@click.option("--secure-port", default=6443, show_default=True, type=click.IntRange(0, 65535), help="Port to serve on.")
@click.option("--advertise-address", default="", help="Address at which the cluster reaches this server.")
@click.option("--cert-dir", default="/var/run/kubernetes", show_default=True, help="Where our own certificates are, if need be.")
@click.option("--tls-cert-file", default="", help="Our serving certificate; one of our own.")
@click.option("--tls-private-key-file", default="", help="Its key.")
@click.option("--client-ca-file", default="", help="CA that clients' certificates are from.")
@click.option("--token-auth-file", default="", help="Static tokens, a line each: token,user,uid[,groups].")
@click.option("--anonymous-auth/--no-anonymous-auth", default=True, show_default=True, help="Answer who says no name.")
@click.option("--service-account-issuer", default=ISSUER, show_default=True, help="Who ServiceAccount tokens say they are from.")
@click.option("--api-audiences", default="", help="Audiences tokens must be for, comma-separated; the issuer.")
@click.option("--service-account-signing-key-file", default="", help="Key that signs tokens; one kept in etcd.")
@click.option("--service-account-key-file", multiple=True, help="Another key tokens may be signed with; repeatable.")
@click.option("--root-ca-file", default="", help="CA that pods are told to trust; that of --client-ca-file.")
@click.option("--encryption-provider-config", default="", help="EncryptionConfiguration: what is sealed in etcd, and with what.")
@click.option("--audit-policy-file", default="", help="What is written into the audit log; nothing.")
@click.option("--audit-log-path", default="", help="Where the audit log is; - is standard output.")
@click.option("--audit-log-maxsize", default=100, show_default=True, type=click.IntRange(1), help="Its size in MB at most.")
@click.option("--audit-log-maxbackup", default=3, show_default=True, type=click.IntRange(0), help="How many older ones are kept.")
@click.option("--cluster-signing-cert-file", default="", help="CA that certificate requests are signed by; none are.")
@click.option("--cluster-signing-key-file", default="", help="Its key.")
@click.option("--cluster-signing-duration", default="8760h0m0s", show_default=True, help="How long such certificates are good.")
@click.option("--service-cluster-ip-range", default="10.96.0.0/16", show_default=True, help="Cluster IPs; two for dual stack.")
@click.option("--service-node-port-range", default="30000-32767", show_default=True, help="Node ports to give out.")
@click.option("--kubelet-client-certificate", default="", help="Our client certificate for kubelets.")
@click.option("--kubelet-client-key", default="", help="Its key.")
@click.option("--kubelet-certificate-authority", default="", help="CA that kubelets' certificates are from.")
@click.option("--cache-dir", default="/var/cache/minik8s", show_default=True, help="Where schema files are kept.")
@click.option("--event-ttl", default="1h0m0s", show_default=True, help="How long an Event is kept.")
@click.option("--max-requests-inflight", default=400, show_default=True, type=click.IntRange(0), help="Reads at once; 0: any.")
@click.option("--max-mutating-requests-inflight", default=200, show_default=True, type=click.IntRange(0), help="Writes at once.")
@click.option("--max-requests-per-second", default=20000, show_default=True, type=click.IntRange(0), help="Of a user; 0: any.")
@click.option("--max-anonymous-requests-per-second", default=400, show_default=True, type=click.IntRange(0),
              help="Of an address that does not say who it is; 0: any.")
@click.option("--request-timeout", default="1m0s", show_default=True, help="Longest time for what is no watch or stream.")
@click.option("--shutdown-delay-duration", default="0s", show_default=True, help="Time to serve on, unready, once told to end.")
@click.option("-v", "--v", "verbosity", default=0, show_default=True, help="Verbosity of the log; 4 and up is debugging.")
def command(verbosity: int, **flags: object) -> None:
    """Serve the Kubernetes API out of etcd."""
    import asyncio
    import os

    from nodecore.daemon.heap import stay_small

    stay_small()
    os.environ["SSL_CERT_FILE"] = os.devnull  # our HTTP library reads the host's CAs when imported: 2 MB for nothing

    from minik8s.apiserver.config import Flags
    from minik8s.apiserver.server import serve
    from nodecore.daemon.logs import setup

    setup(verbosity)
    asyncio.run(serve(Flags(**flags)))  # type: ignore[arg-type]


def main() -> None:
    """Entry point of `python -m minik8s.apiserver`."""
    run(command, "minik8s apiserver")


if __name__ == "__main__":
    main()
