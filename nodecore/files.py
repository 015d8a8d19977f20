"""Files that the user named: their bytes, or the JSON or YAML in them; what is wrong is a `UserError` naming flag and file.

Must not know: what is in them. Read next: `nodecore/errors.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nodecore.errors import UserError


def read_bytes(path: str, what: str = "") -> bytes:
    """All of it; `what` is the flag, where a message that names the file alone does not say enough."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{named(path, what)}: {error.strerror}") from None


def read_document(path: str, what: str = "") -> Any:
    """The JSON or YAML in it."""
    raw = read_bytes(path, what)
    try:  # JSON is YAML too, and read without its reader in memory
        return json.loads(raw)
    except ValueError:
        import yaml

        try:
            return yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise UserError(f"{named(path, what)}: neither JSON nor YAML: {' '.join(str(error).split())}") from None


def look(path: str) -> tuple[int, ...] | None:
    """What changes with a file, also with one behind a link, as a ConfigMap's; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def named(path: str, what: str) -> str:
    """As messages call the file."""
    return f"{what}: {path}" if what else path
