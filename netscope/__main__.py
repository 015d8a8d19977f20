"""The `netscope` command. Read next: `netscope/trace.py`."""

from __future__ import annotations

import sys

import click

from netscope.commands import bundle, doctor, explain, flows, map
from nodecore.daemon.entry import run

SSH = "ssh {node} netscope agent"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def command() -> None:
    """See every packet's way through the cluster, and why."""


@command.command()
@click.argument("source")
@click.argument("target")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", help="What the probe speaks.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, help="How long an answer is waited for.")
@click.option("--kubeconfig", default="", help="The cluster's API; KUBECONFIG, where it is not given.")
@click.option("--via", default=SSH, envvar="NETSCOPE_VIA", help="The command that starts an agent on {node}; or NETSCOPE_VIA.")
@click.option("--json", "as_json", is_flag=True, help="Print all that was seen as JSON.")
def trace(source: str, target: str, protocol: str, seconds: float, kubeconfig: str, via: str, *, as_json: bool) -> None:
    """Send one probe from SOURCE to TARGET[:PORT] and show its way. Both are pods, Services, nodes or addresses.

    The exit code is 0 when it was answered, 3 when it was not.
    """
    import asyncio

    import msgspec

    from netscope import cluster, drawing
    from netscope.directory import split_port
    from netscope.flow import PROTOCOLS
    from netscope.trace import Request, parse_family, port_of
    from netscope.trace import run as run_trace

    directory = asyncio.run(cluster.read(kubeconfig))
    name, port = split_port(target)
    number = port_of(port, directory.find(name))
    found = run_trace(Request(source, name, number, PROTOCOLS[protocol], parse_family(name), seconds), directory, via)
    click.echo(msgspec.json.encode(found) if as_json else drawing.draw(found, directory))
    sys.exit(0 if found.verdict.what == "answered" else 3)


@command.command()
@click.argument("places", nargs=-1)
@click.option("-w", "--write", "path", type=click.Path(dir_okay=False, writable=True), required=True, help="The pcapng file.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, help="How long; Ctrl-C ends it before.")
@click.option("--kubeconfig", default="", help="The cluster's API; KUBECONFIG, where it is not given.")
@click.option("--via", default=SSH, envvar="NETSCOPE_VIA", help="The command that starts an agent on {node}; or NETSCOPE_VIA.")
def capture(places: tuple[str, ...], path: str, seconds: float, kubeconfig: str, via: str) -> None:
    """Capture on every interface of every node into one file. With PLACES only what they send or get, inside tunnels as well."""
    import asyncio
    import time
    from contextlib import suppress

    from netscope import cluster
    from netscope.capture.recording import record

    def wait() -> None:
        click.echo(f"capturing on {len(directory.nodes)} nodes for {seconds:g} s; Ctrl-C ends it before", err=True)
        with suppress(KeyboardInterrupt):
            time.sleep(seconds)

    directory = asyncio.run(cluster.read(kubeconfig))
    hosts = [address for place in places for address in directory.find(place).addresses]
    with open(path, "wb") as file:
        lost = record(directory, via, hosts, wait, file)
    click.echo(f"{path}: {lost} packets came too fast and are missing" if lost else f"{path}: nothing was lost")


@command.command(hidden=True)
@click.argument("hosts", nargs=-1)
def tap(hosts: tuple[str, ...]) -> None:
    """A node's side of a capture. Started by the others."""
    from netscope.capture.tapping import tap as run_tap

    run_tap(hosts)


@command.command()
@click.option("--cni-dir", default="/etc/cni/net.d", help="Where this node's CNI configurations are.")
@click.option("--subnet-file", default="/run/flannel/subnet.env", help="Where flannel says which subnet is this node's.")
def agent(cni_dir: str, subnet_file: str) -> None:
    """A node's side: questions on stdin, answers on stdout. Started by the others."""
    from netscope.agent import serve

    serve(cni_dir, subnet_file)


for each in (bundle, doctor, explain, flows, map):
    command.add_command(each.command, each.__name__.rpartition(".")[2])


def main() -> None:
    """Entry point of `netscope`."""
    run(lambda: command(standalone_mode=True), "netscope")


if __name__ == "__main__":
    main()
