"""Machines under a real systemd: containers of systemd-nspawn on one switch, each with Debian and this checkout in /opt.

They share this kernel, not the host's namespaces: all of a site lives in namespaces of its own and ends with one process.
The root is that of the virtual machine (`tests/vm/image.py`) below an overlay. Read next: `tests/packaging/test_services.py`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import image

INSIDE = "/opt/flanneld-py"
MASKED = ("vm-command.service", "systemd-udevd.service", "etcd.service", "apparmor.service")
CGROUPS = ("systemd", "unified", "")
SITE = """
mount --make-rprivate /; mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/nspawn
ip link set lo up; ip link add switch type bridge; ip link set switch up; ip addr add 10.99.0.1/24 dev switch
echo up; exec sleep infinity
"""
MACHINE = """
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$PLACE/root" --machine="$NAME" --capability=all \
  --network-bridge=switch --console=pipe --bind=/dev/net/tun
"""


def require(request: pytest.FixtureRequest) -> None:
    """Skip, with the reason, where there can be no such machines; else have the Debian they are made of."""
    if "vm" not in request.config.getoption("-m"):
        pytest.skip("runs Debian under a systemd of its own, some minutes: ./lab test -m vm")
    reason = image.lacking() or ("not installed: systemd-container" if shutil.which("systemd-nspawn") is None else "")
    if reason:
        pytest.skip(reason)
    needed = {step: key for step, key in image.keys().items() if step not in ("project", "disk")}
    if any(image.stamp_of(step) != key for step, key in needed.items()) or not image.stamp_of("project"):
        with image.only_one():
            image.build(print)


class Machine:
    """One container."""

    def __init__(self, site: Site, name: str, place: Path, address: str) -> None:
        self.site, self.name, self.place, self.address = site, name, place, address
        for part in ("upper/etc/systemd/system", "work", "root"):
            (place / part).mkdir(parents=True)
        for unit in MASKED:
            (place / "upper/etc/systemd/system" / unit).symlink_to("/dev/null")
        image.write(place / "upper/etc/hostname", f"{name}\n")
        image.write(place / "upper/etc/machine-id", f"{secrets.token_hex(16)}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write one of its files; before it boots."""
        image.write(self.place / "upper" / path, text, mode)

    def boot(self, *, network: bool = True) -> None:
        """Start it, and wait until systemd answers."""
        environment = {**os.environ, "LOWER": str(image.cache() / "root"), "PLACE": str(self.place), "NAME": self.name}
        groups = [self.site.cgroup(self.name, each) for each in CGROUPS]
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups if group)
        with (self.place / "console").open("ab") as console:
            self.process = subprocess.Popen(
                ["nsenter", f"--target={self.site.pid}", "--net", "--mount", "--pid", "bash", "-ec",
                 f"{join}exec unshare --mount bash -ec '{MACHINE}'"],
                env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
        self.until("systemctl is-active basic.target", seconds=60)
        if network:
            self.plug()

    def plug(self) -> None:
        """Give it its address: the cable was there, the network was not."""
        self.run(f"ip addr add {self.address}/24 dev host0; ip link set host0 up; ip route add default via 10.99.0.1")

    @property
    def leader(self) -> int:
        """Its pid 1."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        for pid in pids:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n" \
                        and str(self.place) in Path(f"/proc/{pid}/mountinfo").read_text():
                    return pid
        raise LookupError(self.name)

    def run(self, script: str, *, check: bool = True, seconds: float = 120) -> str:
        """Run a script in it; what it said."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", "--root", "--wdns=/", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8",
             f"PATH=/usr/sbin:/usr/bin:{INSIDE}/.venv/bin", "bash", "-ec", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {script}: {done.returncode}\n{done.stdout[-4000:]}")
        return done.stdout

    def until(self, script: str, *, seconds: float = 60) -> float:
        """Wait until a script succeeds; how long it took."""
        begin, said = time.monotonic(), ""
        while time.monotonic() < begin + seconds:
            with contextlib.suppress(LookupError, subprocess.TimeoutExpired):
                said = self.run(f"{{ {script}\n}} && echo ++good++", check=False, seconds=20)
                if "++good++" in said:
                    return time.monotonic() - begin
            time.sleep(0.2)
        raise AssertionError(f"{self.name}: not within {seconds:g} s: {script}\n{said[-3000:]}\n{self.journal()}")

    def journal(self) -> str:
        """The end of its log."""
        with contextlib.suppress(Exception):
            return self.run("journalctl -q --no-pager -n 60", check=False)
        return (self.place / "console").read_text(errors="replace")[-2000:]

    def power_off(self) -> None:
        """Pull the plug."""
        with contextlib.suppress(LookupError, ProcessLookupError):
            os.kill(self.leader, signal.SIGKILL)
        if self.process:
            self.process.wait(20)


class Site:
    """A switch and the machines at it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.machines = path, f"flanneld-py-{secrets.token_hex(3)}", list[Machine]()
        argv = ["setpriv", "--pdeathsig", "KILL",  # whatever becomes of who tests
                "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-ec", SITE]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.process.stdout
        self.process.stdout.readline()
        self.pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def cgroup(self, machine: str, hierarchy: str) -> Path | None:
        """A control group for a machine, where there is such a hierarchy."""
        top = Path("/sys/fs/cgroup") / hierarchy
        if not (top / "cgroup.procs").exists():
            return None
        group = top / self.name / machine
        group.mkdir(parents=True, exist_ok=True)
        return group

    def machine(self, *, checkout: bool = True) -> Machine:
        """One more, not booted."""
        number = len(self.machines) + 1
        name = f"{self.name[-6:]}-{number}"
        self.machines.append(Machine(self, name, self.path / name, f"10.99.0.{10 + number}"))
        if checkout:
            image.copy_checkout(self.machines[-1].place / "upper" / INSIDE.lstrip("/"))
        return self.machines[-1]

    def close(self) -> None:
        """End all of them."""
        for machine in self.machines:
            machine.power_off()
        self.process.kill()
        self.process.wait()
        for hierarchy in CGROUPS:
            for group in sorted((Path("/sys/fs/cgroup") / hierarchy / self.name).glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()


@contextlib.contextmanager
def site(path: Path) -> Iterator[Site]:
    """A site for as long as it is needed."""
    made = Site(path)
    try:
        yield made
    finally:
        made.close()
