"""The reference pages name every flag there is, no page names or links a file that is not there, and the index leads to all."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "docs/reference/flanneld-py.md": ["flanneld_py.__main__:command"],
    "docs/reference/kube-proxy-py.md": [
        "proxy.__main__:command", *(f"proxy.commands.{name}:command" for name in ("render", "explain", "diff"))],
    "docs/reference/minik8s.md": [
        f"minik8s.{part}.__main__:command" for part in ("apiserver", "controllers", "scheduler", "kubelet", "backup", "restore")
    ],
    "docs/reference/services.md": ["minik8s.install.__main__:command", "minik8s.install.__main__:uninstall"],
    "docs/reference/lab.md": ["minik8s.lab.__main__:command"],
    "docs/reference/netscope.md": ["netscope.command:command"],
}


def options(command: click.Command) -> set[str]:
    """Every long option of a command and of its sub-commands."""
    found = {name for param in command.params for name in param.opts if name.startswith("--")}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found |= options(inner)
    return found - {"--help"}


@pytest.mark.parametrize("page", COMMANDS)
def test_every_flag_is_documented(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = set()
    for place in COMMANDS[page]:
        module, _, name = place.partition(":")
        missing |= {option for option in options(getattr(importlib.import_module(module), name)) if f"{option}`" not in text}
    assert missing == set()


@pytest.mark.parametrize("page", COMMANDS)
def test_no_flag_is_documented_that_is_not_there(page: str) -> None:
    known = set()
    for place in COMMANDS[page]:
        module, _, name = place.partition(":")
        known |= options(getattr(importlib.import_module(module), name))
    named = set(re.findall(r"^\| `(--[a-z0-9-]+)`", (ROOT / page).read_text(), re.M))
    assert named - known == set()


NAMED = re.compile(r"`((?:nodecore|flanneld_py|proxy|minik8s|netscope|tests|bench|examples)/[\w./-]+\.\w+)`")
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_files_named_are_there(page: str) -> None:
    named = NAMED.findall((ROOT / page).read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    linked = [name for name in LINK.findall((ROOT / page).read_text()) if "://" not in name]
    assert [name for name in linked if not (ROOT / page).parent.joinpath(name).exists()] == []


def test_the_index_leads_to_every_page() -> None:
    linked = {f"docs/{name}" for name in LINK.findall((ROOT / "docs/index.md").read_text())}
    assert {page for page in PAGES if page.startswith("docs/")} - linked == {"docs/index.md"}
