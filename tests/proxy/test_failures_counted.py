"""Which of kube-proxy's metrics counts which failure, by mode."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from nodecore.errors import Fault
from nodecore.loop.reconcile import Outcome
from nodecore.net import Family
from proxy.ledger import Delta
from proxy.metrics import Counts
from proxy.render.nftables import Layout
from proxy.target import Replace, RuleOp, Sweep, Update

LAYOUT = Layout(Family.IPV4)
WHOLE, PARTIAL, OTHERS = Replace(LAYOUT, Delta()), Update(LAYOUT, Delta()), Sweep()


@pytest.mark.parametrize(("mode", "failing", "counted"), [
    ("nftables", [[WHOLE], [PARTIAL]], {"nftables_sync_failures": 2, "nftables_cleanup_failures": 0}),
    ("nftables", [[OTHERS]], {"nftables_sync_failures": 0, "nftables_cleanup_failures": 1}),
    ("iptables", [[PARTIAL], [WHOLE], [WHOLE]], {"iptables_restore_failures": 2, "iptables_partial_restore_failures": 1}),
    ("iptables", [[OTHERS]], {"iptables_restore_failures": 0, "iptables_partial_restore_failures": 0}),
    ("ipvs", [[PARTIAL], [WHOLE]], {"iptables_restore_failures": 2}),
])
def test_each_failure_is_counted_where_kube_proxy_does(mode: str, failing: list[list[RuleOp]], counted: dict[str, int]) -> None:
    registry = CollectorRegistry()
    counts = Counts(mode, registry)
    for ops in failing:
        for op in ops:
            counts.failed(op)
        counts.observe(Outcome((), 0.1, None if ops == [OTHERS] else Fault("no")))
    found = {name: registry.get_sample_value(f"kubeproxy_sync_proxy_rules_{name}_total") for name in counted}
    assert found == counted
