"""`.proto` texts become messages that other protobuf implementations read."""

from __future__ import annotations

import grpc.aio
import pytest

from nodecore import wire
from nodecore.rpc.channel import Channel

TEXT = """
syntax = "proto3";
package demo.v1;
// a comment; with punctuation { }
message Point { int64 x = 1; sint32 y = 2; }
message Shape {
  repeated Point points = 1; map<string, string> labels = 2; Colour colour = 3;
  oneof kind { string name = 4; Point centre = 5; }
  repeated int64 sizes = 6; map<string, Point> named = 7;
}
enum Colour { RED = 0; BLUE = 7; }
service Draw { rpc One(Shape) returns (Point); rpc Many(stream Point) returns (stream Shape); }
"""


@pytest.fixture(scope="module")
def api() -> wire.Api:
    return wire.parse(TEXT, name="demo.proto")


def test_a_message_survives_the_wire(api: wire.Api) -> None:
    shape = api.Shape(points=[api.Point(x=1, y=-2)], labels={"a": "b"}, colour=api.BLUE, centre=api.Point(x=9), sizes=[1, 300],
                      named={"top": api.Point(y=4)})
    back = api.Shape.FromString(shape.SerializeToString())
    assert back == shape
    assert back.WhichOneof("kind") == "centre"
    assert (back.colour, dict(back.labels), back.named["top"].y) == (7, {"a": "b"}, 4)


def test_bytes_are_those_of_the_specification(api: wire.Api) -> None:
    """Protocol Buffers, Encoding: field 1 varint 150 is 08 96 01; zigzag of -2 is 3."""
    assert api.Point(x=150, y=-2).SerializeToString() == bytes.fromhex("0896011003")


def test_unknown_fields_are_skipped(api: wire.Api) -> None:
    assert api.Point.FromString(bytes.fromhex("080178ff01")).x == 1


@pytest.mark.parametrize("text", ["message A { int64 x 1; }", "banana", 'syntax = "proto2";', "message A { string = 3; }"])
def test_what_is_not_in_the_subset_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.parse(text, name="bad.proto")


def test_a_missing_name_is_said(api: wire.Api) -> None:
    with pytest.raises(AttributeError, match=r"demo\.v1 has no message or enum value Circle"):
        _ = api.Circle


async def test_a_stub_calls_a_server(api: wire.Api) -> None:
    method = api.services["Draw"]["One"]

    async def one(request: object, context: object) -> object:
        return api.Point(x=len(request.points))  # type: ignore[attr-defined]

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(one, method.request.FromString, method.response.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.v1.Draw", {"One": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        channel = Channel(f"127.0.0.1:{port}")
        reply = await api.stub(channel, "Draw").One(api.Shape(points=[api.Point(), api.Point()]))
        await channel.close()
        assert reply.x == 2
    finally:
        await server.stop(None)
