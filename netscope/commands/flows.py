"""`netscope flows`: who talks to whom, now or for as long as one looks. Read next: `netscope/flows.py`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from netscope.commands.looking import KUBECONFIG, VIA

if TYPE_CHECKING:
    from netscope.flows import Row
    from netscope.records import Flows

SECONDS, NAMES = 20.0, 30.0  # that an answer may take; after which the API is asked anew who is who
LOOPBACK, LAST_PORT = "127.0.0.1", 65535
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
@click.option("--listen", default="", metavar="[HOST:]PORT",
              help="Go on, and answer Prometheus there at /metrics; without a host only on this machine.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "prometheus"]), default="table", show_default=True,
              help="A table, one JSON object a line for each connection, or metrics.")
@KUBECONFIG
@VIA
def command(source: str, target: str, protocol: str | None, verdict: str | None, every: float, looks: int | None, listen: str,
            output: str, kubeconfig: str, via: str, *, tunnels: bool, follow: bool) -> None:
    """Show every connection that the nodes know: who began it, whom it asked for, who answers, and how it stands."""
    from netscope import cluster
    from netscope.flowmetrics import metrics
    from netscope.flows import Filter, Ledger, place_of
    from netscope.nodes import Nodes
    from netscope.records import Watch
    from nodecore.errors import Fault

    directory = cluster.read(kubeconfig)
    ends = place_of(directory, source, "--from"), place_of(directory, target, "--to")
    wanted = Filter(*ends, protocol or "", verdict or "", tunnels=tunnels)
    ledger, latest = Ledger.new(directory), [""]
    if listen:
        answer(listen, latest)
    with suppress(KeyboardInterrupt), Nodes(directory.nodes, via) as nodes:
        read = time.monotonic()
        for look in itertools.count():
            if time.monotonic() - read > NAMES:
                with suppress(Fault):  # the API is away: names are as they were
                    ledger.learn(cluster.read(kubeconfig))
                read = time.monotonic()
            told = _told(nodes.ask_each(Watch(), SECONDS))
            rows = ledger.rows(told, wanted, time.monotonic())
            latest[0] = metrics(rows, told, ledger.lost, directory) if listen or output == "prometheus" else ""
            if not listen:
                show(rows, output, latest[0], follow=follow)
            for node in (node for node, flows in told.items() if flows.lost):
                click.echo(f"{node}: some connections ended too fast to be told: the kernel had no room", err=True)
            if not (follow or listen) or (looks and look + 1 >= looks):
                break
            time.sleep(every)


def _told(answers: Mapping[str, object]) -> dict[str, Flows]:
    from netscope.records import Flows

    for name, answer in sorted(answers.items()):
        if not isinstance(answer, Flows):
            click.echo(f"nothing is known of {name}: {answer}", err=True)
    return {name: answer for name, answer in answers.items() if isinstance(answer, Flows)}


def answer(listen: str, latest: list[str]) -> None:
    """Answer Prometheus from now on, with the latest look."""
    from netscope.directory import split_port
    from nodecore.daemon.health import Reply, serve
    from nodecore.errors import UserError

    host, port = ("", listen) if listen.isdigit() else split_port(listen)
    if not port or int(port) > LAST_PORT:
        raise UserError(f"--listen: {listen!r} is neither PORT nor HOST:PORT")
    host = host or LOOPBACK
    if not is_loopback(host):
        click.echo(f"--listen: whoever reaches {host} can read who talks to whom: nobody is asked for a password", err=True)

    def reply() -> Reply:
        return Reply(latest[0] + "\n", content_type="text/plain; version=0.0.4")

    serve(host, int(port), {"/metrics": reply}, what="--listen")
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"answering Prometheus at http://{shown}:{port}/metrics; Ctrl-C ends it", err=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    from nodecore.errors import UserError
    from nodecore.net import parse_address

    try:
        return parse_address(host).is_loopback
    except UserError:
        return host == "localhost"


def show(rows: list[Row], output: str, page: str, *, follow: bool) -> None:
    """One look; on a terminal that is followed, the busiest that it has room for."""
    import shutil
    import sys

    import msgspec

    from netscope import flows

    match output:
        case "json":
            for row in rows:
                click.echo(msgspec.json.encode(row).decode())
        case "prometheus":
            click.echo(page)
        case _ if follow and sys.stdout.isatty():
            width, height = shutil.get_terminal_size()
            lines = flows.draw(flows.busiest(rows)[: height - 3]).splitlines()
            more = len(rows) - (height - 3)
            lines += [f"and {more:,} more"] if more > 0 else []
            click.echo(CLEAR + "\n".join(line[:width] for line in lines))
        case _:
            click.echo(flows.draw(rows))
