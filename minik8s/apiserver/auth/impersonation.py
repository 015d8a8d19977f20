"""Acting as somebody else (`kubectl --as`): who may is said by the verb `impersonate`.

Pure but for the question asked of `Access`. Read next: `access.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import AUTHENTICATED, UNAUTHENTICATED, Attributes, User, account_groups
from minik8s.apiserver.auth.questions import forbidden
from minik8s.apiserver.auth.rbac import account_of
from minik8s.apiserver.request.status import bad_request

Pairs = list[tuple[str, str]]
AUTHENTICATION = "authentication.k8s.io"
PREFIX, EXTRA = "impersonate-", "impersonate-extra-"


def acting(user: User, headers: Mapping[str, str], pairs: Pairs, access: Access) -> User:
    """The user to act as: the asker, or who the headers name if the asker may."""
    if "Impersonate-User" not in headers:
        if any(name.lower().startswith(PREFIX) for name, _ in pairs):
            raise bad_request("requested impersonation of groups, uid or extra without a user")
        return user
    wanted = _wanted(pairs)
    for asked in _questions(wanted):
        if not access.allows(user, asked):
            raise forbidden(user, asked)
    groups = wanted.groups
    if not groups and (found := account_of(wanted.name)):
        groups = account_groups(found[0])
    if wanted.name != "system:anonymous" and AUTHENTICATED not in groups and UNAUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    elif wanted.name == "system:anonymous" and not groups:
        groups = (UNAUTHENTICATED,)
    return wanted._replace(groups=groups)


def _wanted(pairs: Pairs) -> User:
    found = [(name.lower(), value) for name, value in pairs]
    extra: dict[str, list[str]] = {}
    for name, value in found:
        if name.startswith(EXTRA):
            extra.setdefault(unquote(name[len(EXTRA):]), []).append(value)
    names = [value for name, value in found if name == "impersonate-user"]
    if len(names) != 1 or not names[0]:
        raise bad_request("Impersonate-User names exactly one user")
    groups = tuple(value for name, value in found if name == "impersonate-group")
    uid = next((value for name, value in found if name == "impersonate-uid"), "")
    return User(names[0], groups, uid, tuple((key, tuple(values)) for key, values in extra.items()))


def _questions(wanted: User) -> Iterator[Attributes]:
    if found := account_of(wanted.name):
        yield Attributes("impersonate", "", "serviceaccounts", *found)
    else:
        yield Attributes("impersonate", "", "users", "", wanted.name)
    for group in wanted.groups:
        yield Attributes("impersonate", "", "groups", "", group)
    if wanted.uid:
        yield Attributes("impersonate", AUTHENTICATION, "uids", "", wanted.uid)
    for key, values in wanted.extra:
        for value in values:
            yield Attributes("impersonate", AUTHENTICATION, f"userextras/{key}", "", value)
