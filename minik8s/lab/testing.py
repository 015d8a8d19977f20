"""Runs of pytest: the fast part on every core at once; what brings up clusters or containers one by one, as it measures time.

Must not know: what is tested. Read next: `tests/conftest.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from minik8s.lab.host import PROJECT

FAST = ("-m", "not cluster and not slow", "-n", "auto", "--dist", "loadfile")
REST = ("-m", "cluster or slow")


def run(arguments: Sequence[str], *, fast: bool) -> int:
    """Exit code of the first part that failed; a part after one that failed runs all the same."""
    if fast:
        parts = [(*FAST, *arguments)]
    elif arguments:
        parts = [tuple(arguments)]
    else:
        parts = [FAST, REST]
    codes = [subprocess.call([sys.executable, "-m", "pytest", *part], cwd=PROJECT) for part in parts]
    return next((code for code in codes if code), 0)
