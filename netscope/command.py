"""The `netscope` command and its options. Read next: `netscope/trace.py`; `netscope/commands/`."""

from __future__ import annotations

import sys

import click

from netscope import CNI_DIRECTORY, SUBNET_FILE
from netscope.commands import bundle, capture, doctor, explain, flows, map

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
@click.option("--cni-dir", default=CNI_DIRECTORY, help="Where this node's CNI configurations are.")
@click.option("--subnet-file", default=SUBNET_FILE, help="Where flannel says which subnet is this node's.")
def agent(cni_dir: str, subnet_file: str) -> None:
    """A node's side: questions on stdin, answers on stdout. Started by the others."""
    from netscope.agent import serve

    serve(cni_dir, subnet_file)


for each in (bundle, capture, doctor, explain, flows, map):
    command.add_command(each.command, each.__name__.rpartition(".")[2])
command.add_command(capture.tap)
