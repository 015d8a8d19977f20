"""The words for a wrong field, one function for each sort, and the name rules every kind shares.

Pure. Must not know: kinds. Read next: `validate.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from minik8s.apiserver.request.status import Cause
from nodecore.net import read_address

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SERVICE_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
SUBDOMAIN_WORDS = ("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
                   "start and end with an alphanumeric character")


def wrong(field: str, value: Any, why: str) -> Cause:
    """The value cannot be this."""
    return Cause(field, f"Invalid value: {_shown(value)}: {why}")


def required(field: str, why: str = "") -> Cause:
    """There must be a value."""
    return Cause(field, f"Required value: {why}" if why else "Required value", "FieldValueRequired")


def unsupported(field: str, value: Any, known: Iterable[str]) -> Cause:
    """The value is not one of those there are."""
    words = ", ".join(json.dumps(each) for each in sorted(known))
    return Cause(field, f"Unsupported value: {_shown(value)}: supported values: {words}", "FieldValueNotSupported")


def forbidden(field: str, why: str) -> Cause:
    """There must be no such value, or no such change."""
    return Cause(field, f"Forbidden: {why}", "FieldValueForbidden")


def duplicate(field: str, value: Any) -> Cause:
    """Another entry has the same."""
    return Cause(field, f"Duplicate value: {_shown(value)}", "FieldValueDuplicate")


def immutable(field: str, value: Any) -> Cause:
    """The value is what it was made with."""
    return wrong(field, value, "field is immutable")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else text[:300] + "..."


def _name(form: re.Pattern[str], longest: int, words: str) -> Callable[[str, Any], Iterator[Cause]]:
    def check(field: str, value: Any) -> Iterator[Cause]:
        if len(str(value)) > longest:
            yield wrong(field, value, f"must be no more than {longest} characters")
        if not form.fullmatch(str(value)):
            yield wrong(field, value, f"{words}, regex used for validation is '{form.pattern}')")

    return check


label_name = _name(LABEL, 63, (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc'"))
service_name = _name(SERVICE_LABEL, 63, (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    "with an alphanumeric character (e.g. 'my-name',  or 'abc-123'"))
subdomain = _name(SUBDOMAIN, 253, f"{SUBDOMAIN_WORDS} (e.g. 'example.com'")


def path_segment(field: str, value: Any) -> Iterator[Cause]:
    """A name that need only fit into a URL."""
    if not isinstance(value, str) or value in (".", "..") or "/" in value or "%" in value:
        yield wrong(field, value, "may not be '.' or '..' and may not contain '/' or '%'")


def address_name(field: str, value: Any) -> Iterator[Cause]:
    """An IP address, written the one way there is."""
    try:
        right = str(read_address(str(value)))
    except ValueError:
        yield wrong(field, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        return
    if right != value:
        yield wrong(field, value, f"must be in canonical form ({right})")


def qualified(field: str, value: str) -> Iterator[Cause]:
    """A key of labels, annotations and finalizers: `name` or `prefix/name`."""
    prefix, slash, name = value.rpartition("/")
    if slash and not SUBDOMAIN.fullmatch(prefix):
        yield wrong(field, value, f"prefix part {SUBDOMAIN_WORDS}")
    if not name or len(name) > 63 or not QUALIFIED.fullmatch(name):
        yield wrong(field, value, "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
                                  "with an alphanumeric character, at most 63 of them")


def labels(field: str, values: Any) -> Iterator[Cause]:
    """A set of labels."""
    for key, value in (values if isinstance(values, dict) else {}).items():
        yield from qualified(field, key)
        if value and (len(value) > 63 or not QUALIFIED.fullmatch(value)):
            yield wrong(field, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
                                      "'.', and must start and end with an alphanumeric character, at most 63 of them")


def port(field: str, value: Any) -> Iterator[Cause]:
    """A port number."""
    if not isinstance(value, int) or not 1 <= value <= 65535:
        yield wrong(field, value, "must be between 1 and 65535, inclusive")


def everybodys(field: str, value: Any) -> Iterator[Cause]:
    """An address that every node has for itself: packets to it are nobody's to lead elsewhere, nor there."""
    try:
        address = read_address(str(value))
    except ValueError:
        return
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified:
        yield wrong(field, value, f"may not be unspecified ({address})")
    if address.is_loopback:
        yield wrong(field, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        yield wrong(field, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.is_multicast:
        yield wrong(field, value, "may not be in the multicast range (224.0.0.0/4, ff00::/8)")


def one_of(field: str, value: Any, known: Iterable[str]) -> Iterator[Cause]:
    """One of the values there are."""
    if value not in known:
        yield unsupported(field, value, known)
