"""Builds the Debian packages: flanneld-py, kube-proxy-py, minik8s, netscope, each with a virtual environment of its own.

    sudo .venv/bin/python packaging/deb/build.py --output dist [--wheels DIRECTORY] [PACKAGE...]

For the Debian and Python it runs on. Wheels are as pinned in constraints.txt; with a directory that has them all, nothing is
downloaded. What the package's scripts do is in `packaging/deb/*.sh`; files have the time of the last commit, so that the
same checkout makes the same package. Read next: `tests/packaging/test_deb.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "packaging/systemd"
OURS = ("nodecore", "flanneld_py", "proxy", "minik8s", "netscope")
CNI = "#!/usr/lib/flanneld-py/bin/python3 -I\nimport sys\nfrom flanneld_py.cni import main\nsys.exit(main())\n"


@dataclass(frozen=True)
class Package:
    """One of them."""

    name: str
    summary: str
    modules: tuple[str, ...]
    depends: str = ""
    recommends: str = ""
    extra: str = ""
    units: tuple[str, ...] = ()
    users: bool = False


NETWORK = ("flanneld-py", "kube-proxy-py")
PARTS = tuple(f"minik8s-{part}" for part in ("etcd", "apiserver", "controllers", "scheduler", "kubelet"))
PACKAGES = {each.name: each for each in (
    Package("flanneld-py", "the overlay network of a Kubernetes node: a drop-in for flanneld", ("nodecore", "flanneld_py"),
            "nftables", "iptables, containernetworking-plugins", units=("flanneld-py",)),
    Package("kube-proxy-py", "the service proxy of a Kubernetes node: a drop-in for kube-proxy", ("nodecore", "proxy"),
            "nftables, conntrack", "iptables, ipset", units=("kube-proxy-py",)),
    Package("minik8s", "a mini Kubernetes: control plane and kubelet", OURS,
            "flanneld-py (= {version}), kube-proxy-py (= {version})",
            "etcd-server, containerd, containernetworking-plugins, kubernetes-client", "cluster", PARTS, users=True),
    Package("netscope", "shows the way of a packet through a Kubernetes node", ("nodecore", "netscope"), recommends="libpcap0.8"),
)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--output", default="dist", show_default=True, type=click.Path(path_type=Path), help="Where the packages go.")
@click.option("--wheels", type=click.Path(path_type=Path), help="Wheels of all dependencies; made there where they are missing.")
@click.option("--version", default="", help="The packages' version; the project's with -1.")
@click.argument("names", nargs=-1, type=click.Choice(list(PACKAGES)))
def command(output: Path, wheels: Path | None, version: str, names: tuple[str, ...]) -> None:
    """Build packages, all of them unless some are named."""
    output.mkdir(parents=True, exist_ok=True)
    os.umask(0o022)
    os.environ.setdefault("SOURCE_DATE_EPOCH", last_commit())
    with tempfile.TemporaryDirectory(prefix="deb-") as place:
        house = wheels or Path(place) / "wheels"
        make_wheels(house, Path(place) / "ours")
        plain = Environment(Path(place) / "plain", [house, Path(place) / "ours"])
        plain.make()
        for name in names or PACKAGES:
            stage = Path(place) / name
            fill(stage, PACKAGES[name], version or default_version(), plain)
            call("dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", str(stage), str(output))
            shutil.rmtree(stage)


def default_version() -> str:
    """The project's."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]) + "-1"


def last_commit() -> str:
    """When it was, in seconds."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "0"


def make_wheels(house: Path, ours: Path) -> None:
    """All dependencies, where they are not there yet, and the project itself from a copy of the checkout."""
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check")
    if not house.exists():
        fresh = house.with_name(f"{house.name}.new")
        call(*pip, "--require-hashes", "-r", str(ROOT / "constraints.txt"), "-w", str(fresh))
        fresh.replace(house)
    source = ours / "source"
    for name in (*OURS, "packaging", "pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source / name)
    call(*pip, "--no-deps", "--no-build-isolation", str(source), "-w", str(ours))


def copy(source: Path, target: Path) -> None:
    """A file or a tree without what Python left in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


