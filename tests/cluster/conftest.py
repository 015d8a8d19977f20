from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.labs import Lab, until

ECHO = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo, namespace: traffic}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: echo, image: "lab.local/busybox:1", imagePullPolicy: IfNotPresent, command: [nc, -ll, -p, "9000", -e, cat]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: traffic}
spec:
  selector: {app: echo}
  ports: [{port: 9000}]
"""


@dataclass(frozen=True)
class Pods:
    """An echo server on every node, and a Service in front of them."""

    lab: Lab
    addresses: dict[str, str]
    service: str

    def served_on(self, node: str) -> bool:
        """Whether the proxy of a node knows all servers."""
        rules = self.lab.exec(node, "nft", "list", "ruleset")
        wanted = [f"{self.service} . tcp . 9000", *(f"{address} . 9000" for address in self.addresses.values())]
        return all(words in rules for words in wanted)

    def netns(self, node: str) -> str:
        return self.lab.netns_of(node, self.addresses[node])


@pytest.fixture(scope="session")
def pods(lab: Lab) -> Iterator[Pods]:
    lab.kubectl("create", "namespace", "traffic")
    lab.kubectl("apply", "-f", "-", stdin=ECHO)
    lab.kubectl("rollout", "status", "daemonset/echo", "-n", "traffic", "--timeout=240s")
    items = lab.get("pods", "-n", "traffic", "-l", "app=echo")["items"]
    service = lab.get("service", "echo", "-n", "traffic")["spec"]["clusterIP"]
    made = Pods(lab, {item["spec"]["nodeName"]: item["status"]["podIP"] for item in items}, service)
    for node in made.addresses:
        until(lambda node=node: made.served_on(node), what=f"the Service on {node}")
    yield made
    lab.kubectl("delete", "namespace", "traffic", "--wait=false")
