"""Log lines in klog's format, so that whoever greps Kubernetes' logs can grep ours.

    I1121 02:56:06.507154    4711 vxlan.py:138] device flannel.1 created

`-v 0` is information, `-v 4` and up is debugging (klog's verbosity). Secrets are never passed to a logger.
Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import logging
import sys
import time

LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
DEBUG_VERBOSITY = 4


class KlogFormatter(logging.Formatter):
    """Formats a record as klog does: letter, date, time in microseconds, pid, file and line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        letter = LETTERS.get(record.levelno, "I")
        text = record.getMessage().replace("\n", "\\n")
        line = f"{letter}{stamp}.{micros:06d} {record.process:7d} {record.filename}:{record.lineno}] {text}"
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def setup(verbosity: int = 0) -> None:
    """Send everything to stderr in klog's format; foreign libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KlogFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO
    for name in ("nodecore", "flanneld_py", "proxy", "minik8s", "__main__"):
        logging.getLogger(name).setLevel(level)
