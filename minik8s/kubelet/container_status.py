"""One container's entry in a pod's status: waiting, running or terminated, and how the last run ended.

Pure. Read next: `minik8s/kubelet/status.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import crash_delay, restart_due
from .records import EXITED, RUNNING, Actual, Container, Pod, Verdict, View, deleting, finished, name_of, restart_policy
from .times import stamp

Told = dict[str, Any]


def container_status(pod: Pod, spec: Mapping[str, Any], actual: Actual, view: View, told: Told | None, *, init: bool,
                     blocked: bool) -> Told:
    """The status of one container; `told` is what the API has, `blocked` whether init containers are still at it."""
    name = spec["name"]
    run = actual.latest(name)
    state, last = _states(pod, name, run, actual, view, told, init=init, blocked=blocked)
    running = run is not None and run.state == RUNNING
    verdict = view.verdicts.get(run.id, Verdict()) if run and running else Verdict(started=False, ready=False)
    ready = verdict.started and verdict.ready
    if init:
        ready = run is not None and run.state == EXITED and run.exit_code == 0
    made: Told = {
        "name": name, "state": state, "lastState": last or {}, "ready": ready,
        "restartCount": run.attempt if run else int((told or {}).get("restartCount", 0)),
        "image": (run.image if run else "") or str(spec.get("image", "")), "imageID": run.image_id if run else "",
        "started": verdict.started and running,
    }
    if run:
        made["containerID"] = f"containerd://{run.id}"
    elif told and told.get("containerID") and (finished(pod) or last):
        made["containerID"] = told["containerID"]
    return made


def ephemeral_status(pod: Pod, spec: Mapping[str, Any], actual: Actual, view: View, told: Told | None) -> Told:
    """The status of a container that runs once and is never ready; what the runtime forgot of it, the API remembers."""
    run = actual.latest(spec["name"])
    made: Told = {"name": spec["name"], "state": {}, "lastState": {}, "ready": False, "restartCount": 0,
                  "image": (run.image if run else "") or str(spec.get("image", "")), "imageID": run.image_id if run else ""}
    if run is None:
        kept = {key: told[key] for key in ("containerID", "imageID") if told and told.get(key)}
        return made | kept | {"state": _absent_ephemeral(view, spec["name"], told)}
    made["containerID"] = f"containerd://{run.id}"
    if run.state == RUNNING:
        made["state"] = {"running": {"startedAt": stamp(run.started)}}
    elif run.state == EXITED:
        made["state"] = {"terminated": terminated(run)}
    else:
        made["state"] = {"waiting": _reason(("ContainerCreating", ""))}
    return made


def _absent_ephemeral(view: View, name: str, told: Told | None) -> Told:
    old = (told or {}).get("state") or {}
    if "terminated" in old:
        return dict(old)
    if (told or {}).get("containerID"):
        return {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container was lost"}}
    return {"waiting": _reason(view.waiting.get(name) or ("ContainerCreating", ""))}


def _states(pod: Pod, name: str, run: Container | None, actual: Actual, view: View, told: Told | None, *, init: bool,
            blocked: bool) -> tuple[Told, Told | None]:
    """`state` and `lastState`."""
    before = actual.previous(name)
    last = {"terminated": terminated(before)} if before and before.state == EXITED else (told or {}).get("lastState") or None
    waiting = view.waiting.get(name)
    if run is None:
        return _absent(pod, view, told, waiting, init=init, blocked=blocked), last
    if run.state == RUNNING:
        return {"running": {"startedAt": stamp(run.started)}}, last
    if run.state != EXITED:
        return {"waiting": _reason(waiting or ("ContainerCreating", ""))}, last
    if _stays_down(pod, run, init=init):
        return {"terminated": terminated(run)}, last
    if waiting:
        return {"waiting": _reason(waiting)}, {"terminated": terminated(run)}
    if view.now < restart_due(run):
        message = f"back-off {crash_delay(run):g}s restarting failed container={name} pod={name_of(pod)}"
        return {"waiting": _reason(("CrashLoopBackOff", message))}, {"terminated": terminated(run)}
    return {"terminated": terminated(run)}, last


def _stays_down(pod: Pod, run: Container, *, init: bool) -> bool:
    policy = restart_policy(pod)
    if deleting(pod) or finished(pod) or policy == "Never":
        return True
    return run.exit_code == 0 and (init or policy == "OnFailure")


def _absent(pod: Pod, view: View, told: Told | None, waiting: tuple[str, str] | None, *, init: bool, blocked: bool) -> Told:
    if view.refused:
        return {"waiting": _reason(("Unsupported", view.refused))}
    old = (told or {}).get("state") or {}
    if finished(pod) or ("terminated" in old and deleting(pod)):
        return dict(old) or {"waiting": _reason(("ContainerCreating", ""))}
    if deleting(pod) and "running" in old:
        lost = {"exitCode": 137, "reason": "ContainerStatusUnknown",
                "message": "The container could not be located when the pod was deleted"}
        return {"terminated": lost}
    return {"waiting": _reason(waiting or ("PodInitializing" if blocked and not init else "ContainerCreating", ""))}


def _reason(pair: tuple[str, str]) -> Told:
    return {"reason": pair[0], "message": pair[1]} if pair[1] else {"reason": pair[0]}


def terminated(run: Container) -> Told:
    """How a run ended."""
    made: Told = {
        "exitCode": run.exit_code, "reason": run.reason or ("Completed" if run.exit_code == 0 else "Error"),
        "startedAt": stamp(run.started), "finishedAt": stamp(run.finished), "containerID": f"containerd://{run.id}",
    }
    if run.message:
        made["message"] = run.message
    return made
