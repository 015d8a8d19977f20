"""A real API server as a child process over a real etcd, with certificates made for the test, and kubectl against it."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minik8s.pki.authority import Authority, Identity
from tests.etcdserver import EtcdServer, free_ports

ROOT = Path(__file__).parent.parent.parent
SCHEMA_CACHE = Path(tempfile.gettempdir()) / f"minik8s-schema-{os.getuid()}-{zlib.crc32(bytes(ROOT)):08x}"  # of this checkout
USERS = {
    "admin": Identity("admin", ("system:masters",)),
    "kubelet": Identity("system:node:node-1", ("system:nodes",)),
    "proxy": Identity("system:kube-proxy", ("system:node-proxier",)),
    "scheduler": Identity("system:kube-scheduler"),
    "nobody": Identity("nobody", ("strangers",)),
}


@dataclass
class Answer:
    code: int
    body: Any
    headers: Any


@dataclass
class ApiServer:
    """One API server; `kubectl(...)` and `call(...)` act as a user of USERS."""

    etcd: EtcdServer
    directory: Path
    port: int = 0
    extra: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "minik8s")
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    kept: dict[tuple[int, str], http.client.HTTPSConnection] = field(default_factory=dict, repr=False)

    @classmethod
    def start(cls, etcd: EtcdServer, *extra: str, program: tuple[str, ...] = program) -> ApiServer:
        server = cls(etcd, Path(tempfile.mkdtemp(prefix="api-test-")), free_ports(1)[0], extra, program)
        server.pki()
        try:
            server.launch()
            server.wait()
        except BaseException:
            server.close()
            raise
        return server

    def pki(self) -> None:
        authority = Authority()
        self.file("ca.crt").write_bytes(authority.pair.certificate)
        self.file("ca.key").write_bytes(authority.pair.key)
        serving = Identity("kube-apiserver", (), ("127.0.0.1", "localhost"))
        for name, identity in {**USERS, "server": serving, "node": Identity("node", ("system:masters",), ("127.0.0.1",))}.items():
            pair = authority.issue(identity)
            self.file(f"{name}.crt").write_bytes(pair.certificate)
            self.file(f"{name}.key").write_bytes(pair.key)
        for user in USERS:
            config = {
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.file("ca.crt"))}}],
                "users": [{"name": "c", "user": {"client-certificate": str(self.file(f"{user}.crt")),
                                                 "client-key": str(self.file(f"{user}.key"))}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            }
            self.file(f"{user}.kubeconfig").write_text(json.dumps(config))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def file(self, name: str) -> Path:
        return self.directory / name

    def argv(self) -> list[str]:
        return [
            sys.executable, *self.program, "apiserver", "--etcd-servers", self.etcd.endpoint, "--bind-address", "127.0.0.1",
            "--secure-port", str(self.port), "--advertise-address", "127.0.0.1",
            "--tls-cert-file", str(self.file("server.crt")), "--tls-private-key-file", str(self.file("server.key")),
            "--client-ca-file", str(self.file("ca.crt")),
            "--cluster-signing-cert-file", str(self.file("ca.crt")), "--cluster-signing-key-file", str(self.file("ca.key")),
            "--service-cluster-ip-range", "10.96.0.0/16",
            "--kubelet-client-certificate", str(self.file("admin.crt")), "--kubelet-client-key", str(self.file("admin.key")),
            "--kubelet-certificate-authority", str(self.file("ca.crt")), "--cache-dir", str(SCHEMA_CACHE), *self.extra,
        ]

    def launch(self) -> None:
        with self.file("log").open("ab") as log:
            environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # as the lab starts it
            self.process = subprocess.Popen(self.argv(), stdout=log, stderr=log, cwd=ROOT, env=environment)

    def wait(self, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the API server ended: {self.file('log').read_text()[-3000:]}")
            try:
                if self.call("GET", "/readyz").code == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"the API server did not become ready: {self.file('log').read_text()[-3000:]}")

    def context(self, user: str = "admin") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.file("ca.crt")))
        if user:
            context.load_cert_chain(self.file(f"{user}.crt"), self.file(f"{user}.key"))
        return context

    def connection(self, user: str = "admin", seconds: float = 60) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=seconds, context=self.context(user))

    def call(self, method: str, path: str, body: Any = None, *, user: str = "admin", content: str = "application/json",
             accept: str = "application/json", seconds: float = 60, headers: dict[str, str] | None = None) -> Answer:
        """One request, over the connection that this thread keeps for the user; a new one where the server has ended it."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Accept": accept, **({} if data is None else {"Content-Type": content}), **(headers or {})}
        request, key = (method, path, data, sent), (threading.get_ident(), user)
        kept = self.kept.pop(key, None)
        if kept and select.select([kept.sock], [], [], 0)[0]:  # its end is there to be read
            kept.close()
            kept = None
        return self._ask(key, kept or self.connection(user), request, seconds)

    def _ask(self, key: tuple[int, str], line: http.client.HTTPSConnection, request: tuple[Any, ...], seconds: float) -> Answer:
        line.timeout = seconds
        if line.sock:
            line.sock.settimeout(seconds)
        try:
            line.request(*request)
            reply = line.getresponse()
            answer = _answer(reply.status, reply.read(), reply.headers)
        except BaseException:
            line.close()
            raise
        if line.sock:
            self.kept[key] = line
        return answer

    def kubectl(self, *argv: str, user: str = "admin", stdin: str = "", check: bool = True, binary: str = "kubectl",
                seconds: float = 120, editor: str = "false") -> subprocess.CompletedProcess[str]:
        home = self.file("home")
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [binary, "--kubeconfig", str(self.file(f"{user}.kubeconfig")), *argv], input=stdin, text=True, capture_output=True,
            timeout=seconds, check=False, env={"HOME": str(home), "PATH": os.environ["PATH"], "KUBECTL_BINARY": binary,
                                               "KUBE_EDITOR": editor})
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}\n"
                                 f"{self.file('log').read_text()[-2000:]}")
        return done

    def kill9(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def processor(self) -> float:
        """Its seconds of processor: what a busy machine does not change."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096


def _answer(code: int, raw: bytes, headers: Any) -> Answer:
    try:
        return Answer(code, json.loads(raw), headers)
    except ValueError:
        return Answer(code, raw.decode(errors="replace"), headers)
