"""Puts flannel's network configuration into etcd: a job of the first node's init.

    python -m minik8s.lab.network DOCUMENT --etcd-servers URL[,URL] --etcd-cafile F --etcd-certfile F --etcd-keyfile F

Read next: `nodecore/etcd/client.py`.
"""

from __future__ import annotations

import asyncio

import click

from nodecore.daemon.entry import run
from nodecore.etcd.client import EtcdClient, EtcdConfig

KEY = "/coreos.com/network/config"


async def put_config(config: EtcdConfig, document: bytes) -> None:
    """Write the configuration where it is not there already."""
    async with EtcdClient(config) as client:
        there = await client.get(KEY)
        if there is None or there.value != document:
            await client.put(KEY, document)


@click.command()
@click.argument("document")
@click.option("--etcd-servers", required=True)
@click.option("--etcd-cafile", required=True)
@click.option("--etcd-certfile", required=True)
@click.option("--etcd-keyfile", required=True)
def command(document: str, etcd_servers: str, etcd_cafile: str, etcd_certfile: str, etcd_keyfile: str) -> None:
    """Put the network configuration for flanneld into etcd."""
    config = EtcdConfig(tuple(etcd_servers.split(",")), ca=etcd_cafile, cert=etcd_certfile, key=etcd_keyfile)
    asyncio.run(put_config(config, document.encode()))


if __name__ == "__main__":
    run(command, "network")
