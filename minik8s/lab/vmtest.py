"""`lab vms test`: what a cluster of machines must do, asked of them: from the nodes, from pods, after a reboot.

Read next: `minik8s/lab/vms.py`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import click

from minik8s.lab.steps import Steps
from minik8s.lab.vms import Vms
from nodecore.errors import Fault, Unreachable

SERVICE = "http://10.96.88.88/"
FETCHES = 12
BRIDGE = "--interface $(. /run/flannel/subnet.env; echo ${FLANNEL_SUBNET%/*})"  # with ipsec no other of a node is in a tunnel
BACK_WITHIN = 120.0  # seconds from a machine's ssh until its pods and Services are back, in software
PATIENCE = 600.0


def test(vms: Vms, *, reboot: bool) -> None:
    """All of it, or a Fault that says what did not hold."""
    steps = Steps()
    with steps.step(f"{len(vms.nodes)} nodes are ready"):
        wait_for("every node ready", lambda: not_ready(vms), PATIENCE)
    with steps.step("every node and a pod of every node reach the pods of all through the Service"):
        wait_for("the Service answered", lambda: unanswered(vms), PATIENCE)
    with steps.step("no traffic of the cluster is on Vagrant's own network"):
        check_interfaces(vms)
    with steps.step("netscope doctor"):
        vms.run("netscope", "doctor", seconds=PATIENCE)
    for node in reversed(vms.nodes) if reboot else ():
        with steps.step(f"{node}: rebooted, and back"):
            click.echo(f"{rebooted(vms, node):6.1f} s  from its ssh until all is as before", err=True)
    steps.done("the machines are a cluster")


def wait_for(what: str, wrong: Callable[[], str], seconds: float) -> float:
    """Ask until nothing is wrong; how long that took."""
    begin = time.monotonic()
    while said := tried(wrong):
        if time.monotonic() > begin + seconds:
            raise Unreachable(f"not within {seconds:.0f} s: {what}: {said}")
        time.sleep(1)
    return time.monotonic() - begin


def tried(wrong: Callable[[], str]) -> str:
    """What is wrong; that it cannot be asked is wrong as well."""
    try:
        return wrong()
    except (Fault, ValueError) as error:
        return str(error)


def kubectl(vms: Vms, *argv: str) -> Any:
    """What `kubectl get` says."""
    return json.loads(vms.run("kubectl", "get", *argv, "-o", "json", "--request-timeout=20s", seconds=60))["items"]


def not_ready(vms: Vms) -> str:
    """The nodes that are not."""
    ready = {node["metadata"]["name"] for node in kubectl(vms, "nodes") for each in node["status"]["conditions"]
             if (each["type"], each["status"]) == ("Ready", "True")}
    return " ".join(sorted(set(vms.nodes) - ready))


def unanswered(vms: Vms) -> str:
    """Who did not meet the pod of whom."""
    wrong, source = [], BRIDGE if backend(vms) == "ipsec" else ""
    for node in vms.nodes:
        host = vms.ssh(node, f"for i in $(seq {FETCHES}); do curl -s --max-time 5 {source} {SERVICE}; done; true")
        wrong += missed(vms, node, host)
    for pod in kubectl(vms, "pods", "-l", "app=hello"):
        script = f"for i in $(seq {FETCHES}); do timeout 5 wget -q -O - {SERVICE}; done; true"
        wrong += missed(vms, f"a pod of {pod['spec']['nodeName']}", vms.run(
            "kubectl", "exec", pod["metadata"]["name"], "--", "sh", "-c", script, seconds=180))
    return "; ".join(wrong)


def backend(vms: Vms) -> str:
    """flannel's, as the first of the nodes tells the others."""
    return str(kubectl(vms, "nodes")[0]["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-type"])


def missed(vms: Vms, who: str, pages: str) -> list[str]:
    """A line for each node whose pod somebody did not meet."""
    met = set(re.findall(r"node=(\S+)", pages))
    return [f"{who} did not meet the pod of {node}" for node in vms.nodes if node not in met]


def check_interfaces(vms: Vms) -> None:
    """Raise a Fault where flanneld has chosen the interface of Vagrant's own network."""
    for node in kubectl(vms, "nodes"):
        name = node["metadata"]["name"]
        inside = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
        told = node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"]
        link = vms.ssh(name, f"ip -o -4 addr | grep \" {told}/\"").split()[1]
        if link == "eth0" or told != inside:
            raise Fault(f"{name}: flanneld tells {told} (of {link}), the node has {inside}")


def subnet(vms: Vms, node: str) -> str:
    """flannel's subnet of a node, as its own file has it."""
    return vms.ssh(node, "cat /run/flannel/subnet.env")


def rebooted(vms: Vms, node: str, how: str = "systemctl reboot --force") -> float:
    """Reboot a machine with a root's command; seconds from its ssh until pods and Services are back, with the same subnet."""
    before, boot = subnet(vms, node), vms.ssh(node, "cat /proc/sys/kernel/random/boot_id")
    vms.run("ssh", "-F", f"{vms.path}/ssh_config", node, f"sudo {how}; true", seconds=60)
    vms.run("sh", "-c", f"ssh -F {vms.path}/ssh_config -O exit {node}; true")

    def same_boot() -> str:
        return "not rebooted" if vms.ssh(node, "cat /proc/sys/kernel/random/boot_id", seconds=30) == boot else ""

    click.echo(f"{wait_for(f'{node} has ssh again', same_boot, PATIENCE):6.1f} s  until it had ssh again", err=True)
    begin = time.monotonic()
    wait_for(f"{node} is back", lambda: not_ready(vms) or unanswered(vms), PATIENCE)
    took = time.monotonic() - begin
    if (after := subnet(vms, node)) != before:
        raise Fault(f"{node}: another subnet after the reboot: {before} {after}")
    if took > BACK_WITHIN:
        raise Fault(f"{node}: back {took:.0f} s after its ssh, more than {BACK_WITHIN:.0f}")
    return took
