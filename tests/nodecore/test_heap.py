"""A process that gives back what it no longer needs: soon after work, and not for nothing."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from asyncio import sslproto
from pathlib import Path

import pytest

from minik8s.pki.authority import Authority, Identity
from nodecore.daemon import heap


async def test_who_does_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "PERIOD", 0.01)
    waiting = asyncio.create_task(heap._work_done(0.2))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    await asyncio.wait_for(waiting, 30)


async def test_a_small_connection_carries_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pieces of all sizes there and back; and no attribute of asyncio's has come to lie in a dictionary."""
    monkeypatch.setattr(sslproto, "SSLProtocol", heap.SmallProtocol)
    pair = Authority().issue(Identity("server", (), ("127.0.0.1",)))
    (tmp_path / "pem").write_bytes(pair.certificate + pair.key)
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(tmp_path / "pem")
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    extra: list[object] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        extra.append(vars(writer.transport._ssl_protocol))  # type: ignore[attr-defined]
        while data := await reader.read(70_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=serving) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=asking)
        for size in (1, 4096, 4097, 65_537, 1_000_000):
            sent = random.randbytes(size)
            writer.write(sent)
            assert await asyncio.wait_for(reader.readexactly(size), 30) == sent
        writer.close()
    assert extra == [{}]
