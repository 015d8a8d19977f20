"""Between our records and etcd's messages.

Read next: `nodecore/etcd/records.py`.
"""

from __future__ import annotations

from typing import Any

from nodecore.etcd.connection import API
from nodecore.etcd.records import Compare, Delete, Event, Get, KeyValue, Op, Put, Range, TxnResult, range_end

SIGNS = {"=": API.EQUAL, "!=": API.NOT_EQUAL, "<": API.LESS, ">": API.GREATER}
TARGETS = {
    "version": (API.VERSION, "version"),
    "create": (API.CREATE, "create_revision"),
    "mod": (API.MOD, "mod_revision"),
    "value": (API.VALUE, "value"),
    "lease": (API.LEASE, "lease"),
}


def key_value(kv: Any) -> KeyValue:
    """One key-value; keys that are not UTF-8 survive the round trip (surrogateescape)."""
    return KeyValue(
        kv.key.decode(errors="surrogateescape"), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
    )


def range_of(reply: Any) -> Range:
    """The answer to a RangeRequest."""
    return Range([key_value(kv) for kv in reply.kvs], reply.header.revision, reply.more, reply.count)


def event(found: Any) -> Event:
    """One event of a watch."""
    return Event(
        "DELETE" if found.type == API.DELETE else "PUT",
        key_value(found.kv),
        key_value(found.prev_kv) if found.HasField("prev_kv") else None,
    )


def compare(wanted: Compare) -> Any:
    """A condition of a transaction."""
    target, name = TARGETS[wanted.target]
    return API.Compare(result=SIGNS[wanted.sign], target=target, key=wanted.key.encode(), **{name: wanted.value})


def request_op(op: Op) -> Any:
    """A step of a transaction."""
    key = op.key.encode()
    match op:
        case Put():
            return API.RequestOp(request_put=API.PutRequest(key=key, value=op.value, lease=op.lease))
        case Delete():
            end = range_end(op.key) if op.prefix else b""
            return API.RequestOp(request_delete_range=API.DeleteRangeRequest(key=key, range_end=end, prev_kv=True))
        case Get():
            request = API.RangeRequest(
                key=key, range_end=range_end(op.key) if op.prefix else b"", keys_only=op.keys_only, count_only=op.count_only
            )
            if op.newest:
                request.limit, request.sort_order, request.sort_target = 1, API.DESCEND, API.SORT_MOD
            return API.RequestOp(request_range=request)


def txn_result(reply: Any) -> TxnResult:
    """The answer to a TxnRequest."""
    return TxnResult(reply.succeeded, reply.header.revision, [_response(each, reply.header.revision) for each in reply.responses])


def _response(reply: Any, revision: int) -> Range:
    match reply.WhichOneof("response"):
        case "response_range":
            found = reply.response_range
            return Range([key_value(kv) for kv in found.kvs], revision, found.more, found.count)
        case "response_delete_range":
            gone = [key_value(kv) for kv in reply.response_delete_range.prev_kvs]
            return Range(gone, revision, count=len(gone))
        case _:
            return Range([], revision)
