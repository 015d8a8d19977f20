"""A second kernel for a machine: the cloud kernel of Debian 11, fetched with an apt that has its own lists and keys.

The machines have no way out, so the package is brought to them. Debian's newer ones (6.12) do not come up in software: modprobe
hangs in the initial ramdisk. Read next: `tests/vm/test_vagrant.py`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from minik8s.lab import debian

FROM = "bullseye"
NAME = "linux-image-cloud-amd64"


class NotThere(Exception):
    """The mirror carries none; says why."""


def other(place: Path) -> Path:
    """The package, below a directory; raises `NotThere`."""
    for each in ("state/lists/partial", "cache/archives/partial"):
        (place / each).mkdir(parents=True)
    (place / "state/status").touch()
    keys = debian.cache() / "root/usr/share/keyrings/debian-archive-keyring.gpg"
    (place / "sources.list").write_text(f"deb [signed-by={keys}] {debian.MIRROR} {FROM} main\n")
    apt(place, "apt-get", "-qq", "update")
    lines = apt(place, "apt-cache", "depends", NAME).splitlines()
    found = [line.split()[-1] for line in lines if "Depends: linux-image-" in line]
    if not found:
        raise NotThere(f"{FROM} has no {NAME}")
    apt(place, "apt-get", "-qq", "download", found[0])
    return next(place.glob("*.deb"))


def apt(place: Path, program: str, *argv: str) -> str:
    """Run a program of apt's which knows nothing of this machine."""
    options = {
        "Dir::State": place / "state", "Dir::State::status": place / "state/status", "Dir::Cache": place / "cache",
        "Dir::Etc::sourcelist": place / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null", "APT::Sandbox::User": "root", "Acquire::Languages": "none",
        "APT::Architecture": "amd64"}
    done = subprocess.run([program, *(f"-o{name}={value}" for name, value in options.items()), *argv], cwd=place, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300)
    if done.returncode:
        raise NotThere(f"{' '.join([program, *argv])}: {done.stdout[-500:].strip()}")
    return done.stdout
