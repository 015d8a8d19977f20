"""Runs of pytest: on every core at once, but for what brings up whole clusters, which measures time.

Must not know: what is tested. Read next: `tests/conftest.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from minik8s.lab.host import PROJECT

EVERY_CORE = ("-n", "auto", "--dist", "loadfile")
FAST = ("-m", "not cluster and not slow", *EVERY_CORE)
SLOW = ("-m", "slow and not cluster", *EVERY_CORE)
CLUSTER = ("-m", "cluster")


def run(arguments: Sequence[str], *, fast: bool) -> int:
    """Exit code of the first part that failed; a part after one that failed runs all the same."""
    if fast:
        parts = [(*FAST, *arguments)]
    elif arguments:
        parts = [tuple(arguments)]
    else:
        parts = [FAST, SLOW, CLUSTER]
    codes = [subprocess.call([sys.executable, "-m", "pytest", *part], cwd=PROJECT) for part in parts]
    return next((code for code in codes if code), 0)
