"""gRPC over our own HTTP/2, against the server of gRPC's own library, and against bytes that are none."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cuttable import Forwarder
from etcdserver import free_ports
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecore import wire
from nodecore.rpc import hpack
from nodecore.rpc.channel import Channel
from nodecore.rpc.connection import ACK, DATA, FIRST_WINDOW, INITIAL_WINDOW, PREFACE, SETTINGS, WINDOW_UPDATE, Connection, frame
from nodecore.rpc.errors import RpcError

API = wire.parse("""
syntax = "proto3";
package rpc.v1;
message Text { bytes data = 1; int64 count = 2; }
service Echo { rpc One(Text) returns (Text); rpc Many(stream Text) returns (stream Text); }
""", name="rpc.proto")
LARGE = 5_000_000


class Server:
    """Answers `One` by what it is asked, and `Many` with each message as often as it says."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.sleeping, self.cancelled = asyncio.Event(), asyncio.Event()
        self.port = free_ports(1)[0]  # the kernel gives it to nobody else while the server is away

    async def one(self, request: Any, context: Any) -> Any:
        self.metadata = dict(context.invocation_metadata())
        if request.data == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü %")
        if request.data == b"sleep":
            self.sleeping.set()
            try:
                await asyncio.sleep(600)
            finally:
                self.cancelled.set()
        return API.Text(data=request.data, count=len(request.data))

    async def many(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            for number in range(request.count):
                yield API.Text(data=request.data, count=number)

    async def start(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
        one, many = API.services["Echo"]["One"], API.services["Echo"]["Many"]
        handlers = {
            "One": grpc.unary_unary_rpc_method_handler(self.one, one.request.FromString, one.response.SerializeToString),
            "Many": grpc.stream_stream_rpc_method_handler(self.many, many.request.FromString, many.response.SerializeToString)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rpc.v1.Echo", handlers),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.server.stop(None)


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[Channel]:
    made = Channel(f"127.0.0.1:{server.port}")
    yield made
    await made.close()


async def test_calls_side_by_side_of_all_sizes_come_back_whole(channel: Channel, server: Server) -> None:
    echo = API.stub(channel, "Echo")
    sizes = [0, 1, 16_379, 16_380, 65_536, LARGE, *range(1, 200)]
    replies = await asyncio.gather(*(echo.One(API.Text(data=bytes(size)), timeout=120, metadata=(("k", "v"),)) for size in sizes))
    assert [(len(reply.data), reply.count) for reply in replies] == [(size, size) for size in sizes]
    assert server.metadata["k"] == "v"


async def test_errors_say_code_and_words(channel: Channel) -> None:
    echo = API.stub(channel, "Echo")
    with pytest.raises(RpcError) as caught:
        await echo.One(API.Text(data=b"fail"), timeout=60)
    assert (caught.value.code, caught.value.details) == ("NOT_FOUND", "no such thing: ü %")
    missing = wire.Method("/rpc.v1.Echo/None", API.Text, API.Text, streams_in=False, streams_out=False)
    with pytest.raises(RpcError) as caught:
        await channel.unary(missing)(API.Text(), timeout=60)
    assert caught.value.code == "UNIMPLEMENTED"
    assert (await echo.One(API.Text(data=b"x"), timeout=60)).count == 1


async def test_a_call_that_is_late_or_left_is_cancelled_there_too(channel: Channel, server: Server) -> None:
    echo = API.stub(channel, "Echo")
    for seconds in (0.5, 30.0):  # a machine that is slower than the first has longer to bring it there
        with pytest.raises(RpcError) as caught:
            await echo.One(API.Text(data=b"sleep"), timeout=seconds)
        assert caught.value.code == "DEADLINE_EXCEEDED"
        if server.sleeping.is_set():
            break
    await asyncio.wait_for(server.cancelled.wait(), 60)
    server.sleeping.clear()
    server.cancelled.clear()
    left = asyncio.create_task(echo.One(API.Text(data=b"sleep"), timeout=120))
    await asyncio.wait_for(server.sleeping.wait(), 60)
    left.cancel()
    await asyncio.wait_for(server.cancelled.wait(), 60)


async def test_a_stream_that_nobody_reads_waits_and_others_go_on(channel: Channel) -> None:
    echo = API.stub(channel, "Echo")
    call = echo.Many()
    await call.write(API.Text(data=bytes(100_000), count=100))
    assert (await call.read()).count == 0
    assert len((await echo.One(API.Text(data=bytes(LARGE)), timeout=120)).data) == LARGE
    assert [(await call.read()).count for _ in range(99)] == list(range(1, 100))
    await call.write(API.Text(data=bytes(LARGE), count=2))
    for number in (0, 1):
        reply = await call.read()
        assert (len(reply.data), reply.count) == (LARGE, number)
    waiting = asyncio.create_task(call.read())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await call.write(API.Text(data=b"x", count=1))
    assert (await call.read()).data == b"x"
    call.cancel()
    with pytest.raises(RpcError, match="CANCELLED"):
        await call.read()


async def test_a_larger_window_is_acknowledged_before_it_is_used() -> None:
    """Whoever counts by what is acknowledged, as gRPC's library does, resets the call otherwise."""
    beyond: list[tuple[int, int]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        came = 0
        while len(beyond) < 2:
            head = await reader.readexactly(9)
            size = len(await reader.readexactly(int.from_bytes(head[:3], "big")))
            if came >= FIRST_WINDOW:
                beyond.append((head[3], head[4]))
            elif head[3] == DATA and (came := came + size) == FIRST_WINDOW:
                writer.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
                writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 1 << 20)))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    with pytest.raises(RpcError, match="UNAVAILABLE"):
        await API.stub(channel, "Echo").One(API.Text(data=bytes(100_000)), timeout=60)
    assert beyond == [(SETTINGS, ACK), (DATA, 0)]
    await channel.close()
    listener.close()


async def test_a_server_that_comes_back_is_called_again(channel: Channel, server: Server) -> None:
    echo = API.stub(channel, "Echo")
    call = echo.Many()
    await call.write(API.Text(data=b"x", count=1))
    await call.read()
    await server.server.stop(None)
    with pytest.raises(RpcError):
        await call.read()
    with pytest.raises(RpcError, match=r"UNAVAILABLE: failed to connect: connection refused"):
        await echo.One(API.Text(), timeout=60)
    await server.start()
    assert (await echo.One(API.Text(data=b"x"), timeout=60)).count == 1


async def test_a_lost_connection_fails_what_was_under_way(server: Server) -> None:
    way = Forwarder(server.port)
    listener = await asyncio.start_server(way.take, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    echo = API.stub(channel, "Echo")
    await echo.One(API.Text(), timeout=60)
    sleeping = asyncio.create_task(echo.One(API.Text(data=b"sleep"), timeout=120))
    await asyncio.wait_for(server.sleeping.wait(), 60)
    way.cut()
    with pytest.raises(RpcError, match="UNAVAILABLE: the connection was lost"):
        await sleeping
    way.mend()
    assert (await echo.One(API.Text(data=b"x"), timeout=60)).count == 1
    await channel.close()
    with pytest.raises(RpcError, match="CANCELLED"):
        await echo.One(API.Text(), timeout=60)
    listener.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    server = Server()
    server.server = grpc.aio.server()
    one = API.services["Echo"]["One"]
    handler = grpc.unary_unary_rpc_method_handler(server.one, one.request.FromString, one.response.SerializeToString)
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rpc.v1.Echo", {"One": handler}),))
    server.server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.server.start()
    for address in (f"unix:{tmp_path}/socket", f"unix://{tmp_path}/socket"):
        channel = Channel(address, largest=1000)
        echo = API.stub(channel, "Echo")
        assert (await echo.One(API.Text(data=b"x"), timeout=60)).count == 1
        with pytest.raises(RpcError, match="too large"):
            await echo.One(API.Text(data=bytes(2000)), timeout=60)
        await channel.close()
    await server.server.stop(None)


@given(st.binary(max_size=200))
def test_any_block_is_read_or_refused(block: bytes) -> None:
    with contextlib.suppress(hpack.Unreadable):
        hpack.read(block)


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1), st.text(max_size=300), max_size=5))
def test_what_is_written_is_read(fields: dict[str, str]) -> None:
    clean = {name: value for name, value in fields.items() if not any("\ud800" <= c <= "\udfff" for c in name + value)}
    assert hpack.read(b"".join(hpack.literal(*field) for field in clean.items())) == clean


def test_packed_text_is_that_of_the_specification() -> None:
    """RFC 7541, C.4.1 and C.6.1."""
    assert hpack.read(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))[":authority"] == "www.example.com"
    date = hpack.read(bytes.fromhex("6196d07abe941054d444a8200595040b8166e082a62d1bff"))
    assert date == {"date": "Mon, 21 Oct 2013 20:13:21 GMT"}


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_any_bytes_are_taken_or_end_the_connection(parts: list[bytes], framed: bool) -> None:
    async def feed() -> None:
        connection = Connection(asyncio.get_running_loop(), 0, pings=False)
        stream = connection.open(b"")
        connection.send(stream, b"x", last=True)
        for part in parts:
            size = len(part[5:]).to_bytes(3, "big") if framed else b""
            connection.data_received(size + part)
        await asyncio.sleep(0)

    asyncio.run(feed())
