"""The one-off child: `python -m minik8s.apiserver.schema.build --out DIR` writes the cache that the API server reads.

Builds beside the directory's files and puts `fingerprint` in last, so that a half-made cache is never taken for a whole
one. Takes about a second. Read next: `definitions.py`, the source; `cache.py`, the reader.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import click
import msgspec

from minik8s.apiserver.schema import compact, definitions, openapi2, openapi3, served
from minik8s.apiserver.schema.cache import DEFAULT, fingerprint, fresh
from nodecore.daemon.entry import run
from nodecore.errors import UserError


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=DEFAULT, show_default=True, help="Directory of the cache.")
@click.option("--force", is_flag=True, help="Build even if the directory is fresh.")
def command(out: Path, *, force: bool) -> None:
    """Make the API server's schema cache from the installed kubernetes-validate."""
    if force or not fresh(out):
        try:
            build(out)
        except OSError as error:
            raise UserError(f"--out {out}: {error.strerror}") from None


def build(out: Path) -> None:
    """Write every file, the fingerprint last."""
    (out / "v3").mkdir(parents=True, exist_ok=True)
    (out / "fingerprint").unlink(missing_ok=True)
    known = definitions.load()
    _write(out / "shapes.msgpack", compact.compact(known, served.kinds()).dump())
    index = {}
    for gv in served.group_versions():
        body = msgspec.json.encode(openapi3.document(known, gv))
        _write(out / "v3" / f"{gv.replace('/', '_')}.json", body)
        digest = hashlib.sha256(body).hexdigest()[:40].upper()
        index[gv] = {"serverRelativeURL": f"/openapi/v3/{gv}?hash={digest}"}
    _write(out / "v3" / "shared.json", msgspec.json.encode(openapi3.shared(known)))
    _write(out / "v3" / "index.json", msgspec.json.encode({"paths": index}))
    _write(out / "v2.pb", openapi2.document(known))
    _write(out / "fingerprint", fingerprint().encode())


def _write(path: Path, body: bytes) -> None:
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_bytes(body)
    part.replace(path)


if __name__ == "__main__":
    run(command, "minik8s schema")
