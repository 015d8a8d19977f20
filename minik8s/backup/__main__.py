"""The command `minik8s backup`: the whole state into one file. Read next: `state.py`."""

from __future__ import annotations

import click

from minik8s.backup.options import etcd_flags
from nodecore.daemon.entry import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@etcd_flags
@click.option("--prefix", default="/registry/", show_default=True, help="What the keys begin with.")
def command(etcd_servers: str, etcd_cafile: str, etcd_certfile: str, etcd_keyfile: str, file: str, prefix: str) -> None:
    """Write the state of the cluster, as it is in etcd at one moment, to FILE; the cluster goes on."""
    import asyncio
    from pathlib import Path

    from minik8s.backup.state import backup
    from nodecore.etcd.client import EtcdClient, EtcdConfig, parse_endpoints

    async def work() -> None:
        endpoints = parse_endpoints(etcd_servers, what="--etcd-servers")
        async with EtcdClient(EtcdConfig(endpoints, etcd_cafile, etcd_certfile, etcd_keyfile)) as etcd:
            head = await backup(etcd, Path(file), prefix)
            click.echo(f"{file}: the keys below {prefix} at revision {head.revision}")

    asyncio.run(work())


def main() -> None:
    """Entry point of `python -m minik8s.backup`."""
    run(command, "minik8s backup")


if __name__ == "__main__":
    main()
