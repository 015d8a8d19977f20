"""The lab the cluster tests share: brought up once, under a name and in a directory of its own, taken down at the end.

And how Hypothesis draws: the same examples in every run, however long a busy machine takes over each. Others are drawn with
`--hypothesis-profile=exploring`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import conformance
from tests.labs import Lab, new_name

os.environ |= {"ETCDCTL_DIAL_TIMEOUT": "60s", "ETCDCTL_COMMAND_TIMEOUT": "60s"}  # its own 2 and 5 s are little on a busy machine
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes with everything, for every test that does not need a fresh lab."""
    made = Lab(new_name(), tmp_path_factory.mktemp("labs"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture
def fresh_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab of one's own that nobody has brought up yet."""
    made = Lab(new_name(), tmp_path)
    try:
        yield made
    finally:
        made.down()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the conformance table, if tests of it ran."""
    if found := conformance.cells(terminalreporter.stats):
        terminalreporter.section("conformance: mode, family, protocol")
        for line in conformance.table(found):
            terminalreporter.write_line(line)
