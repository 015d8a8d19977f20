"""A node to test the kubelet in: network, mount and pid namespaces of its own, with a containerd and a kubelet inside.

Nothing of the host changes: mounts live and die with the namespace, everything else below one temporary directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from minik8s.kubelet.cgroups import hierarchies
from minik8s.lab.containerd import config_toml
from minik8s.lab.host import snapshotter
from minik8s.lab.images import write_images
from minik8s.pki.authority import Authority, Identity
from nodecore.kernel.netns import Netns

SUBNET = "10.231.0.0/24"
NODE, NODE_IP = "cell-1", "127.0.0.1"


class Cell:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"kubelet-test-{uuid.uuid4().hex[:8]}"
        self.netns = Netns.create()
        self.kubelet_port = 10250
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "etc-cni").mkdir()
        (directory / "log").mkdir()
        self._write_files()
        self.init = self.netns.popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c",
             "mount -t tmpfs tmpfs /run && mkdir -p /run/containerd && echo up && exec sleep infinity"], stdout=subprocess.PIPE)
        try:
            if not self.init.stdout or self.init.stdout.readline() != b"up\n":
                raise RuntimeError("the cell's namespaces could not be made")
            self.pid = children(self.init.pid)[0]
        except BaseException:
            self.init.kill()
            self.netns.close()
            raise

    def _write_files(self) -> None:
        text = config_toml(runc="/usr/sbin/runc", apparmor=False, snapshotter=snapshotter(self.directory))
        for old, new in (("/var/lib/containerd", f"{self.directory}/containerd"), ("/run/cni-bin", "/usr/lib/cni"),
                         ("/etc/cni/net.d", f"{self.directory}/etc-cni")):
            text = text.replace(old, new)
        (self.directory / "containerd.toml").write_text(text)
        ipam = {"type": "host-local", "subnet": SUBNET, "dataDir": f"{self.directory}/cni"}
        plugins = [{"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam},
                   {"type": "portmap", "capabilities": {"portMappings": True}}]
        conflist = {"name": "cell", "cniVersion": "0.3.1", "plugins": plugins}
        (self.directory / "etc-cni/10-cell.conflist").write_text(json.dumps(conflist))
        write_images(self.directory / "images.tar")
        authority = Authority()
        files = {"ca.crt": authority.pair.certificate}
        for name, identity in (("kubelet", Identity("kubelet", (), (NODE_IP,))),
                               ("client", Identity("kube-apiserver-kubelet-client", ("system:masters",))),
                               ("stranger", Identity("stranger"))):
            pair = authority.issue(identity)
            files |= {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}
        for name, content in files.items():
            (self.directory / name).write_bytes(content)

    def inside(self, argv: list[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "--", *argv]

    def start(self, name: str, argv: list[str]) -> None:
        log = (self.directory / f"log/{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(self.inside(argv), stdout=log, stderr=log)
        log.close()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill the process itself, not the nsenter that waits for it."""
        process = self.processes.pop(name)
        for child in children(process.pid) or [process.pid]:
            os.kill(child, number)
        process.wait(10)

    def start_containerd(self) -> None:
        self.start("containerd", ["containerd", "-c", f"{self.directory}/containerd.toml"])

    def import_images(self) -> None:
        command = self.inside(["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", snapshotter(self.directory),
                               f"{self.directory}/images.tar"])
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, done.stderr + (self.directory / "log/containerd.log").read_text()[-3000:]
            time.sleep(0.1)

    def start_kubelet(self, kubeconfig: Path) -> None:
        pki = self.directory
        self.start("kubelet", [
            sys.executable, "-m", "minik8s", "kubelet", "--kubeconfig", str(kubeconfig), "--hostname-override", NODE,
            "--node-ip", NODE_IP, "--tls-cert-file", f"{pki}/kubelet.crt", "--tls-private-key-file", f"{pki}/kubelet.key",
            "--client-ca-file", f"{pki}/ca.crt", "--port", str(self.kubelet_port), "--root-dir", f"{self.directory}/kubelet",
            "--pod-log-dir", f"{self.directory}/pods", "--cgroup-root", f"/{self.name}",
            "--container-log-max-size", "64Ki", "--container-log-max-files", "3", "-v", "4",
        ])

    def clean_up(self) -> subprocess.CompletedProcess[str]:
        """What the kubelet does with --cleanup."""
        argv = [sys.executable, "-m", "minik8s", "kubelet", "--cleanup", "--root-dir", f"{self.directory}/kubelet",
                "--pod-log-dir", f"{self.directory}/pods"]
        return subprocess.run(self.inside(argv), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def listen(self) -> socket.socket:
        """A listening socket inside."""
        with self.netns.enter():
            return socket.create_server(("127.0.0.1", 0))

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        with self.netns.enter():
            return socket.create_connection((host, port), timeout=60)

    def log(self, name: str) -> str:
        path = self.directory / f"log/{name}.log"
        return path.read_text() if path.exists() else ""

    def cgroups(self) -> list[Path]:
        return [path for root in hierarchies() if (path := root / self.name).is_dir()]

    def close(self) -> None:
        for name in list(self.processes):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.kill(name)
        os.kill(self.pid, signal.SIGKILL)
        self.init.wait(10)
        self.netns.close()
        deadline = time.monotonic() + 60
        while self.cgroups() and time.monotonic() < deadline:
            for top in self.cgroups():
                for path in sorted((item for item in [top, *top.rglob("*")] if item.is_dir()), key=lambda item: -len(item.parts)):
                    with contextlib.suppress(OSError):
                        path.rmdir()
            time.sleep(0.05)
        assert not self.cgroups()


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextlib.contextmanager
def cell(directory: Path) -> Iterator[Cell]:
    made = Cell(directory)
    try:
        made.start_containerd()
        made.import_images()
        yield made
    finally:
        made.close()