@dataclass(frozen=True)
class Environment:
    """The virtual environment that all packages' are copies of: without pip, its modules compiled."""

    home: Path
    wheels: list[Path]

    def make(self) -> None:
        """Make it, with what every package needs."""
        call("/usr/bin/python3", "-m", "venv", "--without-pip", "--symlinks", str(self.home))
        self.install(self.home, "flanneld-py")

    def install(self, home: Path, wanted: str) -> None:
        """Have something more in one, from the wheels alone."""
        places = (word for place in self.wheels for word in ("--find-links", str(place)))
        call(sys.executable, "-m", "pip", "--python", str(home / "bin/python3"), "install", "-q", "--no-index", "--no-compile",
             "--disable-pip-version-check", *places, wanted)
        tag = f"{sys.implementation.cache_tag}.pyc"
        files = [str(path) for path in home.rglob("*.py") if not (path.parent / "__pycache__" / f"{path.stem}.{tag}").exists()]
        subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(home),
                        "-i", "-"], input="\n".join(files), text=True, check=True)

    def copy_for(self, package: Package, home: Path) -> None:
        """One that believes it is where it will be, without the other packages' modules and commands."""
        shutil.copytree(self.home, home, symlinks=True)
        if package.extra:
            self.install(home, f"flanneld-py[{package.extra}]")
            keep_one_schema(home)
        for name in set(OURS) - set(package.modules):
            shutil.rmtree(next(home.glob("lib/python*/site-packages")) / name)
        for path in (home / "bin").iterdir():
            if path.name != package.name and not path.is_symlink():
                path.unlink()
        script = home / "bin" / package.name
        script.write_text(f"#!/usr/lib/{package.name}/bin/python3\n" + script.read_text().partition("\n")[2])
        configuration = home / "pyvenv.cfg"
        lines = configuration.read_text().splitlines(keepends=True)
        configuration.write_text("".join(line for line in lines if not line.startswith("command")))


def keep_one_schema(home: Path) -> None:
    """Of 17,000 files, the schemas of every release, the API server reads one; to unpack all takes a slow machine minutes."""
    from minik8s.apiserver.schema.definitions import source

    for schemas in home.glob("lib/python*/site-packages/kubernetes_validate/kubernetes-json-schema"):
        kept = schemas.joinpath(*source().parts[-2:])
        text = kept.read_bytes()
        shutil.rmtree(schemas)
        kept.parent.mkdir(parents=True)
        kept.write_bytes(text)


def fill(stage: Path, package: Package, version: str, plain: Environment) -> None:
    """Everything a package has."""
    plain.copy_for(package, stage / "usr/lib" / package.name)
    link = stage / "usr/bin" / package.name
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../lib/{package.name}/bin/{package.name}")
    conffiles = put_units(stage, package)
    if package.name == "flanneld-py":
        put(stage / "usr/lib/cni/flannel", CNI, 0o755)
    documents = stage / "usr/share/doc" / package.name
    copy(ROOT / "LICENSE", documents / "copyright")
    control = stage / "DEBIAN"
    put(control / "control", control_text(package, version, size_of(stage)))
    put(control / "conffiles", "".join(f"{path}\n" for path in conffiles))
    for script in ("postinst", "prerm", "postrm"):
        put(control / script, script_text(script, package), 0o755)


def put_units(stage: Path, package: Package) -> list[str]:
    """Units, environment files and what goes with them; the names of the configuration files."""
    conffiles = []
    for unit in package.units:
        copy(SYSTEMD / f"{unit}.service", stage / f"usr/lib/systemd/system/{unit}.service")
        if (SYSTEMD / f"{unit}.env").exists():
            path = f"etc/{'flanneld-py' if unit in NETWORK else 'minik8s'}/{unit}.env"
            copy(SYSTEMD / f"{unit}.env", stage / path)
            conffiles.append(f"/{path}")
    if package.units:
        source = "minik8s" if package.users else "flanneld-py"
        copy(SYSTEMD / f"{source}.tmpfiles", stage / f"usr/lib/tmpfiles.d/{package.name}.conf")
    if package.name in NETWORK:
        copy(SYSTEMD / "flanneld-py.modules", stage / f"usr/lib/modules-load.d/{package.name}.conf")
    if package.users:
        copy(SYSTEMD / "minik8s.target", stage / "usr/lib/systemd/system/minik8s.target")
        copy(SYSTEMD / "minik8s.sysusers", stage / "usr/lib/sysusers.d/minik8s.conf")
    return conffiles


def control_text(package: Package, version: str, size: int) -> str:
    """The package's control file."""
    major, minor = sys.version_info[:2]
    depends = (f"python3 (>= {major}.{minor}~), python3 (<< {major}.{minor + 1}), libc6, libstdc++6", package.depends)
    fields = {
        "Package": package.name, "Version": version, "Architecture": output_of("dpkg", "--print-architecture"),
        "Maintainer": "The flanneld-py project <flanneld-py@example.invalid>", "Installed-Size": str(size), "Section": "net",
        "Priority": "optional", "Depends": ", ".join(filter(None, depends)).format(version=version),
        "Recommends": package.recommends, "Description": package.summary,
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def script_text(script: str, package: Package) -> str:
    """One of dpkg's scripts, with this package's names in it."""
    units = [f"{unit}.service" for unit in package.units] + ["minik8s.target"] * package.users
    text = (Path(__file__).parent / f"{script}.sh").read_text()
    return text.replace("@PACKAGE@", package.name).replace("@UNITS@", " ".join(units))


def size_of(stage: Path) -> int:
    """In KiB, as dpkg tells it."""
    return sum(path.lstat().st_size for path in stage.rglob("*")) // 1024


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file with its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def output_of(*argv: str) -> str:
    """What a program says."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def call(*argv: str | Iterable[str]) -> None:
    """Run a program to its end."""
    subprocess.run([str(word) for word in argv], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    command()
