"""Puts a pod's volumes on disk and says where each is mounted inside its containers.

Below `<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`, as the real kubelet has it. Volumes made from API objects are
replaced in one step: their files live in a fresh directory behind the symlink `..data`, which is renamed into place.
Memory and secret volumes are tmpfs. Touches: that directory, mounts, hostPath targets. Read next: `volume_files.py`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodecore.errors import Fault, Invalid
from nodecore.kube.quantity import parse_whole

from . import names
from .container_config import Bind
from .environment import Sources, expand
from .mounts import ensure_tmpfs, unmount_below
from .records import Pod, uid_of
from .volume_files import Files, volume_files

API_KINDS = {"configMap": "configmap", "secret": "secret", "downwardAPI": "downward-api", "projected": "projected"}
SECRET_KINDS = ("secret", "projected")  # never on a disk: tokens are projected
HOST_PATH_CHECKS = {
    "Directory": Path.is_dir, "File": Path.is_file, "Socket": Path.is_socket, "CharDevice": Path.is_char_device,
    "BlockDevice": Path.is_block_device,
}


def has_api_volumes(pod: Pod) -> bool:
    """Whether any volume is made from API objects, which may change."""
    return any(kind in volume for volume in pod["spec"].get("volumes") or [] for kind in API_KINDS)


def prepare_volumes(pod: Pod, root: str, sources: Sources) -> dict[str, str]:
    """Make or refresh every volume; returns the host path of each by its name."""
    try:
        return {volume["name"]: _prepare(pod, volume, root, sources) for volume in pod["spec"].get("volumes") or []}
    except OSError as error:
        raise Fault(f"volumes: {error.filename}: {error.strerror}") from None


def _prepare(pod: Pod, volume: Mapping[str, Any], root: str, sources: Sources) -> str:
    if "hostPath" in volume:
        return _host_path(volume["name"], volume["hostPath"])
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    for key, kind in API_KINDS.items():
        if key in volume:
            path = Path(names.volume_directory(root, uid_of(pod), kind, volume["name"]))
            path.mkdir(parents=True, exist_ok=True)
            if key in SECRET_KINDS:
                ensure_tmpfs(str(path), mode=0o755)
            write_atomically(path, volume_files(pod, volume, sources), group)
            return str(path)
    return _empty_dir(pod, volume, root, group)


def _empty_dir(pod: Pod, volume: Mapping[str, Any], root: str, group: int | None) -> str:
    path = Path(names.volume_directory(root, uid_of(pod), "empty-dir", volume["name"]))
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o777)
    source = volume.get("emptyDir") or {}
    if source.get("medium") == "Memory":
        ensure_tmpfs(str(path), size=parse_whole(source.get("sizeLimit") or 0))
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o2777)
    return str(path)


def _host_path(name: str, source: Mapping[str, Any]) -> str:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(exist_ok=True)
    elif kind and not HOST_PATH_CHECKS[kind](path):
        raise Invalid(f"volume {name}: hostPath type check failed: {path} is not a {kind}")
    return str(path)


def write_atomically(target: Path, files: Files, group: int | None = None) -> bool:
    """Make a directory show exactly these files, all at once; says whether anything changed."""
    data = target / "..data"
    if _holds(data, files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=target))
    fresh.chmod(0o755)
    for name, (content, mode) in files.items():
        file = fresh / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if group is not None:
            os.chown(file, -1, group)
            mode |= 0o040
        file.chmod(mode)
    old = data.resolve() if data.is_symlink() else None
    link = target / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.rename(data)
    tops = {name.split("/")[0] for name in files}
    for top in tops:
        if not (target / top).is_symlink():
            (target / top).symlink_to(f"..data/{top}")
    for entry in target.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old and old.parent == target.resolve():
        shutil.rmtree(old, ignore_errors=True)
    return True


def _holds(data: Path, files: Files) -> bool:
    if not data.is_dir():
        return False
    there = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    return there == set(files) and all((data / name).read_bytes() == content for name, (content, _) in files.items())


def container_binds(pod: Pod, spec: Mapping[str, Any], paths: Mapping[str, str], variables: Mapping[str, str]) -> list[Bind]:
    """A container's volume mounts as host paths."""
    kinds = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    made: list[Bind] = []
    for mount in spec.get("volumeMounts") or []:
        if mount["name"] not in paths:
            raise Invalid(f"volume mount {mount['name']} of container {spec['name']} names no volume of the pod")
        host = paths[mount["name"]]
        sub = expand(mount.get("subPathExpr") or "", variables) or mount.get("subPath") or ""
        from_api = any(kind in kinds[mount["name"]] for kind in API_KINDS)
        if sub:
            host = _below(host, sub, create=not from_api)
        inside = mount["mountPath"]
        made.append(Bind(host, inside if inside.startswith("/") else "/" + inside, bool(mount.get("readOnly")) or from_api,
                         mount.get("mountPropagation") or "None"))
    return made


def _below(host: str, sub: str, *, create: bool) -> str:
    """A path inside a volume, with every symlink followed; one that leads out of it is refused."""
    root = Path(host).resolve()
    path = (root / sub).resolve()
    if not path.is_relative_to(root):
        raise Invalid(f"subPath {sub} leads out of its volume")
    if not path.exists():
        if not create:
            raise Invalid(f"subPath {sub} does not exist in its volume")
        path.mkdir(parents=True)
        path.chmod(0o777)
    return str(path)


def write_hosts(pod: Pod, root: str, hostname: str, ips: tuple[str, ...]) -> Bind | None:
    """The pod's own /etc/hosts; a pod in the node's network keeps the node's."""
    if pod["spec"].get("hostNetwork") or not ips:
        return None
    path = Path(names.pod_directory(root, uid_of(pod))) / "etc-hosts"
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    subdomain = pod["spec"].get("subdomain")
    namespace = pod["metadata"].get("namespace", "default")
    full = f"{hostname}.{subdomain}.{namespace}.svc.cluster.local\t" if subdomain else ""
    lines += [f"{ip}\t{full}{hostname}" for ip in ips]
    lines += [f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or []) for alias in pod["spec"].get("hostAliases") or []]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    return Bind(str(path), "/etc/hosts")


def last_words_bind(pod: Pod, spec: Mapping[str, Any], root: str, attempt: int) -> Bind:
    """An empty file for the container's termination message."""
    path = Path(names.pod_directory(root, uid_of(pod))) / "containers" / spec["name"] / str(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(0o666)
    return Bind(str(path), spec.get("terminationMessagePath") or "/dev/termination-log")


def remove_pod_directory(root: str, uid: str) -> None:
    """Unmount and delete everything a pod had on this node's disk."""
    directory = names.pod_directory(root, uid)
    unmount_below(directory)
    shutil.rmtree(directory, ignore_errors=True)
