"""What `netscope flows` tells Prometheus, in its text form: connections, TCP's counters of pods and nodes, news that was lost.

Whoever is no pod, Service or node is `outside`: addresses of clients would make series without end. Pure. Read next: `flows.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from netscope.directory import Directory
from netscope.flows import Row
from netscope.records import Flows, Sent

OUTSIDE = "outside"
COUNTERS = (("netscope_tcp_segments_sent_total", "TCP segments sent.", "segments"),
            ("netscope_tcp_segments_sent_again_total", "TCP segments that had to be sent again.", "again"),
            ("netscope_tcp_resets_sent_total", "TCP connections ended by a reset.", "resets"))


def metrics(rows: Sequence[Row], told: Mapping[str, Flows], lost: Mapping[str, int], directory: Directory) -> str:
    """The page; `lost` says how often news was lost, by node, since the beginning."""
    places = {str(place) for place in directory.places}
    counts = Counter((row.source if row.source in places else OUTSIDE, row.target if row.target in places else OUTSIDE,
                      row.protocol, row.verdict) for row in rows)
    names = "source", "target", "protocol", "verdict"
    flows = [(dict(zip(names, these, strict=True)), count) for these, count in sorted(counts.items())]
    lines = [*_family("netscope_flows", "gauge", "Connections the nodes know.", flows)]
    sent = {name: each for flows in told.values() for each in flows.sent if (name := _name(each, directory))}
    for metric, words, attribute in COUNTERS:
        values = [({"source": name}, getattr(each, attribute)) for name, each in sorted(sent.items())]
        lines += _family(metric, "counter", words, values)
    found = [({"node": node}, count) for node, count in sorted(lost.items())]
    lines += _family("netscope_flow_news_lost_total", "counter", "How often a node's kernel had no room for news.", found)
    return "\n".join(lines)


def _name(sent: Sent, directory: Directory) -> str:
    return next((name for address in sent.addresses if (name := directory.name_of(address))), "")


def _family(name: str, kind: str, words: str, values: Sequence[tuple[Mapping[str, str], int]]) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        text = ",".join(f'{label}="{_escaped(each)}"' for label, each in labels.items())
        yield f"{name}{{{text}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
