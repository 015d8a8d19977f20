"""`lab vms`: the cluster of vagrant/Vagrantfile, with a libvirt of our own where the machine has none that runs.

    /var/lib/flanneld-py/vms/       (VMS_STATE replaces it)
        init.json etc/ lib/ ...     `libvirt.py`'s; none of it where the machine's libvirt is used
        settings.json               what `up` was told, for everything later
        home/ machines/             Vagrant's own: boxes, what it knows of the machines
        ssh_config admin.kubeconfig how the machines and the API are reached from inside

Read next: `minik8s/lab/libvirt.py`, `minik8s/lab/vmtest.py`, `vagrant/provision.sh`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from minik8s.lab import box, libvirt
from minik8s.lab.down import remove_files_of
from minik8s.lab.host import PATH
from minik8s.lab.state import Place, write_atomically
from minik8s.lab.steps import Steps
from nodecore.errors import Fault, UserError

DEFAULT = "/var/lib/flanneld-py/vms"
PROGRAMS = {
    "vagrant": "vagrant", "libvirtd": "libvirt-daemon-system", "virsh": "libvirt-clients", "dnsmasq": "dnsmasq-base",
    "rsync": "rsync", "ssh": "openssh-client", "qemu-system-x86_64": "qemu-system-x86", "kubectl": "kubernetes-client"}
PLUGIN = "gems/vagrant-libvirt-*"
FIRST = "node1"


@dataclass(frozen=True)
class Vms:
    """The directory of the machines."""

    path: Path

    @classmethod
    def here(cls) -> Vms:
        """As the environment says."""
        return cls(Path(os.environ.get("VMS_STATE", DEFAULT)).absolute())

    @property
    def place(self) -> Place:
        """Our own libvirt's."""
        return Place(self.path)

    @property
    def settings(self) -> dict[str, str]:
        """The Vagrantfile's variables, as `up` was told them."""
        try:
            found: dict[str, str] = json.loads((self.path / "settings.json").read_text())
        except FileNotFoundError:
            raise UserError("no machines here; `lab vms up` makes them") from None
        return found

    @property
    def complete(self) -> Path:
        """Is there once every machine has been made a node."""
        return self.path / "complete"

    def environment(self) -> dict[str, str]:
        """What Vagrant and those who look at the cluster are told."""
        return {
            **os.environ, **self.settings, "PATH": f"{Path(sys.executable).parent}:{PATH}", "HOME": "/root",
            "VAGRANT_HOME": str(self.path / "home"), "VAGRANT_DOTFILE_PATH": str(self.path / "machines"),
            "VAGRANT_CWD": str(box.VAGRANT), "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
            "LIBVIRT_DEFAULT_URI": "qemu:///system", "KUBECONFIG": str(self.path / "admin.kubeconfig"),
            "NETSCOPE_VIA": f"ssh -F {self.path}/ssh_config {{node}} sudo netscope agent",
        }

    def command(self, argv: list[str]) -> list[str]:
        """A command as it is run where the machines are."""
        return [*libvirt.inside(self.place), *argv]

    def run(self, *argv: str, seconds: float | None = None) -> str:
        """Run one there to its end; what it said, or a Fault with it."""
        try:
            done = subprocess.run(self.command(list(argv)), env=self.environment(), stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Fault(f"{' '.join(argv)}: no end after {seconds:.0f} s") from None
        if done.returncode:
            raise Fault(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-3000:].strip()}")
        return done.stdout

    def ssh(self, node: str, script: str, *, seconds: float = 120) -> str:
        """Run a script in a machine, as root."""
        return self.run("ssh", "-F", f"{self.path}/ssh_config", node, "sudo", "bash", "-c", f"'{script}'", seconds=seconds)

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return [f"node{number + 1}" for number in range(int(self.settings["NODES"]))]


def check() -> None:
    """Raise `UserError` where something is missing, by its package's name."""
    if os.geteuid() != 0:
        raise UserError("not root: run it with sudo")
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=PATH) is None]
    if not any(list(Path(place).glob(PLUGIN)) for place in box.GEMS):
        missing.append("vagrant-libvirt")
    if missing:
        raise UserError(f"not installed: {' '.join(missing)}; `./lab vms` installs what is missing")


def prepare(*, with_box: bool) -> None:
    """Make what the machines are given."""
    box.prepare(lambda text: click.echo(text, err=True), box=with_box)


def up(vms: Vms, given: dict[str, str]) -> None:
    """Have the machines, and a cluster of them; on machines that run it changes nothing."""
    check()
    vms.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = {"NODES": "2", **(vms.settings if (vms.path / "settings.json").exists() else {}), **given}
    write_atomically(vms.path / "settings.json", json.dumps(settings, indent=1) + "\n")
    steps = Steps()
    with steps.step("what the machines are given"):
        prepare(with_box=not settings.get("BOX"))
    if libvirt.of_the_machine():
        click.echo("        this machine's libvirt is used", err=True)
    else:
        with steps.step("libvirt, in namespaces of its own"):
            libvirt.start(vms.place)
    with steps.step("vagrant up"):
        vagrant_up(vms)
    with steps.step("ways to reach them"):
        reach(vms)
    steps.done(f"{len(vms.nodes)} machines; look around: lab vms run kubectl get nodes -o wide; lab vms run vagrant ssh {FIRST}")


def vagrant_up(vms: Vms) -> None:
    """Have Vagrant do it; where an earlier time did not end well, what it would not do by itself a second time as well."""
    again = (vms.path / "machines/machines").exists() and not vms.complete.exists()
    for argv in (["vagrant", "up", "--no-provision"], ["vagrant", "provision"]) if again else (["vagrant", "up"],):
        if code := subprocess.call(vms.command(argv), env=vms.environment(), stdin=subprocess.DEVNULL):
            raise Fault(f"{' '.join(argv)}: exit code {code}; `lab vms up` again goes on from there")
    vms.complete.touch()


def reach(vms: Vms) -> None:
    """Write down how machines and API are reached from where libvirt is."""
    text = vms.run("vagrant", "ssh-config", seconds=300)
    lines = "Host *\n  ControlMaster auto\n  ControlPath /run/ssh-%C\n  ControlPersist 600\n  ServerAliveInterval 15\n"
    write_atomically(vms.path / "ssh_config", f"{text}\n{lines}")
    write_atomically(vms.path / "admin.kubeconfig", vms.ssh(FIRST, "cat /etc/kubernetes/admin.kubeconfig"))


def run(vms: Vms, argv: list[str]) -> None:
    """Become a command that runs where the machines are."""
    command = vms.command(argv)
    os.execvpe(command[0], command, vms.environment())


def down(vms: Vms) -> None:
    """Take the machines away, and what is known of them; the box stays in the cache."""
    if not vms.path.exists():
        return click.echo("no machines here", err=True)
    steps = Steps()
    if vms.place.pid:
        with steps.step("machines, libvirt, their namespaces, bridges and rules with them"):
            libvirt.stop(vms.place)
    elif (vms.path / "machines").exists() and libvirt.of_the_machine():
        with steps.step("vagrant destroy"):
            vms.run("vagrant", "destroy", "--force")
    with steps.step("files"):
        remove_files_of(vms.path)
    return steps.done("the machines are gone")
