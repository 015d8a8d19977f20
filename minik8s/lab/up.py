"""`lab up`: from whatever is there to a cluster that is ready, in named steps.

Level-triggered like the agents: it looks what runs, ends what is half-made, starts what is missing and waits until
all is ready. On a lab that runs it changes nothing. Read next: `minik8s/lab/node.py`, `minik8s/lab/files.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import click

from minik8s.lab import cgroup, control, host
from minik8s.lab.api import Api
from minik8s.lab.config import LabConfig, check
from minik8s.lab.down import remove_files_of
from minik8s.lab.holder import Holder
from minik8s.lab.hostnet import host_routes, listen_for_api
from minik8s.lab.state import Place, State, kill_and_wait
from minik8s.lab.steps import Steps, tail
from minik8s.lab.topology import Node
from nodecore.errors import Fault, NotFound, Unreachable, UserError

PATIENCE = 90.0  # seconds a step may take
DEAF = 15.0  # seconds after which a node that does not answer is taken for broken: less would end live ones of a busy machine
HOPELESS = 5  # starts of an agent that never became ready


def settle(state: State, given: dict[str, Any]) -> LabConfig:
    """The configuration to bring up: the one the lab has, or a new one; options that contradict it are an error."""
    there = state.load()
    if there is None:
        config = LabConfig(name=state.name, **given)
        check(config, host_routes())
        host.check_kernel(config.backend, config.families)
        return config
    for option, value in given.items():
        if getattr(there, option) != value:
            flag = f"--{option.replace('_', '-')}"
            raise UserError(f"{flag}: the lab {state.name!r} was made with {getattr(there, option)}; `lab down` it first")
    return there


def up(state: State, given: dict[str, Any], *, patience: float = PATIENCE) -> Steps:
    """Bring a lab up; `patience` is how many seconds agents and nodes may take to become ready."""
    host.check()
    config = settle(state, given)
    with state.locked(create=True):
        try:
            return _up(state, config, patience)
        except UserError:
            if state.load() is None:
                remove_files_of(state.path)
            raise


def _up(state: State, config: LabConfig, patience: float) -> Steps:
    steps = Steps()
    remove_strays(state)
    missing = [node for node in config.every_node if not answers(state.node(node.name))]
    with contextlib.ExitStack() as stack:
        fds: list[int] = []
        if any(node.leads for node in missing):
            listener = stack.enter_context(listen_for_api(config.api_port))
            config = dataclasses.replace(config, api_port=listener.getsockname()[1])
            state.save(config)
            fds = [listener.fileno()]
        if missing:
            with steps.step("certificates, configuration and images"):
                prepare(state, config, missing)
            with steps.step(f"nodes ({len(missing)}) and the switch between them"):
                start_holders(state, missing, fds)
    if not missing and all_ready(state, config):
        steps.done(f"the lab {state.name!r} runs already, nothing to do")
        return steps
    wait_for_agents(state, config, steps, patience)
    with steps.step("every node Ready"):
        wait_for_nodes(state, config, patience)
    steps.done(f"{config.nodes} nodes, API at https://127.0.0.1:{config.api_port}")
    return steps


def remove_strays(state: State) -> None:
    """End processes of an earlier life: started but never recorded, or cut off because the switch is gone."""
    places = [state.switch, *(Place(path) for path in (state.path / "nodes").glob("*"))]
    alive = {place.pid for place in places if state.switch.pid} - {0}
    kill_and_wait([pid for pid in state.holders() if pid not in alive])


def answers(place: Place) -> bool:
    """Whether a node lives and can be talked to; one that lives and is deaf is ended."""
    pid = place.pid
    if not pid:
        return False
    try:
        control.ask(place.path, {"do": "status"}, seconds=DEAF)
    except Unreachable:
        kill_and_wait([pid])
        return False
    return True


def prepare(state: State, config: LabConfig, missing: list[Node]) -> None:
    """Write all files the missing nodes and the host's commands need."""
    from minik8s.lab import files

    host.load_modules()
    ca = files.authority(state)
    files.write_host_files(state, config, ca)
    cgroups = cgroup.make(state.name)
    files.write_switch(state, config, cgroups)
    for node in missing:
        files.write_node(state, config, node, ca, cgroups)


