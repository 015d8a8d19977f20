"""Writes an installation below a root directory, and takes one away: every step says what it did, and done twice does nothing.

    units       where the distribution's package has not brought them: /etc/systemd/system, pointing at this Python's commands
    NAME.env    every flag, commented: written once, the administrator's from then on

Must not know: roles. Read next: `service.py` (systemd's commands), `plan.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from nodecore.errors import Fault, UserError

OURS = "/etc/systemd/system"
PACKAGED = "/usr/lib/systemd/system"
NETWORK_FILES = (("flanneld-py.tmpfiles", "etc/tmpfiles.d/flanneld-py.conf"),
                 ("flanneld-py.modules", "etc/modules-load.d/flanneld-py.conf"))
CLUSTER_FILES = (("minik8s.tmpfiles", "etc/tmpfiles.d/minik8s.conf"), ("minik8s.sysusers", "etc/sysusers.d/minik8s.conf"))
CNI_PLACES = ("opt/cni/bin", "usr/lib/cni")
CONFLIST = "etc/cni/net.d/10-flannel.conflist"
OTHERS = ("etc/kubernetes/manifests", "etc/kubernetes/kubelet.conf", "etc/kubernetes/admin.conf")  # kubeadm's
PURGED = ("etc/minik8s", "etc/flanneld-py", "var/lib/minik8s-etcd", "var/cache/minik8s")
PURGED_IF_OURS = ("etc/kubernetes", "etc/kube-flannel", "var/lib/cni/flannel", "var/lib/cni/networks/cbr0", "run/flannel")
PURGED_OF_A_NODE = ("var/lib/kubelet", "var/log/pods")  # where the kubelet is ours
CNI_FLANNEL = """#!{python} -I
import sys
{path}from flanneld_py.cni import main
sys.exit(main())
"""


def templates() -> Path:
    """Where the units are: beside the installed package, or in the checkout."""
    for place in (Path(sys.prefix) / "share/flanneld-py/systemd", Path(__file__).parents[2] / "packaging/systemd"):
        if (place / "flanneld-py.service").exists():
            return place
    raise UserError(f"no units below {sys.prefix}/share/flanneld-py/systemd: this installation is not whole")


def foreign(root: Root) -> str:
    """What says that this is a machine of another Kubernetes, whose /etc/kubernetes and CNI configuration are not ours."""
    return next((f"/{path}" for path in OTHERS if root.at(path).exists()), "")


class Root:
    """The file system that is installed into: / or the root of an image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, path: str) -> Path:
        """A path of the installed system, from here."""
        return self.path / path.lstrip("/")

    def has_unit(self, unit: str) -> bool:
        """Whether a service is installed, by us or by a package."""
        return any(self.at(f"{place}/{unit}.service").exists() for place in (OURS, PACKAGED))

    def put(self, path: str, text: str | bytes, mode: int = 0o644, *, once: bool = False) -> bool:
        """Write a file by renaming, unless it is as it should be; says whether it was written."""
        target, data = self.at(path), text.encode() if isinstance(text, str) else text
        try:
            if target.exists() and (once or target.read_bytes() == data):
                return False
            replace(target, data, mode)
        except OSError as error:
            raise Fault(f"/{path.lstrip('/')}: {error.strerror}") from None
        click.echo(f"wrote    /{path.lstrip('/')}")
        return True

    def remove(self, path: str) -> None:
        """Remove a file or a directory with all in it, where there is one."""
        target = self.at(path)
        try:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            elif target.exists() or target.is_symlink():
                target.unlink()
            else:
                return
        except OSError as error:
            raise Fault(f"{error.filename or path}: {error.strerror}") from None
        click.echo(f"removed  /{path.lstrip('/')}")


def replace(target: Path, data: bytes, mode: int) -> None:
    """Write a file by renaming: nobody sees a part of it, and what a full disk or a kill left is written over."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        fresh.chmod(mode)
        fresh.replace(target)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def put_units(root: Root, units: Iterable[str], extra: Iterable[str] = ()) -> bool:
    """Units and the files that go with them; says whether any changed."""
    source, names, changed = templates(), list(units), False
    for unit in (*(f"{name}.service" for name in names), *extra):
        if not root.at(f"{PACKAGED}/{unit}").exists():
            changed |= root.put(f"{OURS}/{unit}", fitted((source / unit).read_text()))
    for name in names:
        directory = "minik8s" if name.startswith("minik8s") else "flanneld-py"
        if (template := source / f"{name}.env").exists():
            root.put(f"etc/{directory}/{name}.env", template.read_text(), once=True)
    for file, path in (*NETWORK_FILES, *(CLUSTER_FILES if extra else ())):
        if not root.at(path.replace("etc/", "usr/lib/", 1)).exists():
            root.put(path, (source / file).read_text())
    return changed


def fitted(unit: str) -> str:
    """A unit with the commands of this Python, where they are not the distribution's."""
    there = commands()
    if there == Path("/usr/bin"):
        return unit
    if any(str(there).startswith(f"{hidden}/") for hidden in ("/home", "/root", "/tmp", "/run/user")):
        raise UserError(f"{there}: services do not see what is there (ProtectHome, PrivateTmp): "
                        "install into a virtual environment in /opt, say")
    for name in ("flanneld-py", "kube-proxy-py", "minik8s"):
        unit = unit.replace(f"/usr/bin/{name}", f"{there}/{name}")
    return unit


def commands() -> Path:
    """Where the commands are: this Python's, or the distribution's."""
    there = Path(sys.prefix) / "bin"
    return there if (there / "flanneld-py").exists() else Path("/usr/bin")


def put_cni_plugin(root: Root) -> None:
    """The `flannel` plugin, where container runtimes look for one."""
    import flanneld_py

    places = [place for place in CNI_PLACES if root.at(place).is_dir()] or CNI_PLACES[:1]
    home = Path(flanneld_py.__file__).parents[1]
    path = "" if home.name == "site-packages" else f"sys.path.insert(0, {str(home)!r})\n"
    for place in places:
        if not brought(root, place):
            root.put(f"{place}/flannel", CNI_FLANNEL.format(python=sys.executable, path=path), 0o755)


def brought(root: Root, place: str) -> bool:
    """Whether the distribution's package has put the plugin there."""
    return place == CNI_PLACES[1] and root.at(f"{PACKAGED}/flanneld-py.service").exists()


def put_files(root: Root, files: Mapping[str, str]) -> bool:
    """Configuration that is no secret; says whether any changed."""
    return any([root.put(path, text) for path, text in files.items()])


def take_away(root: Root, units: Iterable[str], *, purge: bool) -> None:
    """Units and what `install` wrote beside them; with `purge` what clusters and administrators put there as well."""
    names, ours = list(units), not foreign(root)
    if purge:  # before the units: a second try, after a kill, still knows by them whose machine this is
        node = PURGED_OF_A_NODE if root.has_unit("minik8s-kubelet") else ()
        for path in (*PURGED, *((*PURGED_IF_OURS, *node) if ours else ())):
            root.remove(path)
    for unit in (*(f"{name}.service" for name in names), "minik8s.target"):
        root.remove(f"{OURS}/{unit}")
    for name in names:
        root.remove(f"etc/minik8s/installed/{name}.env")
    for _, path in (*NETWORK_FILES, *CLUSTER_FILES):
        root.remove(path)
    for place in CNI_PLACES:
        plugin = root.at(f"{place}/flannel")
        if not brought(root, place) and plugin.exists() and b"flanneld_py.cni" in plugin.read_bytes():
            root.remove(f"{place}/flannel")
    if ours:
        root.remove(CONFLIST)
