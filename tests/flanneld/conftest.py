from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from site_of_nodes import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A switch with a running etcd; nodes are added by the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Site(tmp_path)
    try:
        made.etcd.start()
        made.configure()
        yield made
    finally:
        made.close()
