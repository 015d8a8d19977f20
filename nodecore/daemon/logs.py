"""Log lines in klog's format, so that whoever greps Kubernetes' logs can grep ours.

    I1121 02:56:06.507154    4711 vxlan.py:138] device flannel.1 created

`-v 0` is information, `-v 4` and up is debugging (klog's verbosity), `-vmodule target=4,tun*=0` the same for files by name,
`-log_backtrace_at agent.py:123` adds the stack to one line. Secrets are never passed to a logger.
Read next: `nodecore/daemon/journal.py`, `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from fnmatch import fnmatchcase

from nodecore.daemon import journal
from nodecore.errors import UserError

LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
DEBUG_VERBOSITY = 4
OURS = ("nodecore", "flanneld_py", "proxy", "minik8s", "__main__")


class KlogFormatter(logging.Formatter):
    """Formats a record as klog does: letter, date, time in microseconds, pid, file and line."""

    def __init__(self, backtrace_at: str = "") -> None:
        super().__init__()
        self._backtrace_at = backtrace_at

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        letter = LETTERS.get(record.levelno, "I")
        text = record.getMessage().replace("\n", "\\n")
        place = f"{record.filename}:{record.lineno}"
        line = f"{letter}{stamp}.{micros:06d} {record.process:7d} {place}] {text}"
        if place == self._backtrace_at:
            line += "\n" + "".join(traceback.format_stack()).rstrip()
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


class ByFile(logging.Filter):
    """Lets records pass by the verbosity of the file they are from."""

    def __init__(self, verbosity: int, files: tuple[tuple[str, int], ...]) -> None:
        super().__init__()
        self._levels = [(pattern, _level(number)) for pattern, number in files]
        self._otherwise = _level(verbosity)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is loud enough."""
        level = next((level for pattern, level in self._levels if fnmatchcase(record.module, pattern)), self._otherwise)
        return record.levelno >= level


def setup(verbosity: int = 0, vmodule: str = "", backtrace_at: str = "") -> None:
    """Send everything to stderr, or to its journal, in klog's format; foreign libraries only from warnings on."""
    files = parse_vmodule(vmodule)
    handler = logging.StreamHandler(sys.stderr)
    if journal.is_stream():
        handler = journal.JournalHandler()
    handler.setFormatter(KlogFormatter(parse_place(backtrace_at)))
    if files:
        handler.addFilter(ByFile(verbosity, files))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = min(_level(number) for number in (verbosity, *(number for _, number in files)))
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def only_warnings() -> None:
    """For a command whose output is what counts: no information, unless it was asked for."""
    for name in OURS:
        if logging.getLogger(name).level == logging.INFO:
            logging.getLogger(name).setLevel(logging.WARNING)


def parse_vmodule(text: str) -> tuple[tuple[str, int], ...]:
    """`pattern=N,...`, patterns of file names without `.py`; raises `UserError`."""
    found = []
    for item in filter(None, text.split(",")):
        pattern, _, number = item.partition("=")
        if not pattern or not number.isdigit():
            raise UserError(f"--vmodule: {item!r} is not a file's name, = and a number")
        found.append((pattern.removesuffix(".py"), int(number)))
    return tuple(found)


def parse_place(text: str) -> str:
    """`file.py:line`, or nothing; raises `UserError`."""
    file, _, line = text.partition(":")
    if text and (not file or not line.isdigit()):
        raise UserError(f"--log_backtrace_at: {text!r} is not a file's name, : and a line")
    return text


def _level(verbosity: int) -> int:
    return logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO
