"""What Vagrant's machines are given: a box of Debian's packages alone, packages of this checkout, images, the CA and a token.

    CACHE/debian.box                made from `debian.py`'s directory and the share by vagrant/box/assemble.sh
    vagrant/dist/share/             is in the box, and goes into each machine where it differs: *.deb, images.tar, hello.yaml
    vagrant/dist/made.json          what the Vagrantfile has to know, secrets included

Each is made again only when what it depends on has changed. Read next: `vagrant/Vagrantfile`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from minik8s.lab import debian
from minik8s.lab.host import PROJECT
from minik8s.lab.state import write_atomically
from nodecore.errors import UserError

VAGRANT = PROJECT / "vagrant"
DIST = VAGRANT / "dist"
SHARE = DIST / "share"
SOURCES = ("nodecore", "flanneld_py", "proxy", "minik8s", "netscope", "packaging", "pyproject.toml", "constraints.txt",
           "vagrant/hello.yaml")
NEEDED = debian.NEEDED | {"qemu-img": "qemu-utils", "sfdisk": "fdisk"}
PSK_BYTES = 48
PUBLIC_KEY = "gems/vagrant-*/keys/vagrant.pub"
GEMS = ("/usr/share/rubygems-integration/all", "/opt/vagrant/embedded")
Say = Callable[[str], None]


def prepare(say: Say, *, box: bool) -> None:
    """Make whatever is missing of all that; the box only where it is wanted."""
    known = read_made()
    with timed(say, "packages of this checkout, and images") as said:
        key = debian.digest(*(text for name in SOURCES for text in texts(PROJECT / name)))
        if known.get("share") != key or not (SHARE / "images.tar").exists():
            said()
            fill_share()
    made = {**cluster(known), "share": key}
    if box:
        step = box_step(key)
        made |= {"box": f"flanneld-py/debian-12-{step.key}", "box_file": str(ensure_box(step, say))}
    if made != known:
        write_atomically(DIST / "made.json", json.dumps(made, indent=1) + "\n")
    give_to_owner(DIST)


@contextlib.contextmanager
def timed(say: Say, name: str) -> Iterator[Callable[[], None]]:
    """Say how long something took, where it was done at all: where the caller called what it is given."""
    begin, done = time.monotonic(), list[bool]()
    yield lambda: done.append(True)
    if done:
        say(f"{time.monotonic() - begin:7.1f} s {name}")


def read_made() -> dict[str, str]:
    """What was made the last time."""
    try:
        found: dict[str, str] = json.loads((DIST / "made.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def texts(path: Path) -> list[str]:
    """A file's or a tree's names and contents, as far as they are sources."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{each.relative_to(PROJECT)}\0{each.read_bytes().hex()}" for each in files
            if each.is_file() and "__pycache__" not in each.parts]


def fill_share() -> None:
    """Build the packages, from wheels that are made once, and the images."""
    from minik8s.lab.images import write_images

    if sys.version_info[:2] != debian.PYTHON:
        raise UserError(f"the machines' packages are made for Python {'.'.join(map(str, debian.PYTHON))}, that of Debian 12: "
                        "run this with that version")
    fresh = SHARE.with_name("share.new")
    shutil.rmtree(fresh, ignore_errors=True)
    debian.cache().mkdir(parents=True, exist_ok=True)
    debian.call(sys.executable, str(PROJECT / "packaging/deb/build.py"), "--output", str(fresh), "--wheels", str(debian.wheels()))
    write_images(fresh / "images.tar")
    shutil.copy(VAGRANT / "hello.yaml", fresh)
    shutil.rmtree(SHARE, ignore_errors=True)
    fresh.replace(SHARE)


def cluster(known: dict[str, str]) -> dict[str, str]:
    """The authority, its hash, a token and ipsec's key: known beforehand, so that machines can come up in any order."""
    psk = {"psk": known.get("psk") or secrets.token_hex(PSK_BYTES)}
    if {"ca", "ca_key", "pin", "token"} <= set(known):
        return psk | {name: known[name] for name in ("ca", "ca_key", "pin", "token")}
    from minik8s.access.join import pin_of
    from minik8s.access.token import new_token
    from minik8s.pki.authority import Authority

    pair = Authority().pair
    ca = pair.certificate.decode()
    return psk | {"ca": ca, "ca_key": pair.key.decode(), "pin": pin_of(ca), "token": new_token()}


def box_step(share: str) -> debian.Step:
    """The box, and what it depends on; the packages are installed in it already, so that no machine spends minutes on it."""
    return debian.Step("box", debian.digest(debian.step().key, share, *texts(VAGRANT / "box")), make_box)


def box_file() -> Path:
    """Where the box is."""
    return debian.cache() / "debian.box"


def ensure_box(step: debian.Step, say: Say) -> Path:
    """The box, made if it is not there; minutes the first time."""
    if debian.stamp_of("box") != step.key or not box_file().exists():
        if reason := debian.lacking(NEEDED):
            raise UserError(reason)
        say("        making the box of Debian's packages and this checkout's ...")
        with debian.only_one():
            debian.carry_out([debian.step(), step], say)
    return box_file()


def make_box(root: Path) -> None:
    """Lay what Vagrant needs over the directory, and write disk and box."""
    debian.call(str(VAGRANT / "box/assemble.sh"), str(root), str(box_file()), str(public_key()), str(SHARE))


def public_key() -> Path:
    """The key that Vagrant's first login is made with, as every box has it; it comes with Vagrant."""
    for place in GEMS:
        if found := sorted(Path(place).glob(PUBLIC_KEY)):
            return found[-1]
    raise UserError(f"not installed: vagrant (no {PUBLIC_KEY} below {' or '.join(GEMS)})")


def give_to_owner(path: Path) -> None:
    """Files made by sudo belong to whoever has the checkout: Vagrant need not run as root."""
    owner = PROJECT.stat()
    for each in (path, *path.rglob("*")):
        if each.stat().st_uid != owner.st_uid:
            os.chown(each, owner.st_uid, owner.st_gid)
