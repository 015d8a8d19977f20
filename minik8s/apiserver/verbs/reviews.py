"""Questions about permissions and identity: `kubectl auth can-i [--list]`, `kubectl auth whoami`, and what others ask.

    SubjectAccessReview, Local-, Self-     may this user do that?
    SelfSubjectRulesReview                 what may I do here?
    SelfSubjectReview, TokenReview         who am I, whose token is this?

Must not know: HTTP's machinery. Read next: `auth/access.py`, `auth/authenticate.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import MASTERS, Attributes, User
from minik8s.apiserver.auth.nodes import RULES
from minik8s.apiserver.auth.rbac import Rule
from minik8s.apiserver.kinds.catalogue import Review
from minik8s.apiserver.request.selectors import escaped
from minik8s.apiserver.request.status import Refused, bad_request

Object = dict[str, Any]
WhoseToken = Callable[[str, tuple[str, ...]], Awaitable[tuple[User, tuple[str, ...]]]]
ALL = Rule(*(frozenset({"*"}),) * 3), Rule(frozenset({"*"}), paths=("*",))


class Reviews:
    """Answers reviews; `whose` says whose token one is, and for which of the audiences asked it is good."""

    def __init__(self, access: Access, whose: WhoseToken | None = None) -> None:
        self._access, self._whose = access, whose

    async def answer(self, review: Review, body: Object, user: User, namespace: str = "") -> Object:
        """The question with its status filled in."""
        kind = review.resource.kind
        if body.get("kind", kind) != kind:
            raise bad_request(f"the body is a {str(body.get('kind'))[:100]}, not a {kind}")
        question = {**body, "kind": kind, "apiVersion": review.resource.api_version, "metadata": {"creationTimestamp": None}}
        if kind == "SelfSubjectReview":
            return {**question, "status": {"userInfo": user.info()}}
        spec = body.get("spec")
        if not isinstance(spec, dict):
            raise bad_request("spec is missing")
        await self._access.ready()
        if kind == "TokenReview":
            return {**question, "status": await self._token(spec)}
        if kind == "SelfSubjectRulesReview":
            return {**question, "status": self._rules(spec, user)}
        return {**question, "status": self._verdict(kind, spec, user, namespace)}

    def _verdict(self, kind: str, spec: Object, user: User, namespace: str) -> Object:
        if kind != "SelfSubjectAccessReview":
            user = _subject(spec)
        asked = _asked(spec)
        if kind == "LocalSubjectAccessReview" and (asked.path or asked.namespace != namespace):
            raise bad_request(f"spec.resourceAttributes.namespace must be {namespace}")
        reason = self._access.allows(user, asked)
        return {"allowed": True, "reason": reason} if reason else {"allowed": False}

    def _rules(self, spec: Object, user: User) -> Object:
        namespace = spec.get("namespace")
        if not isinstance(namespace, str) or not namespace:
            raise bad_request("no namespace on request")
        rules = (*(ALL if MASTERS in user.groups else ()), *self._access.index.rules(user, namespace))
        if user.node:
            rules = (*rules, *RULES)
        resources = [{"verbs": sorted(rule.verbs), "apiGroups": sorted(rule.groups), "resources": sorted(rule.resources),
                      **({"resourceNames": sorted(rule.names)} if rule.names else {})} for rule in rules if rule.resources]
        paths = [{"verbs": sorted(rule.verbs), "nonResourceURLs": list(rule.paths)} for rule in rules if rule.paths]
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": bool(user.node),
                **({"evaluationError": "a node's rights depend on the pods it runs"} if user.node else {})}

    async def _token(self, spec: Object) -> Object:
        token, audiences = spec.get("token"), _words(spec.get("audiences"))
        if not isinstance(token, str) or not token:
            raise bad_request("token is required for TokenReview in authentication")
        try:
            if self._whose is None:
                raise Refused(401, "Unauthorized")
            user, good = await self._whose(token, audiences)
        except Refused as refused:
            return {"user": {}, "error": str(refused)}
        return {"authenticated": True, "user": user.info(), **({"audiences": list(good)} if good else {})}


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def _subject(spec: Object) -> User:
    name, groups, extra = spec.get("user") or "", _words(spec.get("groups")), spec.get("extra")
    if not name and not groups:
        raise bad_request("spec.user: Invalid value: at least one of user or group must be specified")
    pairs = tuple((str(key), _words(values)) for key, values in extra.items()) if isinstance(extra, dict) else ()
    return User(str(name), groups, str(spec.get("uid") or ""), pairs)


def _asked(spec: Object) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if isinstance(resource, dict) == isinstance(path, dict):
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if isinstance(path, dict):
        return Attributes(str(path.get("verb") or ""), path=str(path.get("path") or ""))
    assert isinstance(resource, dict)
    text = {key: str(resource.get(key) or "") for key in ("verb", "group", "resource", "subresource", "namespace", "name")}
    whole = f"{text['resource']}/{text['subresource']}" if text["subresource"] else text["resource"]
    terms = (resource.get("fieldSelector") or {}).get("requirements") or []
    fields = ",".join(f"{each.get('key')}={escaped(str((each.get('values') or [''])[0]))}" for each in terms
                      if isinstance(each, dict) and each.get("operator") == "In")
    return Attributes(text["verb"], text["group"], whole, text["namespace"], text["name"], "", fields)
