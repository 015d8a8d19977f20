"""The linters, the type checker and the documentation build, as tests: what they find fails the suite."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


HELP_THEN_MODULES = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("{module}", run_name="__main__")
except SystemExit:
    pass
heavy = {{"aiohttp", "grpc", "pyroute2", "cryptography", "yaml", "prometheus_client"}}
print("LOADED", *sorted(heavy & set(sys.modules)))
"""


def check(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"


def test_ruff() -> None:
    check(sys.executable, "-m", "ruff", "check", ".")


def test_mypy() -> None:
    check(sys.executable, "-m", "mypy")


def test_shellcheck() -> None:
    found = [path for top in ("tests", "vagrant") for path in ROOT.glob(f"{top}/**/*.sh")]
    scripts = ["lab", ".ci/run", *(str(path.relative_to(ROOT)) for path in found)]
    check("shellcheck", *scripts)


def test_docs_build_strictly(tmp_path: Path) -> None:
    check(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))


def test_ci_runs_what_the_readme_says() -> None:
    command = re.search(r"^sudo \./lab test$", (ROOT / "README.md").read_text(), re.M)
    assert command, "README.md names no test command"
    assert command.group(0) in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.parametrize("module", ["flanneld_py", "proxy", "minik8s", "minik8s.apiserver", "minik8s.controllers",
                                    "minik8s.scheduler", "minik8s.kubelet", "minik8s.lab"])
def test_help_is_there(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("module", ["flanneld_py", "proxy", "minik8s", "minik8s.apiserver", "minik8s.kubelet"])
def test_help_loads_nothing_heavy(module: str) -> None:
    """What makes `--help` slow is imports; which ones happen does not depend on how busy the machine is."""
    code = HELP_THEN_MODULES.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "LOADED"


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports them by their names alone."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, count in names.items() if count > 1} == set()


def test_clusters_are_where_they_are_looked_for() -> None:
    """`lab test` collects no other directory for them."""
    marked = {path for path in (ROOT / "tests").rglob("*.py") if "mark." + "cluster" in path.read_text()}
    assert {path.parent for path in marked} == {ROOT / "tests/cluster"}


def test_what_runs_is_pinned_the_same_for_tests() -> None:
    """constraints-dev.txt is constraints.txt and more, with the same versions and hashes."""
    pins, all_pins = ((ROOT / name).read_text().split("\n\n", 1)[1] for name in ("constraints.txt", "constraints-dev.txt"))
    assert set(pins.splitlines()) < set(all_pins.splitlines())
