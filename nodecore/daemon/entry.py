"""The rim of every command: errors become one line and an exit code.

    the user's value is wrong   exit 2, "flanneld-py: --iface: no interface called 'eth7'"
    the environment             exit 1, one line
    a bug of ours               exit 70 (EX_SOFTWARE), with the traceback

Read next: `nodecore/errors.py`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from nodecore.errors import Blame, Fault, leaves

EXIT_CODES = {Blame.USER: 2, Blame.ENVIRONMENT: 1, Blame.OURS: 70}


def run(command: Callable[[], object], name: str) -> NoReturn:
    """Call a click command (or any function that exits by itself) and end the process accordingly."""
    try:
        command()
    except Exception as error:
        sys.exit(report(error, name))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def report(error: BaseException, name: str) -> int:
    """Print an error for people on stderr and return the exit code it deserves."""
    found = leaves(error)
    if not all(isinstance(leaf, Fault) for leaf in found):
        traceback.print_exception(error)
        return EXIT_CODES[Blame.OURS]
    for leaf in found:
        print(f"{name}: {leaf}", file=sys.stderr)
    return max(EXIT_CODES[leaf.blame] for leaf in found if isinstance(leaf, Fault))
