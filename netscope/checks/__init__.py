"""What can be wrong with a cluster's network: each check is a pure function of all nodes' facts. Read next: `tunnels.py`."""

from collections.abc import Callable, Iterator

from netscope.checks import firewall, forwarding, tunnels
from netscope.facts import Finding
from netscope.scene import Scene

CHECKS = (*forwarding.CHECKS, *tunnels.CHECKS, *firewall.CHECKS)
SCENE_CHECKS: tuple[Callable[[Scene], Iterator[Finding]], ...] = ()
