"""The command `minik8s restore`: a backup's state into etcd. Read next: `minik8s/backup/state.py`."""

from __future__ import annotations

import click

from minik8s.backup.options import etcd_flags
from nodecore.daemon.entry import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@etcd_flags
@click.option("--force", is_flag=True, help="Put the backup in the place of what etcd holds.")
def command(etcd_servers: str, etcd_cafile: str, etcd_certfile: str, etcd_keyfile: str, file: str, *, force: bool) -> None:
    """Write the state in FILE into etcd, whose API servers must not run meanwhile."""
    import asyncio
    from pathlib import Path

    from minik8s.backup.state import restore
    from nodecore.etcd.client import EtcdClient, EtcdConfig, parse_endpoints

    async def work() -> None:
        endpoints = parse_endpoints(etcd_servers, what="--etcd-servers")
        async with EtcdClient(EtcdConfig(endpoints, etcd_cafile, etcd_certfile, etcd_keyfile)) as etcd:
            count, revision = await restore(etcd, Path(file), force=force)
            click.echo(f"{file}: {count} keys written, etcd is at revision {revision}")

    asyncio.run(work())


def main() -> None:
    """Entry point of `python -m minik8s.restore`."""
    run(command, "minik8s restore")


if __name__ == "__main__":
    main()
