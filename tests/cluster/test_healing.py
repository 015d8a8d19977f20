"""What somebody deletes by hand is back within a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import Pods
from tests.cluster.traffic import Transfer
from tests.labs import Lab, until
from tests.promised import in_time

pytestmark = pytest.mark.cluster

LIMIT = 1.0
VICTIM = "node-2"


def fdb(lab: Lab) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = json.loads(lab.exec(VICTIM, "bridge", "-j", "fdb", "show", "dev", "flannel.1"))
    return [entry for entry in entries if "dst" in entry]


def first_fdb(lab: Lab) -> list[str]:
    entry = fdb(lab)[0]
    return [str(entry["mac"]), "dev", "flannel.1", "dst", str(entry["dst"])]


def read(lab: Lab) -> dict[str, object]:
    """The data path of the victim, without what a re-made device must change."""
    return {
        "device": len(json.loads(lab.exec(VICTIM, "ip", "-j", "link", "show", "type", "vxlan"))),
        "address": lab.exec(VICTIM, "sh", "-c", "ip -br -4 addr show dev flannel.1 | tr -s ' '"),
        "routes": sorted(lab.exec(VICTIM, "ip", "route", "show", "dev", "flannel.1").splitlines()),
        "neighbours": sorted(lab.exec(VICTIM, "ip", "neigh", "show", "dev", "flannel.1", "nud", "permanent").splitlines()),
        "fdb": sorted(f"{entry['mac']} {entry['dst']}" for entry in fdb(lab)),
        "tables": sorted(lab.exec(VICTIM, "nft", "list", "tables").splitlines()),
        "ruleset": len(lab.exec(VICTIM, "nft", "-s", "list", "ruleset").splitlines()),
    }


def proxy_table(lab: Lab) -> list[str]:
    tables = lab.exec(VICTIM, "nft", "list", "tables").splitlines()
    return next(line.split()[1:] for line in tables if "proxy" in line)


BROKEN: dict[str, Callable[[Lab], list[str]]] = {
    "the flannel.1 device": lambda lab: ["ip", "link", "del", "flannel.1"],
    "a route": lambda lab: ["ip", "route", "del", lab.exec(VICTIM, "ip", "route", "show", "dev", "flannel.1").split()[0]],
    "an fdb entry": lambda lab: ["bridge", "fdb", "del", *first_fdb(lab)],
    "a neighbour": lambda lab: ["ip", "neigh", "del", lab.exec(
        VICTIM, "ip", "neigh", "show", "dev", "flannel.1", "nud", "permanent").split()[0], "dev", "flannel.1"],
    "the proxy's table": lambda lab: ["nft", "delete", "table", *proxy_table(lab)],
}


@pytest.mark.parametrize("what", BROKEN)
def test_healed_within_a_second(lab: Lab, pods: Pods, what: str) -> None:
    before = read(lab)

    def whole() -> bool:
        now = read(lab)
        changed = {key: (before[key], now[key]) for key in before if before[key] != now[key]}
        assert not changed, changed
        return True

    def healed() -> float:
        lab.exec(VICTIM, *BROKEN[what](lab))
        begin = time.monotonic()
        until(whole, seconds=25, what="the same as before, sooner than everything is looked at anyway", every=0)
        return time.monotonic() - begin

    in_time(healed, LIMIT + 0.5, what)  # a reading itself takes a tenth of a second or two
    with Transfer(pods.netns(VICTIM), pods.addresses["node-3"], 9000) as direct, Transfer(
            pods.netns(VICTIM), pods.service, 9000) as through:
        while not (direct.error or through.error) and min(direct.blocks, through.blocks) < 5:
            time.sleep(0.01)
    assert (direct.error, through.error) == (None, None)
