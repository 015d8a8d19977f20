"""`lab demo`: web pods, a Service, and everybody fetching it, in each family; then one fetch as it crosses the underlay.

Everything goes through the real kubectl, as a user would do it. Read next: `minik8s/lab/capture.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click

from minik8s.lab.capture import Capture
from minik8s.lab.enter import command_in, environment
from minik8s.lab.frames import Packet, draw
from minik8s.lab.host import PROJECT
from minik8s.lab.state import State
from minik8s.lab.status import table
from minik8s.lab.steps import Steps
from minik8s.lab.topology import url_host
from nodecore.errors import Fault, Unreachable

MANIFEST = PROJECT / "examples/web.yaml"
NAMESPACE = "demo"
FETCHES = 20
ROUNDS = 10
PATIENCE = 120.0  # seconds until the pods run


@dataclass
class Client:
    """Somebody who fetches the Service: a node, or a pod on it; and whom it has met."""

    name: str
    argv: list[str]
    addresses: tuple[str, ...]
    seen: Counter[str] = field(default_factory=Counter)
    failed: int = 0


class Kubectl:
    """The real kubectl, as the lab's administrator."""

    def __init__(self, state: State) -> None:
        self.env = {**os.environ, "KUBECONFIG": str(state.kubeconfig)}

    def run(self, *argv: str, seconds: float = 180) -> str:
        """Run it; its output, or an error with what it said."""
        try:
            done = subprocess.run(["kubectl", *argv], env=self.env, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"kubectl {' '.join(argv)}: no end after {seconds:.0f} s") from None
        if done.returncode:
            raise Fault(f"kubectl {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *argv: str) -> Any:
        """What `kubectl get ... -o json` says."""
        return json.loads(self.run("get", *argv, "-o", "json"))


def demo(state: State, patience: float = PATIENCE) -> None:
    """Show the whole thing, or fail with what did not work; `patience` is how long the pods may take to run."""
    state.require()
    steps, kubectl = Steps(), Kubectl(state)
    deploy(kubectl, steps, patience)
    pods = kubectl.get("pods", "-n", NAMESPACE)["items"]
    web = [pod for pod in pods if pod["metadata"]["labels"].get("app") == "web" and "deletionTimestamp" not in pod["metadata"]]
    service = kubectl.get("service", "web", "-n", NAMESPACE)["spec"]
    clients = everybody(state, pods)
    port = service["ports"][0]["nodePort"]
    for address in service["clusterIPs"]:
        url = f"http://{url_host(address)}/"
        for client in clients:
            client.seen.clear()
        with steps.step(f"{len(clients)} clients fetch {url} until each has seen {len(web)} endpoints"):
            fetch_all(clients, url, {pod["metadata"]["name"] for pod in web})
        click.echo("\n" + matrix(clients, web, six=":" in address) + "\n")
        click.echo(show_packet(state, clients, pods, url) + "\n")
    with steps.step(f"every node fetches http://NODE:{port}/ (NodePort) from every node"):
        fetch_node_ports(state, port)
    steps.done("every node and a pod on every node reached every endpoint of the Service")


def deploy(kubectl: Kubectl, steps: Steps, patience: float = PATIENCE) -> None:
    """Apply the manifest and wait until all of it runs."""
    with steps.step(f"kubectl apply -f {MANIFEST.relative_to(PROJECT)}"):
        kubectl.run("apply", "-f", str(MANIFEST))
    with steps.step("kubectl rollout status"):
        for what in ("deployment/web", "daemonset/client"):
            kubectl.run("rollout", "status", what, "-n", NAMESPACE, f"--timeout={patience:.0f}s", seconds=patience + 60)


def everybody(state: State, pods: list[dict[str, Any]]) -> list[Client]:
    """Every node, and the client pod on every node."""
    config = state.require()
    inside = {pod["spec"]["nodeName"]: pod for pod in pods if pod["metadata"]["labels"].get("app") == "client"}
    clients = []
    for node in config.every_node:
        clients.append(Client(node.name, command_in(state, node.name, ["busybox", "sh", "-c"]), node.addresses))
        pod = inside.get(node.name)
        if pod is None:
            raise Fault(f"no client pod runs on {node.name}")
        kubectl = ["kubectl", "--kubeconfig", str(state.kubeconfig), "exec", "-n", NAMESPACE]
        argv = [*kubectl, pod["metadata"]["name"], "--", "sh", "-c"]
        clients.append(Client(f"pod on {node.name}", argv, pod_ips(pod)))
    return clients


def pod_ips(pod: dict[str, Any]) -> tuple[str, ...]:
    """All addresses of a pod."""
    return tuple(entry["ip"] for entry in pod["status"].get("podIPs") or [])


def script(url: str, times: int) -> str:
    """A shell loop that fetches a page some times; a failed fetch prints FAILED."""
    return f"for i in $(seq {times}); do timeout 3 wget -q -O - {url} || echo FAILED; done"


def fetch(client: Client, url: str, times: int = FETCHES) -> list[str]:
    """The pages a client got."""
    env = {**environment(), "PATH": f"{os.environ.get('PATH', '')}:{environment()['PATH']}"}
    done = subprocess.run([*client.argv, script(url, times)], capture_output=True, text=True, check=False, timeout=120, env=env)
    if done.returncode:
        raise Fault(f"{client.name}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def fetch_all(clients: list[Client], url: str, wanted: set[str]) -> None:
    """Let all clients fetch at once until each has seen every endpoint."""
    errors: list[BaseException] = []

    def until_all_seen(client: Client) -> None:
        try:
            for _ in range(ROUNDS):
                for page in fetch(client, url):
                    words = dict(word.split("=", 1) for word in page.split() if "=" in word)
                    client.seen[words.get("pod", "")] += 1
                    client.failed += page == "FAILED"
                if wanted <= set(client.seen):
                    return
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=until_all_seen, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    for client in clients:
        if client.failed or not wanted <= set(client.seen):
            missed = ", ".join(sorted(wanted - set(client.seen))) or "none"
            raise Unreachable(f"{client.name}: {client.failed} of {client.seen.total()} fetches failed; never met: {missed}")


def matrix(clients: list[Client], web: list[dict[str, Any]], *, six: bool) -> str:
    """Who met whom how often."""
    endpoints = sorted(
        (pod["spec"]["nodeName"], pod["metadata"]["name"], address)
        for pod in web for address in pod_ips(pod) if (":" in address) is six)
    head = ("fetched by", *(f"{name} {address} ({node})" for node, name, address in endpoints))
    return table([(client.name, *(str(client.seen[name]) for _, name, _ in endpoints)) for client in clients], head)


def show_packet(state: State, clients: list[Client], pods: list[dict[str, Any]], url: str) -> str:
    """Catch a request of the first pod client on its way to another node, and draw it."""
    config = state.require()
    nodes = config.every_node
    if len(nodes) == 1:
        return "(one node: no packet crosses the underlay)"
    client = next(client for client in clients if client.name == f"pod on {nodes[0].name}")
    names = {address: pod["metadata"]["name"] for pod in pods for address in pod_ips(pod)}
    names |= {address: node.name for node in nodes for address in node.addresses}

    def request(packet: Packet) -> bool:
        return str(packet.inner_ip.source) in client.addresses and packet.payload.startswith(b"GET ")

    with Capture(state.switch.pid, nodes[0].port) as capture:
        for _ in range(ROUNDS):
            fetch(client, url, 4)
            packet = capture.first(request, seconds=0.5)
            if packet:
                return draw(packet, names)
    return f"(what crosses the underlay by {config.backend} cannot be read there)"


def fetch_node_ports(state: State, port: int) -> None:
    """Every node fetches the NodePort of every node."""
    nodes = state.require().every_node
    for node in nodes:
        client = Client(node.name, command_in(state, node.name, ["busybox", "sh", "-c"]), node.addresses)
        for address in (address for other in nodes for address in other.addresses):
            pages = fetch(client, f"http://{url_host(address)}:{port}/", 2)
            if not all(page.startswith("pod=") for page in pages):
                raise Unreachable(f"{node.name}: http://{url_host(address)}:{port}/ did not answer: {pages}")
