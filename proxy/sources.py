"""A picture of the cluster at one moment, for the commands that only look: from files, or from the API.

Files are YAML or JSON, of several documents and with Lists in them; of the Node objects the one with our name counts.
Must not know: what is done with it. Read next: `proxy/snapshot.py`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nodecore.errors import UserError
from nodecore.kube.objects import EndpointSlice, Node, Service

from .agent import at_home, open_client, settled, zone_of
from .config import Config
from .snapshot import Snapshot

WORD = re.compile(r"[^ \t\r\n]")
KINDS = {"Service": Service, "EndpointSlice": EndpointSlice, "Node": Node}


@dataclass(frozen=True)
class Picture:
    """What there is, and the configuration with what our Node adds to it."""

    snapshot: Snapshot
    config: Config
    own: frozenset[str] = frozenset()  # our Node's addresses


async def take(config: Config, files: Sequence[str] = ()) -> Picture:
    """Read the files, or the API where there are none."""
    return from_objects(config, read_files(files)) if files else await from_api(config)


async def from_api(config: Config) -> Picture:
    """Ask once for everything."""
    from nodecore.kube.informer import key_of
    from nodecore.kube.resource import ENDPOINT_SLICES, NODES, SERVICES

    async with open_client(config) as client:
        config = await at_home(config, client)
        snapshot = Snapshot(config.node)
        for service in (await client.list(SERVICES, into=Service)).items:
            snapshot.put_service(key_of(service), service)
        for item in (await client.list(ENDPOINT_SLICES, into=EndpointSlice)).items:
            snapshot.put_slice(key_of(item), item)
        nodes = await client.list(NODES, into=Node)
        ours = next((node for node in nodes.items if node.metadata.name == config.node), None)
        snapshot.put_zone(zone_of(ours))
    return Picture(snapshot, config, _addresses(ours))


def from_objects(config: Config, objects: Iterable[Service | EndpointSlice | Node]) -> Picture:
    """What these objects come to."""
    snapshot, ours = Snapshot(config.node), None
    for item in objects:
        key = f"{item.metadata.namespace or 'default'}/{item.metadata.name}"
        if isinstance(item, Service):
            snapshot.put_service(key, item)
        elif isinstance(item, EndpointSlice):
            snapshot.put_slice(key, item)
        elif item.metadata.name == config.node:
            ours = item
    snapshot.put_zone(zone_of(ours))
    if config.locality.node_cidr or config.node_ports_on_primary:
        found = settled(config, ours) if ours else None
        if not found:
            raise UserError(f"-f: no Node {config.node} with the podCIDR or InternalIP these flags need")
        config = found
    return Picture(snapshot, config, _addresses(ours))


def _addresses(node: Node | None) -> frozenset[str]:
    return frozenset(item.address for item in (node.status.addresses if node else None) or [])


def read_files(paths: Sequence[str]) -> Iterator[Service | EndpointSlice | Node]:
    """The objects of the kinds that matter in files; `-` is standard input."""
    for path in paths:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8-sig")
            documents = _json(text) or _yaml(text)
        except OSError as error:
            raise UserError(f"-f: {path}: {os.strerror(error.errno or 0)}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"-f: {path}: neither JSON nor YAML: {' '.join(str(error).split())}") from None
        for document in documents:
            for item in _items(document, path):
                yield _typed(item, path)


def _json(text: str) -> list[Any]:
    """Documents in JSON, one after the other; none where not all is JSON. YAML's reader is slow, and is wrong about some."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while begins := WORD.search(text, at):
        try:
            document, at = decoder.raw_decode(text, begins.start())
        except ValueError:
            return []
        found.append(document)
    return found


def _yaml(text: str) -> list[Any]:
    import yaml

    try:
        return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise ValueError(error) from None


def _items(document: Any, path: str, kind: str = "") -> Iterator[dict[str, Any]]:
    """The objects that matter; a List of them has no List in it."""
    found = str(document.get("kind", kind)) if isinstance(document, dict) else ""
    if found in KINDS:
        yield {"kind": found, **document}
    elif found.endswith("List") and not kind:
        items = document.get("items") or []
        if not isinstance(items, list):
            raise UserError(f"-f: {path}: {found}: items is not a list")
        for item in items:
            yield from _items(item, path, found.removesuffix("List") or "an object")


def _said(value: Any) -> Any:
    """Without what is null: in Kubernetes' files that is the same as absent."""
    if isinstance(value, dict):
        return {str(key): _said(inner) for key, inner in value.items() if inner is not None}
    return [_said(inner) for inner in value] if isinstance(value, list) else value


def _typed(item: dict[str, Any], path: str) -> Service | EndpointSlice | Node:
    item = _said(item)
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(metadata, dict) and not metadata.get("namespace") and item["kind"] != "Node":
        metadata["namespace"] = "default"
    try:
        made: Service | EndpointSlice | Node = msgspec.convert(msgspec.to_builtins(item), KINDS[item["kind"]])
        return made
    except msgspec.ValidationError as error:
        raise UserError(f"-f: {path}: {item['kind']} {name}: {error}") from None
