"""A bundle: a scene as one compressed archive of JSON files that a person can read as well.

    scene.json (when, and which nodes are missing)   objects/KIND.json   nodes/NAME.json   connections/NAME.json

What a scene does not hold cannot get in: no Secret, no key, no annotation but flannel's. Read next: `netscope/scene.py`.
"""

from __future__ import annotations

import io
import tarfile
import time
from typing import IO, Any

import msgspec

from netscope.facts import Facts
from netscope.records import Connection
from netscope.scene import Objects, Scene, without_secrets
from nodecore.errors import UserError

FORMAT = 1
LARGEST = 1 << 30


class About(msgspec.Struct, frozen=True):
    """`scene.json`."""

    format: int
    taken: float
    missing: dict[str, str] = {}
    skew: dict[str, float] = {}
    echoes: dict[str, dict[str, float]] = {}
    large: dict[str, dict[str, float]] = {}
    fits: dict[str, int] = {}


def write(scene: Scene, file: IO[bytes]) -> None:
    """The whole scene, secrets removed."""
    objects = without_secrets(scene.objects)
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        _add(archive, "scene.json", About(FORMAT, scene.taken, scene.missing, scene.skew, scene.echoes, scene.large, scene.fits))
        for kind in objects.__struct_fields__:
            _add(archive, f"objects/{kind}.json", getattr(objects, kind))
        for name, facts in scene.facts.items():
            _add(archive, f"nodes/{name}.json", facts)
        for name, connections in scene.connections.items():
            _add(archive, f"connections/{name}.json", connections)


def _add(archive: tarfile.TarFile, name: str, value: Any) -> None:
    data = msgspec.json.format(msgspec.json.encode(value), indent=1)
    info = tarfile.TarInfo(f"netscope/{name}")
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(data))


def read(path: str) -> Scene:
    """A scene from a bundle; nothing is unpacked to disk."""
    try:
        with tarfile.open(path, mode="r:gz") as archive:
            files = {member.name.removeprefix("netscope/"): _data(archive, member) for member in archive if member.isfile()}
        about = msgspec.json.decode(files["scene.json"], type=About)
        if about.format != FORMAT:
            raise UserError(f"{path}: format {about.format} of a bundle is not known, only {FORMAT}")
        kinds = {kind: msgspec.json.decode(files[f"objects/{kind}.json"]) for kind in Objects.__struct_fields__}
        facts, connections = (_of_nodes(files, *each) for each in (("nodes/", Facts), ("connections/", tuple[Connection, ...])))
        return Scene(about.taken, msgspec.convert(kinds, Objects), facts, about.missing, about.skew,
                     about.echoes, about.large, about.fits, connections)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a bundle ({error})") from None
    except (KeyError, msgspec.MsgspecError) as error:
        raise UserError(f"{path}: is no bundle of netscope's ({error})") from None


def _of_nodes(files: dict[str, bytes], directory: str, kind: Any) -> dict[str, Any]:
    return {name.removeprefix(directory).removesuffix(".json"): msgspec.json.decode(data, type=kind)
            for name, data in files.items() if name.startswith(directory)}


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST:
        raise tarfile.TarError(f"{member.name} is larger than {LARGEST} bytes")
    found = archive.extractfile(member)
    return found.read() if found else b""
