"""The `lab` command: a whole cluster on this machine. `./lab` prepares the machine and calls this.

Read next: `minik8s/lab/up.py`.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from nodecore.daemon.entry import run

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _state(name: str) -> Any:
    from minik8s.lab.config import check_name
    from minik8s.lab.state import State

    return State(check_name(name))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--name", default="lab", help="Which lab; several can run side by side.")
@click.pass_context
def command(context: click.Context, name: str) -> None:
    """A whole cluster on this machine: every node a set of namespaces, the API on the host's loopback."""
    context.obj = name


def named(function: Any) -> Any:
    """Accept --name after the sub-command as well."""
    return click.option("--name", "own_name", default=None, help="Which lab.")(function)


@command.command()
@click.option("--nodes", type=int, default=None, help="How many nodes, 1 to 20.  [default: 3]")
@click.option("--families", default=None, help="Addresses: ipv4, ipv6 or dual.  [default: ipv4]")
@click.option("--backend", default=None, help="flannel's backend.  [default: vxlan]")
@click.option("--flannel-store", default=None, help="Where flannel keeps leases: etcd or kube.  [default: etcd]")
@click.option("--proxy-mode", default=None, help="The Service proxy's mode.  [default: nftables]")
@click.option("--pod-cidr", default=None, help="The pods' network, one a family.  [default: 10.244.0.0/16,fd00:10:244::/56]")
@click.option("--service-cidr", default=None, help="The Services' network.  [default: 10.96.0.0/16,fd00:10:96::/112]")
@click.option("--api-port", type=int, default=None, help="The API's port on 127.0.0.1.  [default: the first free one from 6443]")
@click.option("--etcd-members", type=int, default=None, help="etcd members, 1 or 3.  [default: 1]")
@click.option("--timeout", "patience", type=click.FloatRange(min=1), default=90.0, help="Seconds that each step may take.")
@named
@click.pass_obj
def up(name: str, /, own_name: str | None, patience: float, **options: Any) -> None:
    """Bring the lab up; on a lab that runs it changes nothing."""
    from minik8s.lab.up import up as bring_up

    bring_up(_state(own_name or name), {key: value for key, value in options.items() if value is not None},
             patience=patience)


@command.command()
@named
@click.pass_obj
def down(name: str, own_name: str | None) -> None:
    """Take the lab away; nothing of it stays."""
    from minik8s.lab.down import down as take_down

    take_down(_state(own_name or name))


@command.command()
@named
@click.pass_obj
def status(name: str, own_name: str | None) -> None:
    """Show nodes and agents with their memory, restarts and readiness; exit code 1 when something is not ready."""
    from minik8s.lab.status import status as read_status

    text, good = read_status(_state(own_name or name))
    click.echo(text)
    sys.exit(0 if good else 1)


@command.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl as the lab's administrator."""
    from minik8s.lab.enter import kubectl as become_kubectl

    become_kubectl(_state(name), list(arguments))


@command.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def netscope(name: str, arguments: tuple[str, ...]) -> None:
    """Look into this lab: netscope trace POD SERVICE:PORT."""
    from minik8s.lab.enter import netscope as become_netscope

    become_netscope(_state(name), list(arguments))


@command.command("exec", context_settings=PASS_ON)
@click.argument("node")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(name: str, node: str, argv: tuple[str, ...]) -> None:
    """Run a command inside a node (or inside `switch`): exec NODE -- CMD."""
    from minik8s.lab.enter import exec_in

    exec_in(_state(name), node, list(argv[1:] if argv[0] == "--" else argv))


@command.command()
@click.argument("node")
@click.argument("agent")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written.")
@named
@click.pass_obj
def logs(name: str, own_name: str | None, node: str, agent: str, *, follow: bool) -> None:
    """Print an agent's log."""
    from minik8s.lab.enter import logs as become_tail

    become_tail(_state(own_name or name), node, agent, follow=follow)


