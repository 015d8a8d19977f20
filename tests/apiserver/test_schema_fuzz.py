"""Objects thrown by the dice from our own OpenAPI: each is stored or refused with a Status, and what is stored can be shown.

schemathesis does the like from the outside, with the requests it makes up itself.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.apiserver.kinds.catalogue import Kind
from tests.apiserver.apiprocess import ApiServer
from tests.apiserver.every_kind import OBJECTS, TESTED, name_of
from tests.apiserver.schema_dice import SchemaDice, mixed
from tests.etcdserver import EtcdServer

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
FORMS = ("merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")
MERGE, STRATEGIC, APPLY = (f"application/{form}" for form in FORMS)
SHOWN = ("application/json;as=Table;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf")
KEPT = ("labels", "annotations", "ownerReferences", "finalizers")
TOGETHER = 4
Object = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """A server of its own: what comes over it spares neither roles nor webhooks."""
    with EtcdServer.start() as etcd:
        server = ApiServer.start(etcd)
        try:
            yield server
        finally:
            server.close()


class Thrown:
    """Requests with objects of one kind; none may be answered with 500."""

    def __init__(self, api: ApiServer, kind: Kind) -> None:
        self.api, self.kind, self.dice = api, kind, random.Random("/".join(kind.place))
        resource = kind.resource
        document = api.call("GET", f"/openapi/v3/{'apis' if resource.group else 'api'}/{resource.api_version}").body
        self.schema = next(schema for schema in document["components"]["schemas"].values()
                           for each in schema.get("x-kubernetes-group-version-kind", ()) if each["kind"] == resource.kind)
        self.values = SchemaDice(document, self.dice)
        self.connection = http.client.HTTPSConnection("127.0.0.1", api.port, timeout=60, context=api.context())

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json", accept: str = "") -> int:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept or "application/json", **({"Content-Type": content} if data else {})}
        self.connection.request(method, path, data, headers)
        reply = self.connection.getresponse()
        said = reply.read()
        assert reply.status < 500, (method, path, accept, data, said)
        if reply.status >= 400 and not accept:
            assert json.loads(said)["kind"] == "Status"
        return reply.status

    def object(self) -> Object:
        found = self.values.value(self.schema)
        return found if isinstance(found, dict) else {}

    def once(self, number: int) -> int:
        """Make an object, change it in every way, look at it, take it away; says how its first version was received."""
        resource, dice = self.kind.resource, self.dice
        name = name_of(resource.plural, number)
        good = OBJECTS[resource.group if resource.group == "events.k8s.io" else resource.plural]
        self.values.confused = dice.choice((0, 0.003, 0.03))
        wild = self.object()
        meta = wild.get("metadata") if isinstance(wild.get("metadata"), dict) else {}
        head = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {
            **{key: value for key, value in meta.items() if key in KEPT and dice.random() < 0.3}, "name": name}}
        collection = resource.path("default" if resource.namespaced else None)
        path, mode = f"{collection}/{name}", dice.choice(("Strict", "Warn", "Ignore"))
        first = self.ask("POST", f"{collection}?fieldValidation={mode}", {**mixed(good, wild, dice), **head})
        if first != 201:
            self.ask("POST", collection, {**good, **head, "metadata": {"name": name}})
        for form in (MERGE, STRATEGIC, APPLY):
            part = {key: value for key, value in self.object().items() if key != "metadata" and dice.random() < 0.6}
            force = {**part, **head} if form == APPLY else part
            self.ask("PATCH", f"{path}?fieldManager=dice{'&force=true' * (form == APPLY)}&fieldValidation={mode}", force, form)
        if self.kind.has_status and "status" in self.schema["properties"]:
            status = self.values.value(self.schema["properties"]["status"])
            self.ask("PATCH", f"{path}/status?fieldValidation={mode}", {"status": status}, MERGE)
        for accept in SHOWN:
            self.ask("GET", path, accept=accept)
            self.ask("GET", collection, accept=accept)
        self.ask("DELETE", path + "?gracePeriodSeconds=0")
        self.ask("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        return first


@pytest.mark.parametrize("part", range(TOGETHER))
def test_whatever_is_sent_is_stored_or_refused(api: ApiServer, part: int) -> None:
    before, codes, said = api.resident(), set(), len(api.file("log").read_text())
    for kind in TESTED[part::TOGETHER]:
        thrown = Thrown(api, kind)
        codes |= {thrown.once(700 + number) for number in range(5)}
        thrown.connection.close()
    assert {201, 422} <= codes
    assert api.resident() - before < 40_000_000
    assert "Traceback" not in api.file("log").read_text()[said:]


@pytest.mark.parametrize("version", ["apis/networking.k8s.io/v1", "apis/rbac.authorization.k8s.io/v1"])
def test_schemathesis(api: ApiServer, tmp_path: Path, version: str) -> None:
    """Watches and streams are left out: they would be waited for."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    document = api.call("GET", f"/openapi/v3/{version}").body
    for operations in document["paths"].values():
        for operation in operations.values():
            given = operation["parameters"] if isinstance(operation, dict) else operation
            given[:] = [each for each in given if each["name"] not in ("watch", "timeoutSeconds")]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    done = subprocess.run(
        [Path(sys.executable).parent / "st", "run", "openapi.json", "--url", api.url, "--tls-verify", api.file("ca.crt"),
         "--request-cert", api.file("admin.crt"), "--request-cert-key", api.file("admin.key"), "--checks", "not_a_server_error",
         "--phases", "fuzzing", "--max-time", "8", "--request-timeout", "60", "--seed", "1", "--no-shrink",
         "--warnings", "off", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) generated", done.stdout)[-1]) > 5
