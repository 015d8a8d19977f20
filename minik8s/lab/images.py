"""The lab's container images, made of the host's static busybox with the standard library: no registry is needed.

    lab.local/pause:1     holds a pod's namespaces              lab.local/web:1, :2   a web page that tells who served it
    lab.local/busybox:1   a shell and its tools, and `idle`, a pid 1 that buries the dead

An OCI layout in a tar holds them all; the layers are shared and not compressed. `ctr images import` reads it.
Read next: `minik8s/lab/agents.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minik8s.lab.containerd import PAUSE

BUSYBOX = Path("/bin/busybox")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
WEB = """#!/bin/sh
# Serves one page saying who we are. After SIGTERM it goes on for GRACE seconds, until nobody is sent here any more.
mkdir -p /www
printf 'pod=%s node=%s version=%s\\n' "${POD_NAME:-$(hostname)}" "${NODE_NAME:-unknown}" "$VERSION" > /www/index.html
echo ok > /www/healthz
httpd -f -p "${PORT:-8080}" -h /www &
trap 'sleep "${GRACE:-2}"; kill $!; exit 0' TERM
trap 'kill $!; exit 0' INT
while kill -0 $! 2>/dev/null; do wait $!; done
exit 1
"""
IDLE = """#!/bin/sh
# As pid 1: does nothing until SIGTERM, but for waiting, as a shell does, for whichever orphan ends.
trap 'kill $!; exit 0' TERM INT
while :; do
    sleep 2147483647 &
    wait $!
done
"""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its reference, layers (uncompressed tars) and how it is run."""

    reference: str
    layers: tuple[bytes, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


def layer(files: dict[str, tuple[bytes, int]], links: dict[str, str], directories: tuple[str, ...] = ()) -> bytes:
    """A layer's tar, the same bytes for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def images(busybox: bytes, applets: list[str]) -> list[Image]:
    """All images of the lab."""
    base = layer(
        {"bin/busybox": (busybox, 0o755), "bin/idle": (IDLE.encode(), 0o755),
         "etc/passwd": (PASSWD.encode(), 0o644), "etc/group": (b"root:x:0:\n", 0o644)},
        {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"},
        ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "var", "run"),
    )
    web = layer({"bin/web": (WEB.encode(), 0o755)}, {})
    return [
        Image(PAUSE, (base,), entrypoint=("/bin/idle",)),
        Image("lab.local/busybox:1", (base,), command=("/bin/sh",)),
        *(Image(f"lab.local/web:{version}", (base, web), ("/bin/web",), env={"VERSION": version}) for version in ("1", "2")),
    ]


class Layout:
    """An OCI image layout being written into a tar."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: list[dict[str, Any]] = []

    def blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob; its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add(self, image: Image, architecture: str) -> None:
        """Add an image."""
        layers = [self.blob(content, "application/vnd.oci.image.layer.v1.tar") for content in image.layers]
        env = {"PATH": "/bin", **image.env}
        config = {
            "architecture": architecture, "os": "linux",
            "config": {
                "Env": [f"{key}={value}" for key, value in env.items()],
                "Entrypoint": list(image.entrypoint), "Cmd": list(image.command), "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in layers]},
        }
        descriptor = self.blob(_json(config), "application/vnd.oci.image.config.v1+json")
        manifest = self.blob(_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": layers}), MANIFEST)
        names = {"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": image.reference}
        self.manifests.append({**manifest, "annotations": names})

    def write(self, path: Path) -> None:
        """Write the tar."""
        files = {f"blobs/sha256/{digest}": (content, 0o644) for digest, content in self.blobs.items()}
        files["oci-layout"] = (_json({"imageLayoutVersion": "1.0.0"}), 0o644)
        files["index.json"] = (_json({"schemaVersion": 2, "manifests": self.manifests}), 0o644)
        path.write_bytes(layer(files, {}, ("blobs", "blobs/sha256")))


def write_images(path: Path, busybox: Path = BUSYBOX) -> None:
    """Make the tar with all images of the lab."""
    machine = platform.machine()
    layout = Layout()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for image in images(busybox.read_bytes(), applets):
        layout.add(image, ARCHITECTURES.get(machine, machine))
    layout.write(path)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
