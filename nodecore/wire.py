"""gRPC services from a `.proto` text, read at run time: the few messages used, with no generated code.

A subset of proto3: flat messages and enums, `repeated`, `map<,>`, `oneof`, `service` with `stream`. Type names are
looked up in the file's own package. Generated modules would tie us to one protobuf release and hide 30,000 lines of
fields nobody uses; a `.proto` cut to the fields in use is its own documentation.

    api = wire.load(Path("rpc.proto"))
    kv = api.stub(channel, "KV")
    reply = await kv.Range(api.RangeRequest(key=b"k"))

Must not know: what the services do. Read next: `nodecore/etcd/client.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from nodecore.rpc.channel import Channel

FieldProto = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    name: getattr(FieldProto, f"TYPE_{name.upper()}")
    for name in ("double", "float", "int64", "uint64", "int32", "bool", "string", "bytes", "uint32", "sint32", "sint64",
                 "fixed32", "fixed64", "sfixed32", "sfixed64")
}
TOKEN = re.compile(r"[A-Za-z_][\w.]*|\d+|\"[^\"]*\"|[{}()<>=;,]")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc: its URL path, its message classes, and which sides stream."""

    path: str
    request: Any
    response: Any
    streams_in: bool
    streams_out: bool


@dataclass
class Api:
    """A loaded file: message classes and enum values as attributes, services through `stub`."""

    package: str
    services: dict[str, dict[str, Method]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.names[name]
        except KeyError:
            raise AttributeError(f"{self.package} has no message or enum value {name}") from None

    def stub(self, channel: Channel, service: str) -> SimpleNamespace:
        """Callables for a service's methods on a channel."""
        methods = self.services[service].items()
        return SimpleNamespace(**{
            name: channel.stream(method) if method.streams_in or method.streams_out else channel.unary(method)
            for name, method in methods})


def load(path: Path) -> Api:
    """Read a `.proto` file; raises ValueError with the offending token on what is not in the subset."""
    return parse(path.read_text(), name=path.name)


def parse(text: str, *, name: str) -> Api:
    """Read `.proto` text; `name` is only used in error messages."""
    reader = _Reader(TOKEN.findall(COMMENT.sub("", text)))
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
    while reader.more():
        _top_level(reader, file)
    pool = descriptor_pool.DescriptorPool()
    _resolve(file)
    pool.AddSerializedFile(file.SerializeToString())
    return _api(pool, file)


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at = tokens, 0

    def more(self) -> bool:
        return self._at < len(self._tokens)

    def next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def accept(self, wanted: str) -> bool:
        if self.more() and self._tokens[self._at] == wanted:
            self._at += 1
            return True
        return False

    def expect(self, *wanted: str) -> None:
        for token in wanted:
            found = self.next()
            if found != token:
                raise ValueError(f"expected {token!r}, found {found!r}")


def _top_level(reader: _Reader, file: Any) -> None:
    word = reader.next()
    if word == "syntax":
        reader.expect("=", '"proto3"', ";")
    elif word == "package":
        file.package = reader.next()
        reader.expect(";")
    elif word == "message":
        _message(reader, file.message_type.add(name=reader.next()))
    elif word == "enum":
        _enum(reader, file.enum_type.add(name=reader.next()))
    elif word == "service":
        _service(reader, file.service.add(name=reader.next()))
    else:
        raise ValueError(f"expected a declaration, found {word!r}")


def _message(reader: _Reader, message: Any) -> None:
    reader.expect("{")
    while not reader.accept("}"):
        if reader.accept("oneof"):
            message.oneof_decl.add(name=reader.next())
            reader.expect("{")
            while not reader.accept("}"):
                _field(reader, message, oneof=len(message.oneof_decl) - 1)
        else:
            _field(reader, message)


def _field(reader: _Reader, message: Any, oneof: int | None = None) -> None:
    made = message.field.add(label=FieldProto.LABEL_OPTIONAL)
    kind = reader.next()
    if kind == "repeated":
        made.label = FieldProto.LABEL_REPEATED
        kind = reader.next()
    if kind == "map":
        _map_entry(reader, message, made)
    else:
        _set_type(made, kind)
    made.name = reader.next()
    if made.type_name.startswith("<map>"):  # the entry is named after its field
        entry = message.nested_type[-1]
        entry.name = made.name.title().replace("_", "") + "Entry"
        made.type_name = f"{message.name}.{entry.name}"
    reader.expect("=")
    made.number = int(reader.next())
    reader.expect(";")
    if oneof is not None:
        made.oneof_index = oneof


def _map_entry(reader: _Reader, message: Any, made: Any) -> None:
    entry = message.nested_type.add(name="<map>")
    entry.options.map_entry = True
    reader.expect("<")
    for number, name in ((1, "key"), (2, "value")):
        part = entry.field.add(name=name, number=number, label=FieldProto.LABEL_OPTIONAL)
        _set_type(part, reader.next())
        reader.expect("," if number == 1 else ">")
    made.label = FieldProto.LABEL_REPEATED
    made.type, made.type_name = FieldProto.TYPE_MESSAGE, "<map>"


def _set_type(made: Any, kind: str) -> None:
    if kind in SCALARS:
        made.type = SCALARS[kind]
    else:
        made.type_name = kind


def _enum(reader: _Reader, enum: Any) -> None:
    reader.expect("{")
    while not reader.accept("}"):
        name = reader.next()
        reader.expect("=")
        enum.value.add(name=name, number=int(reader.next()))
        reader.expect(";")


def _service(reader: _Reader, service: Any) -> None:
    reader.expect("{")
    while not reader.accept("}"):
        reader.expect("rpc")
        method = service.method.add(name=reader.next())
        reader.expect("(")
        method.client_streaming = reader.accept("stream")
        method.input_type = reader.next()
        reader.expect(")", "returns", "(")
        method.server_streaming = reader.accept("stream")
        method.output_type = reader.next()
        reader.expect(")", ";")


def _resolve(file: Any) -> None:
    """Make every type name absolute, and say whether it is a message or an enum."""
    enums = {enum.name for enum in file.enum_type}

    def absolute(name: str) -> str:
        return f".{file.package}.{name}"

    for message in file.message_type:
        for holder in (message, *message.nested_type):
            for item in holder.field:
                if item.type_name:
                    item.type = FieldProto.TYPE_ENUM if item.type_name in enums else FieldProto.TYPE_MESSAGE
                    item.type_name = absolute(item.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type, method.output_type = absolute(method.input_type), absolute(method.output_type)


def _api(pool: Any, file: Any) -> Api:
    api = Api(file.package)

    def message(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name.lstrip(".")))

    for declared in file.message_type:
        api.names[declared.name] = message(f"{file.package}.{declared.name}")
    for enum in file.enum_type:
        api.names.update({value.name: value.number for value in enum.value})
    for service in file.service:
        api.services[service.name] = {
            method.name: Method(
                f"/{file.package}.{service.name}/{method.name}", message(method.input_type), message(method.output_type),
                method.client_streaming, method.server_streaming,
            )
            for method in service.method
        }
    vars(api).update(api.names)
    return api
