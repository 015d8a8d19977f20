"""The `minik8s` command: one sub-command for each part, loaded only when it is asked for.

Decides nothing; each part brings a click command called `command`. Read next: the part's own `__main__.py`.
"""

from __future__ import annotations

from importlib import import_module

import click

from nodecore.daemon.entry import run

PARTS = {
    "apiserver": "Serve the Kubernetes API out of etcd.",
    "backup": "Write the state of a cluster to a file.",
    "certs": "When certificates expire, and new ones in time.",
    "controllers": "Run the controllers: Deployments, endpoints, node health and the like.",
    "etcd-watchdog": "Tell systemd for as long as the etcd of this unit answers.",
    "install": "Install parts as systemd services on this machine.",
    "kubelet": "Run the pods of one node in containerd.",
    "lab": "A whole cluster on this machine, nodes as namespaces.",
    "join": "Make this machine a node of a cluster: its certificates, by a token.",
    "kubeconfig": "A kubeconfig for a user.",
    "restore": "Write a backup's state into etcd.",
    "scheduler": "Give pods a node.",
    "token": "Tokens that machines join with.",
    "uninstall": "Remove the services `install` installed.",
}
ELSEWHERE = {"etcd-watchdog": "minik8s.install.watchdog:command",
             **{name: f"minik8s.access.{name}:command" for name in ("certs", "join", "kubeconfig", "token")},
             "uninstall": "minik8s.install.__main__:uninstall"}


class LazyGroup(click.Group):
    """Knows its commands by name, and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all parts."""
        return sorted(PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the part called `cmd_name`."""
        if cmd_name not in PARTS:
            return None
        module, _, name = ELSEWHERE.get(cmd_name, f"minik8s.{cmd_name}.__main__:command").partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the parts without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(PARTS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MINIK8S"})
def command() -> None:
    """A mini Kubernetes for one machine, its parts replaceable by the originals."""


def main() -> None:
    """Entry point of the console script."""
    run(command, "minik8s")


if __name__ == "__main__":
    main()
