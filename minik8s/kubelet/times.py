"""Moments as the API writes them (RFC 3339, UTC) and as we count them (seconds since the epoch).

Pure. Read next: `minik8s/kubelet/status.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(seconds: float) -> str:
    """metav1.Time: whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(seconds: float) -> str:
    """metav1.MicroTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: str) -> float:
    """The moment of a stamp, with or without fractions (nanoseconds are cut)."""
    head, dot, rest = text.partition(".")
    if dot:
        digits = rest.rstrip("Z")
        zone = next((index for index, letter in enumerate(digits) if letter in "+-"), len(digits))
        text = f"{head}.{digits[:zone][:6]:0<6}{digits[zone:] or '+00:00'}"
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
