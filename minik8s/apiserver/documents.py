"""Paths that are no resource: health, version, metrics, discovery, OpenAPI.

Discovery and OpenAPI carry an ETag, and a client that has the newest already is told so (304).
Read next: `kinds/discovery.py`, `health.py`, `schema/cache.py`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.auth.accounts import Accounts
from minik8s.apiserver.auth.jwt import jwks
from minik8s.apiserver.health import PATHS, VERSION, Health
from minik8s.apiserver.kinds import discovery
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.kinds.registry import Registry
from minik8s.apiserver.request.call import JSON, Answer, answer
from minik8s.apiserver.request.negotiation import discovery_version
from minik8s.apiserver.request.routes import segments
from minik8s.apiserver.request.status import method_not_allowed
from minik8s.apiserver.schema import custom_openapi
from nodecore.errors import NotFound
from nodecore.kube.http import web

ROOTS = ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics",
         "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]


async def document(request: web.BaseRequest, path: str, health: Health, registry: Registry, address: str,
                   accounts: Accounts) -> Answer | None:
    """What is at a path; None when nothing is."""
    if request.method not in ("GET", "HEAD"):
        raise method_not_allowed()
    parts = segments(path)
    if path == "/":
        return answer({"paths": ROOTS})
    if parts is None:
        return None
    if "/" + parts[0] in PATHS:
        return await health.probe("/" + "/".join(parts), request.query,
                                  request.query.getall("exclude", []))
    if parts == ["version"]:
        return answer(VERSION)
    if parts == ["metrics"]:
        return health.text()
    if parts == ["openid", "v1", "jwks"]:
        return Answer(200, msgspec.json.encode(jwks(await accounts.keys())), "application/jwk-set+json")
    if parts == [".well-known", "openid-configuration"]:
        return answer(_issuer(accounts, address, [key.algorithm for key in await accounts.keys()]))
    known = request.headers.get("If-None-Match", "")
    if parts[0] == "openapi":
        return _openapi(parts[1:], known, tuple(each for each in registry.members() if isinstance(each, Kind)))
    return _discovery(parts, request.headers.get("Accept", ""), known, registry, address)


def _issuer(accounts: Accounts, address: str, algorithms: list[str]) -> dict[str, Any]:
    """The discovery document of OpenID Connect: where whoever gets a token finds the keys it is signed with."""
    return {"issuer": accounts.issuing.issuer, "jwks_uri": f"https://{address}/openid/v1/jwks",
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted(set(algorithms))}


def _discovery(parts: list[str], accept: str, known: str, registry: Registry, address: str) -> Answer | None:
    members = registry.members()
    if parts in (["api"], ["apis"]):
        version = discovery_version(accept)
        if version:
            content = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            body = msgspec.json.encode(discovery.aggregated(members, version, core=parts == ["api"]))
            return tagged(body, known, content)
        return answer(discovery.versions(address) if parts == ["api"] else discovery.groups(members))
    found: dict[str, Any] | None = None
    if parts[0] == "api" and len(parts) == 2:
        found = discovery.resources(members, "", parts[1])
    elif parts[0] == "apis" and len(parts) == 2:
        found = discovery.group_of(members, parts[1])
    elif parts[0] == "apis" and len(parts) == 3:
        found = discovery.resources(members, parts[1], parts[2])
    return answer(found) if found else None


def _openapi(parts: list[str], known: str, kinds: tuple[Kind, ...]) -> Answer | None:
    try:
        if parts == ["v2"]:
            return tagged(custom_openapi.v2(kinds), known, schema.OPENAPI_V2_TYPE)
        if parts == ["v3"]:
            return tagged(custom_openapi.v3_index(kinds), known)
        if parts[:1] == ["v3"] and len(parts) > 1:
            gv = "/".join(parts[1:])
            return tagged(custom_openapi.v3(kinds, gv) or schema.openapi_v3(gv), known)
    except NotFound:
        return None
    return None


def tagged(body: bytes, known: str, content: str = JSON) -> Answer:
    """A document under the hash of its content, left out for a client that knows it."""
    tag = f'"{sha256(body).hexdigest()[:32].upper()}"'
    headers = {"ETag": tag, "Vary": "Accept"}
    if known in (tag, "*"):
        return Answer(304, b"", content, headers)
    return Answer(200, body, content, headers)
