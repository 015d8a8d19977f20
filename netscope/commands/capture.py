"""`netscope capture`: packets of many nodes in one file; and `tap`, a node's side of it.

Read next: `netscope/capture/command.py`.
"""

from __future__ import annotations

from typing import Any

import click

from netscope.commands.looking import KUBECONFIG, VIA


@click.command()
@click.argument("places", nargs=-1)
@click.option("-w", "--write", "path", type=click.Path(dir_okay=False, writable=True, allow_dash=True), required=True,
              help="The pcapng file; `-` for stdout, for Wireshark or tcpdump to read along.")
@click.option("-f", "--filter", "inner", default="", metavar="EXPRESSION",
              help="As for tcpdump, but asked of the innermost packet: in a tunnel of what is inside.")
@click.option("--outer-filter", "outer", default="", metavar="EXPRESSION", help="The same asked of the outermost one.")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp", "icmp"]), default=None, help="Only this.")
@click.option("--port", type=click.IntRange(1, 65535), multiple=True, help="Only from or to this port; can be repeated.")
@click.option("--on", "nodes", multiple=True, metavar="NODE", help="Only on this node; can be repeated.")
@click.option("--host", "hosts", multiple=True, metavar="HOST",
              help="No cluster: on this machine, and no API is asked; can be repeated.")
@click.option("--snaplen", type=click.IntRange(64, 262144), default=262144, help="Take only so many bytes of each packet.")
@click.option("--seconds", type=click.FloatRange(0.1), default=None,
              help="How long, 10; with --live, to stdout or with --freeze-on until Ctrl-C, which always ends it before.")
@click.option("--live", is_flag=True, help="Write while packets come, not at the end; always so to stdout and into many files.")
@click.option("--file-mb", type=click.FloatRange(0), default=0, help="Begin another file when this one is so large.")
@click.option("--file-seconds", type=click.FloatRange(0), default=0, help="The same when it is so old.")
@click.option("--files", type=click.IntRange(0), default=0, help="Keep the newest files, so many; 0 keeps all.")
@click.option("--ring-mb", type=click.FloatRange(0), default=0, help="Each node keeps its last packets, so much of them.")
@click.option("--ring-packets", type=click.IntRange(0), default=0, help="The same by their number.")
@click.option("--ring-seconds", type=click.FloatRange(0), default=0, help="The same by their age.")
@click.option("--freeze-on", default="", help="'sync failure|probe failure|rst', or one: end at it, with what led up to it.")
@click.option("--after", type=click.FloatRange(0), default=1.0, help="How long to go on after that fault.")
@click.option("--metrics", multiple=True, default=["http://127.0.0.1:10249/metrics"],
              help="Where a node's agents count their failed syncs; can be repeated.")
@KUBECONFIG
@VIA
def command(places: tuple[str, ...], hosts: tuple[str, ...], nodes: tuple[str, ...], kubeconfig: str, **options: Any) -> None:
    """Capture on every interface of every node into one file. With PLACES only what they send or get, inside tunnels as well."""
    from netscope import cluster
    from netscope.capture.command import Options, checked, run
    from netscope.directory import of_hosts

    wanted = checked(Options(kubeconfig=kubeconfig, **options), without_cluster=bool(hosts))
    directory = of_hosts(hosts) if hosts else cluster.read(kubeconfig)
    on = directory.only(nodes, "--on") if nodes else directory.nodes
    run(wanted, directory, [directory.find(place) for place in places], on)


@click.command(hidden=True)
def tap() -> None:
    """A node's side of a capture. Started by the others."""
    from netscope.capture.tapping import tap as run_tap

    run_tap()
