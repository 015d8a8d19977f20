"""What can be wrong with a cluster's network: each check is a pure function of all nodes' facts, or of the whole scene.

Read next: `tunnels.py`.
"""

from collections.abc import Callable, Iterator

from netscope.checks import backends, echoes, firewall, forwarding, ipsec, journeys, leases, objects, tunnels, underlay
from netscope.facts import Finding
from netscope.scene import Scene

CHECKS = (*forwarding.CHECKS, *tunnels.CHECKS, *underlay.CHECKS, *firewall.CHECKS)
SCENE_CHECKS: tuple[Callable[[Scene], Iterator[Finding]], ...] = (
    *leases.SCENE_CHECKS, *objects.SCENE_CHECKS, *underlay.SCENE_CHECKS, *tunnels.SCENE_CHECKS,
    *backends.SCENE_CHECKS, *ipsec.SCENE_CHECKS)
BETWEEN = (*tunnels.CHECKS, *underlay.CHECKS)  # what explains a silence
SILENCE, LAST = echoes.silent, journeys.journeys  # told only where nothing else explains it
