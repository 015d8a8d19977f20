"""How far another machine's clock is ahead of ours, from having asked it for the time.

Pure. Read next: `netscope/nodes.py`, `netscope/capture/recording.py`, which ask.
"""

from __future__ import annotations

from collections.abc import Iterable


def ahead(rounds: Iterable[tuple[int, int, int]]) -> int:
    """In ns, from (asked at, told, answered at); a clock that may be right, as far as that tells, is taken to be right."""
    took, by = min((end - begin, told - (begin + end) // 2) for begin, told, end in rounds)
    return by if abs(by) > took // 2 else 0
