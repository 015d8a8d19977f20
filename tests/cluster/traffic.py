"""Traffic that goes on while something is killed: a ping every 10 ms, one long TCP connection, a loop of requests."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from types import TracebackType

from nodecore.kernel.netns import inside


class Ping:
    """A ping every 10 ms from a namespace; after the `with` block `lost` says how many were not answered."""

    def __init__(self, netns: str, address: str) -> None:
        self.argv = ["nsenter", f"--net={netns}", "busybox", "ping", "-i", "0.01", "-W", "5", address]
        self.sent = self.lost = 0

    def __enter__(self) -> Ping:
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.argv, stdout=self.output)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)
        with self.output:
            self.output.seek(0)
            text = self.output.read()
        counts = re.search(r"(\d+) packets transmitted", text)
        assert counts, text
        answered = {int(number) for number in re.findall(r"seq=(\d+) ", text)}
        self.sent = int(counts[1]) - 1  # the last one may be under way when it is told to stop
        self.lost = len(set(range(self.sent)) - answered)


def connect_in(netns: str, address: str, port: int) -> socket.socket:
    """A TCP connection made from inside a namespace."""
    with inside(netns):
        return socket.create_connection((address, port), timeout=60)


class Transfer:
    """One connection to an echo server, on which blocks go out and come back until the `with` block ends."""

    BLOCK = 16384

    def __init__(self, netns: str, address: str, port: int) -> None:
        self.socket = connect_in(netns, address, port)
        self.socket.settimeout(90)
        self.stop = threading.Event()
        self.blocks = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Transfer:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop.set()
        self.thread.join()
        self.socket.close()

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                block = self.blocks.to_bytes(8, "big") * (self.BLOCK // 8)
                self.socket.sendall(block)
                came = b""
                while len(came) < len(block):
                    chunk = self.socket.recv(65536)
                    if not chunk:
                        raise ConnectionError(f"closed after {self.blocks} blocks")
                    came += chunk
                if came != block:
                    raise ValueError(f"block {self.blocks} came back changed")
                self.blocks += 1
                time.sleep(0.005)
        except BaseException as error:
            self.error = error


class Requests:
    """HTTP requests one after another from a namespace; every one must be answered."""

    def __init__(self, netns: str, address: str, port: int = 80, pause: float = 0.01) -> None:
        self.target = (netns, address, port)
        self.pause = pause
        self.stop = threading.Event()
        self.answers: list[str] = []
        self.errors: list[str] = []
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Requests:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.stop.wait(self.pause):
            try:
                self.answers.append(fetch(*self.target))
            except OSError as error:
                self.errors.append(f"request {len(self.answers)}: {error!r}")


def fetch(netns: str, address: str, port: int = 80) -> str:
    """One page, fetched from inside a namespace."""
    with connect_in(netns, address, port) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
        came = b""
        while chunk := sock.recv(65536):
            came += chunk
    if not came.startswith(b"HTTP/1.") or b" 200 " not in came.split(b"\r\n")[0]:
        raise ConnectionError(f"answer: {came[:60]!r}")
    return came.partition(b"\r\n\r\n")[2].decode()
