"""Many watchers in one process of its own: `_api_watchers.py HOST PORT CA TOKEN COUNT PATH`.

Opens COUNT connections over TLS, asks each for the watch, says `open` when all have their answer's head; then says, in a line
of JSON for each number on its input, the delays (ms) from the stamp in the event to the moment each watcher has read it.
One epoll and bare TLS sockets, so that the client's own share of a delay stays small.
"""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import ssl
import sys
import time

STAMP = re.compile(rb'"stamp":"(\d+)"')


def connect(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection((host, port), 30), server_hostname=host)


def main() -> None:
    host, port, ca, token, count, path = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    context = ssl.create_default_context(cafile=ca)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\r\n".encode()
    poll, sockets = select.epoll(), {}
    for _ in range(int(count)):
        sock = connect(host, int(port), context)
        sock.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"refused: {head[:500]!r}")
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
        sockets[sock.fileno()] = sock
    print("open", flush=True)
    for line in sys.stdin:
        print(json.dumps(gather(poll, sockets, int(line))), flush=True)


def gather(poll: select.epoll, sockets: dict[int, ssl.SSLSocket], events: int) -> list[float]:
    """The delays of so many events at each watcher."""
    delays: list[float] = []
    wanted, end = events * len(sockets), time.monotonic() + 60
    while len(delays) < wanted and time.monotonic() < end:
        for number, _ in poll.poll(1.0):
            try:
                data = sockets[number].recv(262144)
            except ssl.SSLWantReadError:
                continue
            now = time.monotonic_ns()
            delays += [(now - int(stamp)) / 1e6 for stamp in STAMP.findall(data)]
            if not data:
                poll.unregister(number)
    return delays


if __name__ == "__main__":
    main()
