"""Questions about permissions and identity: `kubectl auth can-i`, `kubectl auth whoami`, and what a kubelet asks.

Must not know: HTTP's machinery. Read next: `auth/authorize.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.auth import authorize
from minik8s.apiserver.auth.authorize import User
from minik8s.apiserver.kinds.catalogue import Review
from minik8s.apiserver.request.status import bad_request

Object = dict[str, Any]


def answer(review: Review, body: Object, user: User) -> Object:
    """The question with its status filled in."""
    kind = review.resource.kind
    if body.get("kind", kind) != kind:
        raise bad_request(f"the body is a {str(body.get('kind'))[:100]}, not a {kind}")
    question = {**body, "kind": kind, "apiVersion": review.resource.api_version, "metadata": {"creationTimestamp": None}}
    if kind == "SelfSubjectReview":
        return {**question, "status": {"userInfo": {"username": user.name, "groups": list(user.groups)}}}
    spec = body.get("spec")
    if not isinstance(spec, dict):
        raise bad_request("spec is missing")
    about = user
    if kind == "SubjectAccessReview":
        groups = spec.get("groups") or []
        about = User(str(spec.get("user", "")), tuple(str(group) for group in groups))
    allowed = _allowed(spec, about)
    status: Object = {"allowed": allowed}
    if not allowed:
        status["reason"] = "no rule of this server's table allows it"
    return {**question, "status": status}


def _allowed(spec: Object, user: User) -> bool:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if isinstance(resource, dict):
        name = str(resource.get("resource", "")) + (f"/{resource['subresource']}" if resource.get("subresource") else "")
        return authorize.may(user, str(resource.get("verb", "")), name) or "system:masters" in user.groups
    if isinstance(path, dict):
        return authorize.may_path(user, str(path.get("path", "")))
    raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
