"""The formats a schema may ask of a string, as far as the API checks them; others are not checked, as in the original.

Pure. Must not know: schemas. Read next: `structural.py`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any
from uuid import UUID

DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
DURATION = re.compile(r"[+-]?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h|d|w))+|0")


def _accepts(make: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            make(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return check


def _moment(text: str) -> None:
    if not DATE_TIME.fullmatch(text):
        raise ValueError(text)
    datetime.fromisoformat(text.upper())


def _duration(text: str) -> None:
    if not DURATION.fullmatch(text):
        raise ValueError(text)


FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _accepts(_moment), "datetime": _accepts(_moment), "date": _accepts(date.fromisoformat),
    "byte": _accepts(lambda text: base64.b64decode(text, validate=True)), "ipv4": _accepts(IPv4Address),
    "ipv6": _accepts(IPv6Address), "cidr": _accepts(ip_network), "uuid": _accepts(UUID), "duration": _accepts(_duration),
}
