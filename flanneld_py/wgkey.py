"""The file with this node's WireGuard private key: read, or made once.

    WIREGUARD_KEY_FILE=/run/flannel/wgkey     base64, as `wg genkey` and Go flanneld write it; for nobody but its owner

Where /run is emptied at a reboot the node has a new key afterwards, which its lease tells the others. Whoever wants
to keep the key names a file elsewhere.

Must not know: leases, devices. Read next: `flanneld_py/x25519.py`.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from flanneld_py.x25519 import LENGTH, clamp, decode_key
from nodecore.errors import Denied

VARIABLE = "WIREGUARD_KEY_FILE"
DEFAULT = "/run/flannel/wgkey"


def key_file(environment: Mapping[str, str]) -> Path:
    """Where the key is."""
    return Path(environment.get(VARIABLE) or DEFAULT)


def read_or_make_key(path: Path, *, write: bool = True) -> bytes:
    """The private key; a new one is written before it is used, unless this is only a rehearsal."""
    try:
        return decode_key(path.read_text(errors="replace"), f"{VARIABLE}: {path}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Denied(f"{VARIABLE}: {path}: {error.strerror}") from None
    key = clamp(os.urandom(LENGTH))
    if write:
        _write(path, b64encode(key))
    return key


def _write(path: Path, text: bytes) -> None:
    """All of it or nothing; from the first moment readable for its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Denied(f"{VARIABLE}: {path}: {error.strerror}") from None
