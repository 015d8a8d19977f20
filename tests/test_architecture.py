"""The rules of the house as failing tests: who may import whom, what pure modules may touch, how large things may grow.

Plain `ast`, nothing of the project is imported. The rules are in docs/explanation/architecture.md.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("nodecore", "flanneld_py", "proxy", "minik8s.apiserver", "minik8s.controllers", "minik8s.scheduler",
         "minik8s.kubelet", "minik8s.lab", "netscope")
PACKAGES = ("nodecore", "flanneld_py", "proxy", "minik8s", "netscope")

IMPURE = {"asyncio", "pyroute2", "subprocess", "socket", "logging", "time", "aiohttp", "grpc", "threading", "os"}
PURE = re.compile(r"\bPure\b|\bpure[,.:]|: pure\b")  # how a module's docstring says it
ADAPTERS = "nodecore/kernel/"
KERNEL_LIBRARIES = {"pyroute2", "iptc"}
KERNEL_COMMANDS = {"nft", "iptables", "iptables-restore", "ip6tables-restore", "ip6tables", "ipset", "conntrack"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    dotted = relative(path).removesuffix(".py").replace("/", ".")
    return dotted.removesuffix(".__init__")


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Every file, parsed when it is first asked for."""
    return {path: ast.parse(path.read_text(), filename=str(path)) for path in sources()}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module's file."""
    return {module_of(path): path for path in sources()}


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """So many objects would slow down every test that comes after these in the same process."""
    yield
    trees.cache_clear()


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever the statement stands; `from a import b` counts as a.b where that is a module."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in modules() else base)
    return found


def part_of(module: str) -> str | None:
    return next((part for part in PARTS if module == part or module.startswith(part + ".")), None)


def test_parts_meet_over_the_api_and_the_kernel_only() -> None:
    wrong = [
        f"{relative(path)} imports {target}"
        for path in trees()
        if (own := part_of(module_of(path)))
        for target in imports(path)
        if (other := part_of(target)) and other not in (own, "nodecore")
    ]
    assert wrong == []


def test_pure_modules_touch_nothing() -> None:
    pure = [path for path, tree in trees().items() if PURE.search(ast.get_docstring(tree) or "")]
    wrong = [f"{relative(path)} imports {name}" for path in pure for name in imports(path) if name.split(".")[0] in IMPURE]
    assert wrong == []
    assert len(pure) > 190


def test_only_adapters_touch_the_kernel() -> None:
    """The lab prepares machines rather than running on one, and the node's shell is its adapter."""
    allowed = (ADAPTERS, "minik8s/lab/")
    wrong = []
    for path, tree in trees().items():
        if relative(path).startswith(allowed):
            continue
        wrong += [f"{relative(path)} imports {name}" for name in imports(path) if name.split(".")[0] in KERNEL_LIBRARIES]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and (word := first_word(node)) in KERNEL_COMMANDS:
                wrong.append(f"{relative(path)}:{node.lineno} starts {word}")
    assert wrong == []


def test_aiohttp_comes_through_one_door() -> None:
    """Imported by itself it reads every certificate authority of the machine: see nodecore/kube/http.py."""
    wrong = [relative(path) for path in trees() if relative(path) != "nodecore/kube/http.py"
             and any(name.split(".")[0] == "aiohttp" for name in imports(path))]
    assert wrong == []


def first_word(call: ast.Call) -> str:
    """The program a subprocess call starts, where it is written out."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("run", "Popen", "check_call", "check_output", "create_subprocess_exec", "call"):
        return ""
    first: ast.expr = call.args[0]
    if isinstance(first, ast.List | ast.Tuple) and first.elts:
        first = first.elts[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def test_no_import_circles() -> None:
    known = modules()
    graph = {module: {name for name in imports(path) if name in known and name != module} for module, path in known.items()}
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(module: str, trail: list[str]) -> None:
        state[module] = 1
        for target in sorted(graph[module]):
            if state.get(target) == 1:
                circles.append(" -> ".join([*trail, module, target]))
            elif target not in state:
                visit(target, [*trail, target])
        state[module] = 2

    for module in sorted(graph):
        if module not in state:
            visit(module, [module])
    assert circles == []


def test_every_module_says_what_it_is() -> None:
    assert [relative(path) for path, tree in trees().items() if not ast.get_docstring(tree)] == []


def test_nothing_grows_out_of_hand() -> None:
    too_long = [f"{relative(path)}: {lines} lines" for path in trees() if (lines := path.read_text().count("\n")) > 500]
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 80:
                    too_long.append(f"{relative(path)}:{node.name}: {length} lines")
    assert too_long == []


def test_names_say_something() -> None:
    hollow = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
    assert [relative(path) for path in trees() if path.stem in hollow or path.parent.name in hollow] == []


def test_packages_are_listed() -> None:
    """`proxy` is also a package inside somebody else's distribution: nothing is discovered, all is listed."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {relative(path.parent).replace("/", ".") for path in trees() if path.name == "__init__.py"}
    assert listed == present


def test_proxy_is_ours() -> None:
    import proxy

    assert Path(proxy.__file__).parent == ROOT / "proxy"


def test_agents_import_nothing_that_a_plain_install_lacks() -> None:
    """Lazy imports as well: each agent has a package of its own, which has these dependencies and no extra."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    declared = {re.split(r"[>=]", name)[0].replace("-", "_").lower() for name in required}
    paths = [path for part in ("nodecore", "flanneld_py", "proxy", "netscope") for path in (ROOT / part).rglob("*.py")]
    outside = {name.split(".")[0] for path in paths for name in imports(path)} - set(PARTS) - sys.stdlib_module_names
    owners = packages_distributions()
    assert {name for name in outside if not declared & {owner.replace("-", "_").lower() for owner in owners[name]}} == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = [*project["dependencies"], *extras["cluster"]]
    names = {requirement.split(">")[0].split(";")[0].split("=")[0].strip() for requirement in runtime}
    page = (ROOT / "docs/explanation/dependencies.md").read_text()
    assert {name for name in names if f"| {name} |" not in page} == set()
