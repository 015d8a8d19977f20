"""One round: each waiting pod gets a node or a reason, each decision knowing the ones before it.

Pure. Read next: `minik8s/scheduler/agent.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodecore.errors import UserError
from nodecore.kube.workload import Pod

from .cluster import Cluster, Load
from .fit import explain, obstacles
from .score import best


@dataclass(frozen=True, slots=True)
class Bind:
    """This pod goes to that node."""

    load: Load
    node: str

    @property
    def pod(self) -> Pod:
        """The pod."""
        return self.load.pod

    def describe(self) -> str:
        """Which goes where."""
        return f"bind {self.pod.metadata.key} to {self.node}"


@dataclass(frozen=True, slots=True)
class Refuse:
    """No node can take this pod now."""

    pod: Pod
    message: str

    def describe(self) -> str:
        """Which, and why."""
        return f"leave {self.pod.metadata.key} waiting: {self.message}"


def decide(cluster: Cluster, pods: Iterable[Pod]) -> list[Bind | Refuse]:
    """Serve the pods in their order; one whose binding got no answer is bound to the same node again."""
    trial = cluster.fork()
    decisions: list[Bind | Refuse] = []
    for pod in pods:
        try:
            load = Load.of(pod)
        except UserError as error:
            decisions.append(Refuse(pod, str(error)))
            continue
        promised = trial.where.get(pod.metadata.uid)
        if promised:
            decisions.append(Bind(load, promised))
            continue
        reasons = [(place, obstacles(load, place)) for place in trial]
        open_places = [place for place, found in reasons if not found]
        if open_places:
            chosen = best(load, open_places, trial.services_of(pod)).node.metadata.name
            trial.put(load, chosen)
            decisions.append(Bind(load, chosen))
        else:
            decisions.append(Refuse(pod, explain((found for _, found in reasons), len(reasons))))
    return decisions
