"""A control plane of real processes on loopback: etcd, apiserver, and whichever of our agents a test wants.

    with Plane.start(directory) as plane:
        plane.agent("controllers"); plane.kubectl("get", "nodes")

The tests play the kubelet: they set the status of pods through the API, which is input like any other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.etcdserver import EtcdServer, Pki, free_ports, make_pki

KUBECTL = shutil.which("kubectl") or "kubectl"
TOKEN = "test-admin-token"
IDENTITIES = {"controllers": "system:kube-controller-manager,2", "scheduler": "system:kube-scheduler,2",
              "kubelet": 'system:node:cell-1,2,"system:nodes"'}


def until(check: Callable[[], Any], what: str, timeout: float = 60.0, pause: float = 0.03) -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(pause)


@dataclass
class Agent:
    """A child process that told it is ready."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    notify: socket.socket
    started: float = field(default_factory=time.monotonic)

    def ready(self, timeout: float = 90.0) -> float:
        """Wait for READY=1; the seconds it took."""
        self.notify.settimeout(0.2)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in self.notify.recv(4096):
                    return time.monotonic() - self.started
            except TimeoutError:
                assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()[-3000:]}"
        raise AssertionError(f"{self.name} is not ready:\n{self.log.read_text()[-3000:]}")

    def kill9(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.notify.close()

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Plane:
    """etcd and the API, ready."""

    directory: Path
    etcd: EtcdServer
    pki: Pki
    port: int
    flags: tuple[str, ...] = ()
    agents: list[Agent] = field(default_factory=list)

    @classmethod
    def start(cls, directory: Path, *flags: str) -> Plane:
        """`flags` are further ones for the API server."""
        pki = make_pki(directory)
        plane = cls(directory, EtcdServer.start(), pki, free_ports(1)[0], flags)
        try:
            lines = [f'{TOKEN},admin,1,"system:masters"', *(f"{part}-token,{user}" for part, user in IDENTITIES.items())]
            (directory / "tokens.csv").write_text("\n".join(lines))
            for part, token in (("admin", TOKEN), *((part, f"{part}-token") for part in IDENTITIES)):
                (directory / f"{part}.kubeconfig").write_text(json.dumps(plane.config(token)))
            plane.apiserver()
        except BaseException:
            plane.close()
            raise
        return plane

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "admin.kubeconfig"

    def config(self, token: str, port: int = 0) -> dict[str, Any]:
        cluster = {"server": f"https://127.0.0.1:{port or self.port}", "certificate-authority": self.pki.ca}
        return {"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}

    def apiserver(self) -> Agent:
        agent = self.launch("apiserver", [
            "--etcd-servers", self.etcd.endpoint, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
            "--secure-port", str(self.port), "--tls-cert-file", self.pki.cert, "--tls-private-key-file", self.pki.key,
            "--client-ca-file", self.pki.ca, "--token-auth-file", str(self.directory / "tokens.csv"),
            "--service-cluster-ip-range", "10.96.0.0/16", "--cache-dir", str(self.directory / "cache"), *self.flags])
        agent.ready()
        return agent

    def agent(self, part: str, *flags: str) -> Agent:
        """Start `minik8s PART` as who it is in a cluster, and wait until it is ready."""
        agent = self.launch(part, ["--kubeconfig", str(self.directory / f"{part}.kubeconfig"), *flags])
        agent.ready()
        return agent

    def launch(self, part: str, flags: list[str]) -> Agent:
        number = len(self.agents)
        log, path = self.directory / f"{part}-{number}.log", self.directory / f"notify-{number}"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(path))
        env = {**os.environ, "NOTIFY_SOCKET": str(path)}
        with log.open("ab") as file:
            process = subprocess.Popen([sys.executable, "-m", "minik8s", part, *flags], env=env, stdout=file, stderr=file)
        self.agents.append(Agent(part, process, log, notify))
        return self.agents[-1]

    def kubectl(self, *argv: str, body: Any = None, check: bool = True) -> str:
        """What it prints, warnings in the end."""
        done = self._ran(*argv, body=body, check=check)
        return done.stdout + done.stderr

    def _ran(self, *argv: str, body: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [KUBECTL, "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.directory / "kubectl"), *argv], text=True,
            input=json.dumps(body) if body is not None else None, capture_output=True, timeout=240)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stderr}{done.stdout}\n{self.tails()}"
        return done

    def get(self, *argv: str) -> Any:
        return json.loads(self._ran("get", *argv, "-o", "json").stdout)

    def apply(self, *bodies: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", body={"apiVersion": "v1", "kind": "List", "items": list(bodies)})

    def tails(self) -> str:
        return "\n".join(f"--- {agent.name}\n{agent.log.read_text()[-1500:]}" for agent in self.agents)

    def close(self) -> None:
        for agent in reversed(self.agents):
            agent.stop()
        self.etcd.close()

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
