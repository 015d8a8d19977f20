"""A libvirt of our own, where the machine has none that runs: the daemon, its bridges, dnsmasq, rules and QEMUs in namespaces.

    STATE/host.json                 its pid 1 (`Place`); with it the kernel takes away all of that
    STATE/{etc,lib,cache,log}       what it sees as /etc/libvirt, /var/lib/libvirt, /var/cache/libvirt, /var/log/libvirt

Must not know: Vagrant. Read next: `minik8s/lab/vms.py`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from minik8s.lab.state import Place, kill_and_wait
from minik8s.lab.steps import tail
from nodecore.errors import Unreachable

VIRSH = ("virsh", "--connect", "qemu:///system")
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
QEMU = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
DIRECTORIES = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"}
# Its own /run as well: libvirt must find no daemon of the machine's there. `--listen` nowhere: a socket in that /run is all.
HOUSE = """
mount --make-rprivate /
for pair in $BINDS; do mount --bind "${pair%%:*}" "${pair#*:}"; done
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/lock /run/libvirt
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
trap 'exit 0' TERM
libvirtd & wait
"""
NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")
PATIENCE = 60.0


def of_the_machine() -> bool:
    """Whether a libvirt answers that is none of ours."""
    for path in SOCKETS:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(path)
            except OSError:
                continue
            return True
    return False


def start(place: Place) -> None:
    """Have one of our own, unless it is there; wait until it answers."""
    if place.pid:
        return
    lay_out(place.path)
    log = place.path / "libvirtd.log"
    env = {**os.environ, "BINDS": " ".join(f"{place.path}/{name}:{path}" for name, path in DIRECTORIES.items())}
    with log.open("ab") as file:
        process = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-ec", HOUSE],
            env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    end = time.monotonic() + PATIENCE
    while not (first := child_of(process.pid)):
        if process.poll() is not None or time.monotonic() > end:
            raise Unreachable(f"libvirtd did not start\n{tail(log)}")
        time.sleep(0.05)
    place.record(first)
    while subprocess.run([*inside(place), *VIRSH, "version"], capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise Unreachable(f"libvirtd does not answer\n{tail(log)}")
        time.sleep(0.2)


def lay_out(path: Path) -> None:
    """The directories it has to itself."""
    for name, source in DIRECTORIES.items():
        (path / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        Path(source).mkdir(parents=True, exist_ok=True)
    for name in ("images", "qemu", "dnsmasq", "network", "boot"):
        (path / "lib" / name).mkdir(exist_ok=True)
    (path / "etc/qemu.conf").write_text(QEMU)
    (path / "etc/libvirtd.conf").write_text('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')


def child_of(pid: int) -> int:
    """The process that one has started: the first of the new pid namespace."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(found[0]) if found else 0


def inside(place: Place) -> list[str]:
    """What to put before a command that is to see that libvirt; nothing where it is the machine's own."""
    pid = place.pid
    return ["nsenter", f"--target={pid}", *NAMESPACES, f"--wdns={os.getcwd()}"] if pid else []


def stop(place: Place) -> None:
    """End it and all of its machines."""
    if pid := place.pid:
        kill_and_wait([pid])
