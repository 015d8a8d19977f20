"""Makes one node: its namespaces, its cable to the switch, its mounts; then becomes its pid 1.

    python -m minik8s.lab.node STATE/nodes/NAME SWITCH_PID [FD]      a node; FD is the API's socket on the host
    python -m minik8s.lab.node STATE/switch                          the underlay switch

Nothing is mounted or named outside: the kernel takes the whole node away when its pid 1 ends. Progress goes to
stdout for `lab up`: `pid N`, then `ready`. A node sees a host's usual paths, but /run, /etc, /tmp, /var/lib, /var/log
and /var/cache are its own, and /run/lab is its directory in the lab's state.

Standard library only. Read next: `minik8s/lab/init.py`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from minik8s.lab import init
from minik8s.lab.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind,
    mount,
    unshare,
)

HARDENED = MS_NOSUID | MS_NODEV | MS_NOEXEC
OWN = ("/var/lib", "/var/log", "/var/cache", "/tmp")
COVERED = (*OWN, "/run", "/etc")
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/bridge/bridge-nf-call-iptables": "1",
}


def call(argv: list[str], stdin: str) -> None:
    """Run a program to its end with some input; raise when it fails."""
    read, write = os.pipe()
    os.write(write, stdin.encode())
    os.close(write)
    pid = os.posix_spawnp(argv[0], argv, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)])
    os.close(read)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(f"{' '.join(argv)}: exit code {code}, input: {stdin!r}")


def tell(text: str) -> None:
    """One line of progress for `lab up`."""
    os.write(1, f"{text}\n".encode())


def read_spec(directory: str) -> dict[str, Any]:
    """Read what this process is to become, and move into the lab's control groups."""
    with open(f"{directory}/spec.json") as file:
        spec: dict[str, Any] = json.load(file)
    for path in spec["cgroups"]:
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write("0")
    return spec


def plug(spec: dict[str, Any], switch_pid: int) -> None:
    """Lay the cable: a pair of devices made in the switch, its far end in this process's namespace."""
    port, me = spec["port"], os.getpid()
    call(["nsenter", f"--net=/proc/{switch_pid}/ns/net", "ip", "-batch", "-"], (
        f"link add {port} type veth peer name eth0 address {spec['mac']} netns {me}\n"
        f"link set {port} master {spec['bridge']} up\n"))
    call(["ip", "-batch", "-"], (
        f"link set lo up\nlink set eth0 up\n{addresses(spec, 'eth0')}"
        + "".join(f"route add {destination} via {gateway}\n" for destination, gateway in spec["routes"])))


def addresses(spec: dict[str, Any], device: str) -> str:
    """The lines that add them; nobody else can have them, so they are good at once."""
    return "".join(f"addr add {text} dev {device}{' nodad' if ':' in text else ''}\n" for text in spec["addresses"])


def write_sysctls() -> None:
    """Set what a node of Kubernetes needs; what this kernel lacks is left out."""
    for name, value in SYSCTLS.items():
        try:
            with open(f"/proc/sys/{name}", "w") as file:
                file.write(value)
        except FileNotFoundError:
            continue


def sys_mounts() -> list[str]:
    """The uppermost mounts below /sys (the control groups, bpf and the like)."""
    with open("/proc/self/mountinfo") as file:
        points = sorted({line.split()[4] for line in file if line.split()[4].startswith("/sys/")})
    return [point for point in points if not any(point.startswith(f"{other}/") for other in points)]


def covered(path: str) -> bool:
    """Whether a path disappears below a node's own directories."""
    return any(path == top or path.startswith(f"{top}/") for top in COVERED)


def arrange_mounts(directory: str, keep: list[str]) -> None:
    """Give the node its own /proc, /sys, /run, /etc and /var; `keep` stays visible where it is."""
    opened = {path: os.open(path, os.O_PATH) for path in [*sys_mounts(), *filter(covered, keep)]}
    home = os.open(directory, os.O_PATH)
    mount("proc", "/proc", "proc", HARDENED)
    mount("sysfs", "/sys", "sysfs", HARDENED)
    overlay_etc(directory)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for path in ("/run/lab", "/run/lock", "/run/services"):
        os.mkdir(path)
    bind(f"/proc/self/fd/{home}", "/run/lab", recursive=False)
    os.symlink("/run/lab/cni-bin", "/run/cni-bin")
    for path in OWN:
        bind(f"/run/lab/root{path}", path, recursive=False)
    for path, fd in opened.items():
        if covered(path):
            os.makedirs(path, exist_ok=True)
        if os.path.isdir(path):
            bind(f"/proc/self/fd/{fd}", path)
        os.close(fd)
    os.close(home)


def overlay_etc(directory: str) -> None:
    """The host's /etc with the node's own files over it."""
    upper, work = f"{directory}/root/etc", f"{directory}/work"
    try:
        mount("overlay", "/etc", "overlay", 0, f"lowerdir=/etc,upperdir={upper},workdir={work}")
    except OSError:  # the state lies on an overlay itself (a container): a copy in memory does as well
        mount("tmpfs", work, "tmpfs", MS_NOSUID | MS_NODEV)
        os.mkdir(f"{work}/work")
        call(["cp", "-a", upper, f"{work}/upper"], "")
        mount("overlay", "/etc", "overlay", 0, f"lowerdir=/etc,upperdir={work}/upper,workdir={work}/work")


def become_node(directory: str, switch_pid: int, fds: list[int]) -> None:
    """Turn this process into a node; returns never."""
    spec = read_spec(directory)
    unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    plug(spec, switch_pid)
    write_sysctls()
    socket.sethostname(spec["name"])
    unshare(CLONE_NEWPID)
    if pid := os.fork():
        tell(f"pid {pid}")
        os._exit(0)
    arrange_mounts(directory, spec["keep"])
    os.chdir("/")
    init.serve(spec, sockets=dict(zip(spec["sockets"], fds, strict=False)), started=lambda: tell("ready"))


def become_switch(directory: str) -> None:
    """Turn this process into the underlay's switch: a bridge in a namespace, and somebody to hold it."""
    spec = read_spec(directory)
    unshare(CLONE_NEWNET | CLONE_NEWUTS)
    socket.sethostname("switch")
    call(["ip", "-batch", "-"], (
        f"link set lo up\nlink add {spec['bridge']} address {spec['mac']} type bridge\n"
        f"link set {spec['bridge']} up\n{addresses(spec, spec['bridge'])}"))
    tell(f"pid {os.getpid()}")
    tell("ready")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.execvp("sleep", ["sleep", "infinity"])


def main(argv: list[str]) -> None:
    """Read the arguments and become what they say."""
    directory, *rest = argv
    if rest:
        become_node(directory, int(rest[0]), [int(fd) for fd in rest[1:]])
    else:
        become_switch(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
