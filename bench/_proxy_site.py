"""A node for measurements of the proxy: a namespace, an API server, a real kube-proxy-py process, the kernel's own news."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from _proxy_api import Api, pod, six, vip  # noqa: E402

from nodecore.kernel.iptables import Iptables  # noqa: E402
from nodecore.kernel.netns import Netns  # noqa: E402
from nodecore.kernel.nftnews import open_monitor  # noqa: E402
from nodecore.net import Family  # noqa: E402

PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


class Site:
    """A namespace with an API server of `size` Services; `start` runs a proxy there, in `nftables` or `iptables-VARIANT` mode."""

    def __init__(self, size: int, mode: str = "nftables", *, dual: bool = False) -> None:
        self.size, self.dual = size, dual
        self.mode, _, self.variant = mode.partition("-")
        self._stack = contextlib.ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        self.space = self._stack.enter_context(Netns.create())
        with self.space.enter():
            sock = socket.create_server(("127.0.0.1", 0))
        self.api = Api(sock, size, dual=dual)
        self._stack.callback(self.api.close)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._stack.callback(self._ready.close)
        self._ready.bind(str(self.directory / "notify"))
        self._ready.settimeout(PATIENCE)
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{sock.getsockname()[1]}"}}
        (self.directory / "kubeconfig").write_text(json.dumps({
            "current-context": "c", "clusters": [cluster], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}]}))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stack.close()

    def start(self, *flags: str) -> float:
        """Start a proxy and return the seconds until it says that everything is written, which is checked."""
        argv = [sys.executable, "-m", "proxy", "--kubeconfig", str(self.directory / "kubeconfig"), "--proxy-mode", self.mode,
                "--hostname-override", "node-1", "--cluster-cidr", "10.128.0.0/9" + ",fd00:10::/32" * self.dual, *flags]
        if self.variant:  # told by a chain of the kubelet's
            self.space.run([f"iptables-{self.variant}", "-w", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"], check=False)
        with (self.directory / "log").open("ab") as log:
            begun = time.perf_counter()
            self.process = self.space.popen(argv, cwd=ROOT, stderr=log, stdout=log,
                                            env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")})
        try:
            said = self._ready.recv(100)
        except TimeoutError:
            raise RuntimeError((self.directory / "log").read_text()[-4000:]) from None
        took = time.perf_counter() - begun
        assert said == b"READY=1", said
        self._check()
        return took

    def _check(self) -> None:
        last = vip(self.size - 1)
        if self.variant:
            saved = self.space.run([f"iptables-{self.variant}-save", "-t", "nat"]).stdout
            if saved.count(f"-d {last}/32 ") != 2:
                raise RuntimeError(f"{last} is not in the rules")
            return
        for family, address in (("ip", last), ("ip6", six(last)))[:1 + self.dual]:
            self.space.run(["nft", "get", "element", family, "kube-proxy-py", "services", f"{{ {address} . tcp . 80 }}"])

    def stop(self, *, rules_too: bool = True) -> None:
        """End the proxy, and its rules."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if rules_too:
            self.space.run(["nft", "flush", "ruleset"])
            for table in ("nat", "filter", "mangle") if self.variant == "legacy" else ():
                for verb in "-F", "-X":
                    self.space.run(["iptables-legacy", "-w", "-t", table, verb])

    def memory(self) -> tuple[float, float]:
        """MB resident now, and at most so far."""
        assert self.process
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        now, most = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def seconds_of_processor(self) -> float:
        """What the proxy and its children have used."""
        assert self.process
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / TICKS

    def monitor(self) -> socket.socket:
        """A socket that hears every change of the rules."""
        with self.space.enter():
            return open_monitor()

    @contextlib.contextmanager
    def size_of_table(self) -> Iterator[Callable[[], bytes]]:
        """Of iptables-legacy, which tells nobody of changes: asks for the size of the table nat."""
        tool = Iptables()
        with self.space.enter():
            yield lambda: tool.registered(Family.IPV4).get("nat", b"")


def packed(number: int) -> bytes:
    """A pod's address as it stands in a message to or from the kernel."""
    return socket.inet_aton(pod(number))


def load() -> list[float]:
    """What else the machine does."""
    return [round(figure, 1) for figure in os.getloadavg()]


def judged(name: str, value: float, target: float, unit: str) -> dict[str, Any]:
    """A figure beside its target, printed."""
    met = value <= target
    print(f"{name:<52} {value:>9.3f} {unit:<3} target {target:g} {unit} {'met' if met else 'MISSED'}", flush=True)
    return {"value": round(value, 4), "target": target, "unit": unit, "met": met}


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
