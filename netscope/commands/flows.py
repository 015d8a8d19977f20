"""`netscope flows`: who talks to whom, now or for as long as one looks. Read next: `netscope/flows.py`."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import click

from netscope.commands.looking import KUBECONFIG, VIA

if TYPE_CHECKING:
    from netscope.flows import Row

SECONDS = 20.0
CLEAR = "\x1b[H\x1b[2J"


@click.command()
@click.option("--from", "source", default="", metavar="WHO", help="Only what this pod, node or address began.")
@click.option("--to", "target", default="", metavar="WHO", help="Only what goes to this pod, Service, node or address.")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp", "icmp", "icmpv6"]), help="Only these.")
@click.option("--verdict", type=click.Choice(["answered", "unanswered", "reset", "ended"]), help="Only those that stand so.")
@click.option("--tunnels", is_flag=True, help="The tunnels' own packets as well.")
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--every", type=click.FloatRange(0.2), default=2.0, show_default=True, help="With --follow: how often, in seconds.")
@click.option("--looks", type=click.IntRange(1), help="With --follow: end after so many looks.")
@click.option("--listen", default="", metavar="HOST:PORT", help="Go on, and answer Prometheus there at /metrics.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "prometheus"]), default="table", show_default=True,
              help="A table, one JSON object a line for each connection, or metrics.")
@KUBECONFIG
@VIA
def command(source: str, target: str, protocol: str | None, verdict: str | None, every: float, looks: int | None, listen: str,
            output: str, kubeconfig: str, via: str, *, tunnels: bool, follow: bool) -> None:
    """Show every connection that the nodes know: who began it, whom it asked for, who answers, and how it stands."""
    from netscope import cluster
    from netscope.flows import Filter, Ledger, metrics, place_of
    from netscope.nodes import Nodes
    from netscope.records import Flows, Watch

    directory = cluster.read(kubeconfig)
    ends = place_of(directory, source, "--from"), place_of(directory, target, "--to")
    wanted = Filter(*ends, protocol or "", verdict or "", tunnels=tunnels)
    ledger, latest = Ledger.new(directory), [""]
    if listen:
        answer(listen, latest)
    with Nodes(directory.nodes, via) as nodes:
        for look in itertools.count():
            answers = nodes.ask_each(Watch(), SECONDS)
            told = {name: answer for name, answer in answers.items() if isinstance(answer, Flows)}
            for name in sorted(set(answers) - set(told)):
                click.echo(f"nothing is known of {name}: {answers[name]}", err=True)
            rows = ledger.rows(told, wanted, time.monotonic())
            lost = any(flows.lost for flows in told.values())
            latest[0] = metrics(rows, lost=lost)
            if not listen:
                show(rows, output, lost=lost, clear=follow and look > 0)
            if not (follow or listen) or (looks and look + 1 >= looks):
                break
            time.sleep(every)


def answer(listen: str, latest: list[str]) -> None:
    """Answer Prometheus from now on, with the latest look."""
    from netscope.directory import split_port
    from nodecore.daemon.health import Reply, serve
    from nodecore.errors import UserError

    host, port = split_port(listen)
    if not port:
        raise UserError(f"--listen: {listen!r} is not HOST:PORT")
    def reply() -> Reply:
        return Reply(latest[0] + "\n", content_type="text/plain; version=0.0.4")

    serve(host, int(port), {"/metrics": reply}, what="--listen")


def show(rows: list[Row], output: str, *, lost: bool, clear: bool) -> None:
    """One look."""
    import sys

    import msgspec

    from netscope import flows

    match output:
        case "json":
            for row in rows:
                click.echo(msgspec.json.encode(row).decode())
        case "prometheus":
            click.echo(flows.metrics(rows, lost=lost))
        case _:
            click.echo((CLEAR if clear and sys.stdout.isatty() else "") + flows.draw(rows))
            if lost:
                click.echo("some connections began or ended too fast to be told: the kernel had no room", err=True)
