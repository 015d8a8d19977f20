"""Namespaces of ours end with us and leave nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodecore.errors import NotFound
from nodecore.kernel.netns import Netns, inside

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def ours() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_it_is_another_namespace_with_its_loopback_up() -> None:
    with Netns.create() as ns:
        assert os.readlink(ns.path) != ours()
        assert "LOOPBACK,UP" in ns.run(["ip", "link", "show", "lo"]).stdout


def test_a_thread_comes_back_even_after_an_error() -> None:
    before = ours()
    with Netns.create() as ns:
        with ns.enter():
            assert ours() == os.readlink(ns.path)
        with pytest.raises(ZeroDivisionError), ns.enter():
            raise ZeroDivisionError
        assert ours() == before


def test_a_socket_stays_inside() -> None:
    with Netns.create() as ns:
        with ns.enter():
            server = socket.create_server(("127.0.0.1", 0))
        with server:
            with ns.enter(), socket.create_connection(server.getsockname(), 2):
                pass
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(server.getsockname(), 2)


def test_a_namespace_that_is_gone() -> None:
    ns = Netns.create()
    ns.close()
    with pytest.raises(NotFound), inside(ns.path):
        pass


def test_the_holder_dies_with_its_maker() -> None:
    script = "from nodecore.kernel.netns import Netns; import os, time; print(Netns.create().pid, flush=True); time.sleep(60)"
    maker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert maker.stdout
    holder = int(maker.stdout.readline())
    assert Path(f"/proc/{holder}").exists()
    maker.kill()
    maker.communicate()
    for _ in range(3000):
        stat = Path(f"/proc/{holder}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the holder lives on")
