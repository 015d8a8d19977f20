"""The `netscope` command and its options. Read next: `netscope/trace.py`; `netscope/commands/`."""

from __future__ import annotations

import sys
from typing import Any

import click

from netscope import CNI_DIRECTORY, SUBNET_FILE
from netscope.commands import bundle, doctor, explain, flows, map

SSH = "ssh {node} netscope agent"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def command() -> None:
    """See every packet's way through the cluster, and why."""


@command.command()
@click.argument("source")
@click.argument("target")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp", "icmp"]), default="tcp", help="What the probe speaks.")
@click.option("--family", type=click.Choice(["ipv4", "ipv6"]), default=None, help="Of names that have both; ipv4.")
@click.option("--live", is_flag=True, help="Send nothing: follow what SOURCE sends to TARGET, and tell each flow once.")
@click.option("--dropped", is_flag=True, help="The same, but tell only what got no answer.")
@click.option("--seconds", type=click.FloatRange(0.1), default=None,
              help="How long an answer is waited for, 2; with --live how long it follows, 20.")
@click.option("--kubeconfig", default="", help="The cluster's API; KUBECONFIG, where it is not given.")
@click.option("--via", default=SSH, envvar="NETSCOPE_VIA", help="The command that starts an agent on {node}; or NETSCOPE_VIA.")
@click.option("--json", "as_json", is_flag=True, help="Print all that was seen as JSON, a line for each flow.")
def trace(source: str, target: str, protocol: str, family: str | None, seconds: float | None, kubeconfig: str, via: str, *,
          live: bool, dropped: bool, as_json: bool) -> None:
    """Send one probe from SOURCE to TARGET[:PORT] and show its way. Both are pods, Services, nodes or addresses.

    The exit code is 0 when all was answered, 3 when something was not.
    """
    import msgspec

    from netscope import cluster, drawing
    from netscope.directory import split_port
    from netscope.flow import PROTOCOLS
    from netscope.trace import Request, parse_family, port_of
    from netscope.trace import run as run_trace

    directory = cluster.read(kubeconfig)
    name, port = split_port(target)
    number = port_of(port, directory.find(name), PROTOCOLS[protocol])
    follows = live or dropped
    request = Request(source, name, number, PROTOCOLS[protocol], parse_family(family or "", name, source),
                      seconds or (20.0 if follows else 2.0))
    if follows:
        from netscope.live import follow

        stories = follow(request, directory, via, dropped=dropped)
    else:
        stories = run_trace(request, directory, via)
    answered = True
    for found in stories:
        click.echo(msgspec.json.encode(found) if as_json else drawing.draw(found, directory) + "\n" * follows)
        answered &= found.verdict.what == "answered"
    sys.exit(0 if answered else 3)


@command.command()
@click.argument("places", nargs=-1)
@click.option("-w", "--write", "path", type=click.Path(dir_okay=False, writable=True, allow_dash=True), required=True,
              help="The pcapng file; `-` for stdout, for Wireshark or tcpdump to read along.")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp", "icmp"]), default=None, help="Only this.")
@click.option("--port", type=click.IntRange(1, 65535), multiple=True, help="Only from or to this port; can be repeated.")
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
@click.option("--kubeconfig", default="", help="The cluster's API; KUBECONFIG, where it is not given.")
@click.option("--via", default=SSH, envvar="NETSCOPE_VIA", help="The command that starts an agent on {node}; or NETSCOPE_VIA.")
def capture(places: tuple[str, ...], kubeconfig: str, **options: Any) -> None:
    """Capture on every interface of every node into one file. With PLACES only what they send or get, inside tunnels as well."""
    from netscope import cluster
    from netscope.capture.command import Options, checked, run

    wanted = checked(Options(kubeconfig=kubeconfig, **options))
    directory = cluster.read(kubeconfig)
    run(wanted, directory, [address for place in places for address in directory.find(place).addresses])


@command.command(hidden=True)
@click.argument("hosts", nargs=-1)
@click.option("--protocol", default="", help="Only this.")
@click.option("--port", type=int, multiple=True, help="Only from or to this port.")
@click.option("--ring", default="", help="Keep so many bytes, packets and seconds back, until the end.")
@click.option("--live", is_flag=True, help="Tell news while it runs.")
@click.option("--resets", is_flag=True, help="Tell of connections that are reset.")
@click.option("--metrics", multiple=True, help="Tell of failures that are counted there.")
def tap(hosts: tuple[str, ...], protocol: str, port: tuple[int, ...], ring: str, metrics: tuple[str, ...], *,
        live: bool, resets: bool) -> None:
    """A node's side of a capture. Started by the others."""
    from netscope.capture.keeping import Limits
    from netscope.capture.tapping import Wish
    from netscope.capture.tapping import tap as run_tap

    size, count, seconds = ring.split(",") if ring else ("0", "0", "0")
    limits = Limits(int(size), int(count), float(seconds)) if ring else None
    run_tap(Wish(hosts, protocol, port, limits, live=live, resets=resets, metrics=metrics))


@command.command()
@click.option("--cni-dir", default=CNI_DIRECTORY, help="Where this node's CNI configurations are.")
@click.option("--subnet-file", default=SUBNET_FILE, help="Where flannel says which subnet is this node's.")
def agent(cni_dir: str, subnet_file: str) -> None:
    """A node's side: questions on stdin, answers on stdout. Started by the others."""
    from netscope.agent import serve

    serve(cni_dir, subnet_file)


for each in (bundle, doctor, explain, flows, map):
    command.add_command(each.command, each.__name__.rpartition(".")[2])
