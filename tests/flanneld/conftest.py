from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from site_of_nodes import Site, ping_once, until


def running(directory: Path) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Site(directory)
    try:
        made.etcd.start()
        made.configure()
        yield made
    finally:
        made.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A switch with a running etcd; nodes are added by the test."""
    yield from running(tmp_path)


@pytest.fixture(scope="module")
def lasting_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same with two nodes and their pods, for tests that leave it as they found it."""
    for made in running(tmp_path_factory.mktemp("site")):
        for _ in range(2):
            made.add_node().start()
        made.add_pods()
        one, two = made.nodes
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")  # noqa: B023
        yield made
