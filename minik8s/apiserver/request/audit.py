"""The audit log: who did what, as the policy asks for it, a line of JSON for each request that is done.

    None               not at all                  Request            and what was sent
    Metadata           who, what, when, the code   RequestResponse    and what was answered

The first rule that fits counts; without one nothing is written. Secrets, ConfigMaps and tokens are the policy's to leave out.
Touches the log file. Must not know: how a request is answered. Read next: `handler.py`.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from minik8s.apiserver.auth.authorize import Attributes, User
from nodecore.errors import UserError
from nodecore.files import read_document

FLAG = "--audit-policy-file"
LEVELS = ("None", "Metadata", "Request", "RequestResponse")
FIELDS = frozenset({"level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
                    "omitManagedFields"})
LARGEST = 256 * 1024
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the policy; empty means any."""

    level: int
    users: frozenset[str]
    groups: frozenset[str]
    verbs: frozenset[str]
    namespaces: frozenset[str]
    resources: tuple[tuple[str, frozenset[str], frozenset[str]], ...]
    paths: tuple[str, ...]

    def fits(self, user: User, asked: Attributes) -> bool:
        """Whether it speaks of such a request."""
        if (self.users and user.name not in self.users) or (self.groups and not self.groups & set(user.groups)) or (
                self.verbs and asked.verb not in self.verbs):
            return False
        if not (self.resources or self.paths or self.namespaces):
            return True
        if asked.path:
            return any(asked.path == each or (each.endswith("*") and asked.path.startswith(each[:-1])) for each in self.paths)
        if (self.namespaces and asked.namespace not in self.namespaces) or (self.paths and not self.resources):
            return False
        return not self.resources or any(_speaks_of(each, asked) for each in self.resources)


def _speaks_of(entry: tuple[str, frozenset[str], frozenset[str]], asked: Attributes) -> bool:
    group, resources, names = entry
    plural, _, sub = asked.resource.partition("/")
    words = {"*", asked.resource, f"{plural}/*" if sub else plural, f"*/{sub}"}
    return group == asked.group and (not resources or bool(resources & words)) and (not names or asked.name in names)


def read_policy(path: str) -> tuple[Rule, ...]:
    """The rules of a policy file; UserError for what is wrong."""
    if not path:
        return ()
    document = read_document(path, FLAG)
    if not isinstance(document, dict) or document.get("kind") != "Policy" or not document.get("rules"):
        raise UserError(f"{FLAG}: {path} is no audit Policy with rules")
    return tuple(_rule(raw, path) for raw in document["rules"])


def _rule(raw: Object, path: str) -> Rule:
    unknown = sorted(set(raw) - FIELDS)
    if unknown or raw.get("level") not in LEVELS:
        what = f"rules: {unknown[0]!r} is not known" if unknown else f"level {raw.get('level')!r} is none of {', '.join(LEVELS)}"
        raise UserError(f"{FLAG}: {path}: {what}")

    def words(values: Any) -> frozenset[str]:
        return frozenset(str(each) for each in values or ())
    resources = tuple((str(each.get("group") or ""), words(each.get("resources")), words(each.get("resourceNames")))
                      for each in raw.get("resources") or ())
    return Rule(LEVELS.index(raw["level"]), words(raw.get("users")), words(raw.get("userGroups")), words(raw.get("verbs")),
                words(raw.get("namespaces")), resources, tuple(map(str, raw.get("nonResourceURLs") or ())))


class Audit:
    """Writes the log: to a file that is begun anew when it is large, or to standard output (`-`)."""

    def __init__(self, rules: Iterable[Rule], path: str, *, megabytes: int = 100, backups: int = 3) -> None:
        self._rules, self._path = tuple(rules), path
        self._most, self._backups = megabytes * 1024 * 1024, backups
        self._file: int | None = None
        self._size = 0

    def level(self, user: User, asked: Attributes) -> int:
        """How much is told of such a request."""
        return next((rule.level for rule in self._rules if rule.fits(user, asked)), 0)

    def note(self, user: User, asked: Attributes, uri: str, code: int, about: Mapping[str, Any]) -> None:
        """Write one request down; `about` has source, agent, actor, and what was sent and answered."""
        level = self.level(user, asked)
        if not level:
            return
        stamp = _stamp(time.time())
        event: Object = {
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": LEVELS[level], "auditID": str(uuid.uuid4()),
            "stage": "ResponseComplete", "requestURI": uri[:4096], "verb": asked.verb, "user": user.info(),
            "sourceIPs": [about["source"]], "userAgent": about["agent"][:1024], "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": stamp, "stageTimestamp": stamp}
        if asked.resource:
            plural, _, sub = asked.resource.partition("/")
            ref = {"resource": plural, "namespace": asked.namespace, "name": asked.name, "apiGroup": asked.group,
                   "subresource": sub}
            event["objectRef"] = {key: value for key, value in ref.items() if value}
        for needed, key, field in ((2, "sent", "requestObject"), (3, "answered", "responseObject")):
            found = _object(about.get(key)) if level >= needed else None
            if found is not None:
                event[field] = found
        self._write(msgspec.json.encode(event) + b"\n")

    def _write(self, line: bytes) -> None:
        if self._path == "-":
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        if self._file is not None and self._size + len(line) > self._most:
            self._turn()
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._size = os.fstat(self._file).st_size
        self._size += os.write(self._file, line)

    def _turn(self) -> None:
        """Begin a new file; the older ones are numbered, the oldest goes."""
        assert self._file is not None
        os.close(self._file)
        self._file = None
        for number in range(self._backups, 0, -1):
            older = Path(f"{self._path}.{number - 1}") if number > 1 else Path(self._path)
            if older.exists():
                older.rename(f"{self._path}.{number}")
        if not self._backups:
            Path(self._path).unlink(missing_ok=True)


def _stamp(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1e6):06d}Z"


def _object(body: Any) -> Any:
    if not isinstance(body, bytes) or not body or len(body) > LARGEST:
        return None
    try:
        return msgspec.Raw(body) if msgspec.json.decode(body, type=msgspec.Raw) else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