def start_holders(state: State, missing: list[Node], api: list[int]) -> None:
    """Start the switch if it is not there, then all missing nodes at once; the first one gets the API's socket."""
    if not state.switch.pid:
        Holder(state.switch, []).wait()
    switch = str(state.switch.pid)
    started = []
    for node in missing:
        fds = api if node.leads else []
        started.append(Holder(state.node(node.name), [switch, *map(str, fds)], fds))
    for holder in started:
        holder.wait()


def all_ready(state: State, config: LabConfig) -> bool:
    """Whether every agent of every node is ready."""
    return all(
        service["state"] in ("ready", "done")
        for node in config.every_node
        for service in control.services(state.node(node.name).path).values()
    )


def wait_for_agents(state: State, config: LabConfig, steps: Steps, patience: float) -> None:
    """Wait for the agents, one kind after another, so that the table shows where the time goes."""
    leader = config.every_node[:1]
    groups: list[tuple[str, list[Node], tuple[str, ...]]] = [
        ("etcd", config.etcd_nodes, ("etcd",)),
        ("apiserver", leader, ("apiserver",) if config.leases_are_annotations else ("network", "apiserver")),
        ("containerd and images on every node", config.every_node, ("containerd", "images")),
        ("controllers and scheduler", leader, ("controllers", "scheduler")),
        ("flanneld, proxy and kubelet on every node", config.every_node, ("flanneld", "proxy", "kubelet")),
    ]
    for title, nodes, names in groups:
        with steps.step(title):
            for node in nodes:
                wait_for(state, config, node.name, names, patience)


def whole(state: State, config: LabConfig) -> None:
    """Unreachable, naming it, when a node or the switch has ended: waiting for what needs it is in vain."""
    for place in (state.switch, *(state.node(node.name) for node in config.every_node)):
        if not place.pid:
            raise Unreachable(f"{place.path.name} has ended; `lab up` again starts it")


def wait_for(state: State, config: LabConfig, node: str, names: tuple[str, ...], patience: float) -> None:
    """Wait until these agents of a node are ready; give up early on one that ends again and again."""
    directory = state.node(node).path
    deadline = time.monotonic() + patience
    while True:
        whole(state, config)
        try:
            reports = control.services(directory)
        except Unreachable:  # its init is short of CPU like everything else here, or gone
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            continue
        late = [reports[name] for name in names if reports[name]["state"] not in ("ready", "done")]
        if not late:
            return
        for report in late:
            if report["starts"] >= HOPELESS or time.monotonic() > deadline:
                what = f"ends again and again ({report['exit']})" if report["starts"] >= HOPELESS else f"is {report['state']}"
                log = directory / "logs" / f"{report['name']}.log"
                raise Unreachable(f"{directory.name}: {report['name']} {what}\n{tail(log)}")
        time.sleep(0.03)


def wait_for_nodes(state: State, config: LabConfig, patience: float) -> None:
    """Wait until the API says that every node is Ready."""
    deadline = time.monotonic() + patience
    wanted = {node.name for node in config.every_node}
    while True:
        whole(state, config)
        try:
            ready = ready_nodes(Api(state.kubeconfig))
            problem = f"not Ready: {', '.join(sorted(wanted - ready))}"
        except Fault as error:
            ready, problem = set(), str(error)
        if wanted <= ready:
            return
        if time.monotonic() > deadline:
            click.echo(tail(state.node(min(wanted - ready)).path / "logs/kubelet.log"), err=True)
            raise NotFound(problem)
        time.sleep(0.1)


def ready_nodes(api: Api) -> set[str]:
    """The names of the nodes whose condition Ready is true."""
    return {
        item["metadata"]["name"]
        for item in api.get("/api/v1/nodes")["items"]
        for condition in item.get("status", {}).get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
