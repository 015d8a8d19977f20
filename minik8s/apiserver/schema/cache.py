"""Where the builder's files are and whether they are fresh; reads them, never holds the documents.

Files in the directory: `fingerprint`, `shapes.msgpack`, `v3/index.json`, `v3/<group-version>.json`, `v2.pb`.
Touches: that directory, one child process when it is stale. Must not know: what is in the files.
Read next: `build.py`, which writes them.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

from minik8s.apiserver.schema import definitions, served
from minik8s.apiserver.schema.shapes import Shapes
from nodecore.errors import NotFound, UserError

DEFAULT = Path("/var/cache/minik8s")
OPENAPI_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # kubectl asks with an @, but cannot read one
BUILDER = "minik8s.apiserver.schema.build"


class _Place:
    directory: Path | None = None


def prepare(directory: Path = DEFAULT) -> None:
    """Use this cache directory from now on, building it first if it is missing or made from something else."""
    if not fresh(directory):
        argv = [sys.executable, "-m", BUILDER, "--out", str(directory)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"schema cache {directory} could not be built: {last}")
    _Place.directory = directory
    shapes.cache_clear()


def fingerprint() -> str:
    """What a cache must have been made from to be of use: this package's code, the kinds served, and the definitions' file."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.p*")):
        digest.update(path.read_bytes())
    digest.update(repr((served.RESOURCES, served.SUBRESOURCES, served.EXTRAS)).encode())
    made = definitions.source().stat()
    return f"{digest.hexdigest()} {made.st_size} {made.st_mtime_ns}"


def fresh(directory: Path) -> bool:
    """Whether the directory holds files made from what is installed now."""
    try:
        return (directory / "fingerprint").read_text() == fingerprint()
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def shapes() -> Shapes:
    """The compact tables, kept once read."""
    return Shapes.load(_read("shapes.msgpack"))


def openapi_v3_index() -> bytes:
    """The answer to GET /openapi/v3: each group-version's URL with a hash."""
    return _read("v3/index.json")


def openapi_v3(gv: str) -> bytes:
    """The document of `api/v1`, `apis/apps/v1` ... (as in the URL); NotFound for one not served."""
    if not all(part.replace(".", "").replace("-", "").isalnum() for part in gv.split("/")):
        raise NotFound(f"no OpenAPI document for {gv!r}")
    return _read(f"v3/{gv.replace('/', '_')}.json")


def openapi_v3_shared() -> bytes:
    """The schemas that documents of custom kinds refer to."""
    return _read("v3/shared.json")


def openapi_v2_protobuf() -> bytes:
    """The whole of OpenAPI v2 as a gnostic Document, the only form old kubectl asks for."""
    return _read("v2.pb")


def _read(name: str) -> bytes:
    if _Place.directory is None:
        prepare()
    assert _Place.directory is not None
    try:
        return (_Place.directory / name).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no schema file {name}") from None
