"""Entry point of `netscope`. Read next: `netscope/command.py`."""

from __future__ import annotations

import sys

from netscope import CNI_DIRECTORY, SUBNET_FILE
from nodecore.daemon.entry import run


def main() -> None:
    """An agent without options begins at once: somebody waits for it, and importing click is a third of its start."""
    run({"agent": _agent, "tap": _tap}.get(" ".join(sys.argv[1:]), _command), "netscope")


def _agent() -> None:
    from netscope.agent import serve

    serve(CNI_DIRECTORY, SUBNET_FILE)


def _tap() -> None:
    from netscope.capture.tapping import tap

    tap()


def _command() -> None:
    from netscope.command import command

    command(prog_name="netscope")


if __name__ == "__main__":
    main()
