"""What the server counts of itself, under Kubernetes' metric names, as Prometheus' text.

Plain counters: the client library costs 3 MB, and this is all of the format that is needed.
Must not know: HTTP, storage. Read next: `health.py`, `handler.py`.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minik8s.apiserver.request.routes import Target

BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
VERBS = {"create": "POST", "update": "PUT"}
MUTATING = frozenset({"create", "update", "patch", "delete", "deletecollection"})
Labels = tuple[tuple[str, str], ...]
Samples = Iterable[tuple[Labels, float]]


@dataclass(slots=True)
class Histogram:
    """Durations of one sort."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.reading = self.writing = 0
        self.long: Counter[str] = Counter()
        self.watch_events: Counter[tuple[str, str, str]] = Counter()
        self.rejected: Counter[str] = Counter({"concurrency-limit": 0, "rate-limit": 0})
        self._requests: Counter[tuple[str, Target | None, int]] = Counter()
        self._seconds: dict[tuple[str, Target | None], Histogram] = {}
        self._etcd: dict[str, Histogram] = {}

    def begin(self, verb: str) -> None:
        """A request is being answered from now on."""
        if verb in MUTATING:
            self.writing += 1
        else:
            self.reading += 1

    def end(self, verb: str) -> None:
        """It is answered."""
        if verb in MUTATING:
            self.writing -= 1
        else:
            self.reading -= 1

    def answered(self, verb: str, target: Target | None, code: int, seconds: float) -> None:
        """Take note of one request; of a target, only what it is of."""
        sort = target and Target(target.group, target.version, target.plural, _scope(target), "", target.subresource)
        self._requests[verb, sort, code] += 1
        if verb != "watch":
            self._seconds.setdefault((verb, sort), Histogram()).add(seconds)

    def asked_etcd(self, operation: str, seconds: float) -> None:
        """Take note of one call of etcd."""
        self._etcd.setdefault(operation, Histogram()).add(seconds)

    def text(self, objects: Mapping[str, int], events: int) -> str:
        """All of it; `objects` a resource and `events` that came from etcd are told by who has them."""
        lines: list[str] = []
        _family(lines, "apiserver_request_total", "counter", (
            ((*_sort(verb, sort), ("code", str(code)), ("component", "apiserver")), count)
            for (verb, sort, code), count in self._requests.items()))
        _histograms(lines, "apiserver_request_duration_seconds", (
            (_sort(verb, sort), histogram) for (verb, sort), histogram in self._seconds.items()))
        _family(lines, "apiserver_current_inflight_requests", "gauge", (
            ((("request_kind", kind),), count) for kind, count in (("mutating", self.writing), ("readOnly", self.reading))))
        _family(lines, "apiserver_flowcontrol_rejected_requests_total", "counter", (
            ((("reason", reason),), count) for reason, count in self.rejected.items()))
        _family(lines, "apiserver_longrunning_requests", "gauge", (
            ((("verb", verb),), self.long[verb]) for verb in sorted({"WATCH", "CONNECT", *self.long})))
        _family(lines, "apiserver_watch_events_total", "counter", (
            ((("group", group), ("version", version), ("resource", plural)), count)
            for (group, version, plural), count in sorted(self.watch_events.items())))
        _family(lines, "apiserver_storage_objects", "gauge", (
            ((("resource", name),), count) for name, count in sorted(objects.items())))
        _family(lines, "apiserver_watch_cache_events_received_total", "counter", [((), events)])
        _histograms(lines, "etcd_request_duration_seconds", (
            ((("operation", name),), found) for name, found in self._etcd.items()))
        for name, sort, value in _process():
            _family(lines, name, sort, [((), value)])
        return "\n".join(lines) + "\n"


def _scope(target: Target) -> str:
    if target.name:
        return "resource"
    return "namespace" if target.namespace else "cluster"


def _sort(verb: str, sort: Target | None) -> Labels:
    name = VERBS.get(verb, verb.upper())
    if sort is None:
        return (("verb", name), ("group", ""), ("version", ""), ("resource", ""), ("subresource", ""), ("scope", ""))
    return (("verb", name), ("group", sort.group), ("version", sort.version), ("resource", sort.plural),
            ("subresource", sort.subresource), ("scope", sort.namespace))


def _family(lines: list[str], name: str, sort: str, samples: Samples) -> None:
    lines.append(f"# TYPE {name} {sort}")
    lines += [_sample(name, labels, value) for labels, value in samples]


def _histograms(lines: list[str], name: str, found: Iterable[tuple[Labels, Histogram]]) -> None:
    lines.append(f"# TYPE {name} histogram")
    for labels, histogram in found:
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
            total += count
            lines.append(_sample(f"{name}_bucket", (*labels, ("le", bound)), total))
        lines += [_sample(f"{name}_sum", labels, histogram.seconds), _sample(f"{name}_count", labels, total)]


def _sample(name: str, labels: Labels, value: float) -> str:
    text = ",".join(f'{key}="{_escaped(said)}"' for key, said in labels)
    return f"{name}{{{text}}} {value:.10g}" if text else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text[:200].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _process() -> Iterable[tuple[str, str, float]]:
    times = os.times()
    yield "process_cpu_seconds_total", "counter", times.user + times.system
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    yield "process_resident_memory_bytes", "gauge", pages * os.sysconf("SC_PAGESIZE")
    yield "process_open_fds", "gauge", len(os.listdir("/proc/self/fd"))
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    yield "process_start_time_seconds", "gauge", round(time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK"), 2)