@command.command()
@click.argument("node")
@click.argument("agent")
@click.option("--signal", "signal_name", default="TERM", help="What to send: TERM, KILL, ...")
@named
@click.pass_obj
def restart(name: str, own_name: str | None, node: str, agent: str, signal_name: str) -> None:
    """Restart an agent and wait until it is ready again."""
    from minik8s.lab import control
    from minik8s.lab.enter import holder
    from nodecore.errors import UserError

    number = _signal(signal_name)
    if number is None:
        raise UserError(f"--signal: {signal_name!r} is not a signal")
    state = _state(own_name or name)
    holder(state, node)
    control.restart(state.node(node).path, agent, number)


@command.command()
@click.option("--timeout", "patience", type=click.FloatRange(min=1), default=120.0, help="Seconds the pods may take to run.")
@named
@click.pass_obj
def demo(name: str, own_name: str | None, patience: float) -> None:
    """Deploy web pods and a Service, let everybody fetch it, and show a packet on the underlay."""
    from minik8s.lab.demo import demo as show

    show(_state(own_name or name), patience)


@command.command()
@click.argument("measurement", metavar="[NAME]", required=False)
@click.option("--json", "json_path", default=None, help="Write the figures to this file.")
def bench(measurement: str | None, json_path: str | None) -> None:
    """Measure: up, throughput, idle and others (see bench/); without NAME all of them."""
    from minik8s.lab.benches import bench as measure

    measure(measurement, json_path)


@command.command(context_settings=PASS_ON)
@click.option("--fast", is_flag=True, help="Only what needs no whole cluster and no containers.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(fast: bool, arguments: tuple[str, ...]) -> None:  # noqa: FBT001
    """Run the tests: on every core, then those that bring up whole clusters. Arguments go to pytest, in one run then."""
    from minik8s.lab.testing import run

    sys.exit(run(arguments, fast=fast))


@command.group()
def vms() -> None:
    """The cluster on virtual machines, by Vagrant and libvirt (vagrant/Vagrantfile)."""


@vms.command("prepare")
@click.option("--box/--no-box", "with_box", default=True, help="Make the box as well.")
def prepare_vms(*, with_box: bool) -> None:
    """Make what the machines are given: packages of this checkout, images, CA and token, the box."""
    from minik8s.lab.vms import prepare

    prepare(with_box=with_box)


@vms.command("up")
@click.option("--nodes", type=int, default=None, help="How many machines, the control plane's included.  [default: 2]")
@click.option("--memory", type=int, default=None, help="MiB of each.  [default: 1280]")
@click.option("--cpus", type=int, default=None, help="Virtual CPUs of each.  [default: 2]")
@click.option("--backend", default=None, help="flannel's backend.  [default: vxlan]")
@click.option("--proxy-mode", default=None, help="The Service proxy's mode.  [default: nftables]")
@click.option("--box", default=None, help="Another box than the one made here, of Debian 12.")
@click.option("--driver", default=None, help="kvm or qemu (software).  [default: kvm where it boots a kernel]")
def up_vms(**given: Any) -> None:
    """Bring the machines up; on machines that run it changes nothing."""
    from minik8s.lab.vms import Vms, up

    up(Vms.here(), {name.upper(): str(value) for name, value in given.items() if value is not None})


@vms.command("test")
@click.option("--reboot/--no-reboot", default=False, help="Reboot every machine as well, and say how long it is missed.")
def test_vms(*, reboot: bool) -> None:
    """Ask of the machines what a cluster must do."""
    from minik8s.lab.vms import Vms
    from minik8s.lab.vmtest import test

    test(Vms.here(), reboot=reboot)


@vms.command("run", context_settings=PASS_ON)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def run_vms(argv: tuple[str, ...]) -> None:
    """Run a command where the machines are: run vagrant ssh node1, run kubectl get nodes, run netscope doctor."""
    from minik8s.lab.vms import Vms, run

    run(Vms.here(), list(argv))


@vms.command("down")
def down_vms() -> None:
    """Take the machines away; nothing of them stays but the box."""
    from minik8s.lab.vms import Vms, down

    down(Vms.here())


def _signal(name: str) -> int | None:
    found = signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}")
    return int(found) if found else None


def main() -> None:
    """Entry point of `./lab`."""
    run(lambda: command(prog_name="lab"), "lab")


if __name__ == "__main__":
    main()
