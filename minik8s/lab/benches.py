"""`lab bench`: the measurements in bench/, each a module with `run(json_path: str | None) -> dict`.

Read next: `bench/up.py`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click

from minik8s.lab.host import PROJECT
from nodecore.errors import UserError

DIRECTORY = PROJECT / "bench"


def names() -> list[str]:
    """The measurements there are."""
    return sorted(path.stem for path in DIRECTORY.glob("*.py") if not path.stem.startswith("_"))


def load(name: str) -> Any:
    """The module of one measurement."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", DIRECTORY / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bench(name: str | None, json_path: str | None) -> None:
    """Run one measurement, or all, and keep the figures in a file if one is named."""
    if name is not None and name not in names():
        raise UserError(f"NAME: no measurement called {name!r}; there are {', '.join(names())}")
    results = {}
    for each in [name] if name else names():
        click.echo(f"== {each}", err=True)
        results[each] = load(each).run(None)
    if json_path:
        Path(json_path).write_text(json.dumps(results, indent=1) + "\n")
    else:
        click.echo(json.dumps(results, indent=1))
