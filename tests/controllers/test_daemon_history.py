"""A DaemonSet's ControllerRevisions: one for each template, numbered, trimmed, reused when a template comes back."""

from __future__ import annotations

from typing import Any

import msgspec

from minik8s.controllers.daemon_history import HASH, ControllerRevision, plan_history
from minik8s.controllers.ops import Create, Delete, Patch
from nodecore.kube.workload import DaemonSet


def daemons(image: str = "a", **spec: Any) -> DaemonSet:
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    return msgspec.convert({
        "metadata": {"name": "d", "namespace": "d", "uid": "ds", "annotations": {"kubernetes.io/change-cause": f"image {image}"}},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template, **spec}}, DaemonSet)


class Past:
    """Revisions as the API would hold them after what was planned."""

    def __init__(self) -> None:
        self.items: dict[str, ControllerRevision] = {}

    def go(self, wanted: DaemonSet, used: tuple[str, ...] = ()) -> str:
        plan = plan_history(wanted, self.items.values(), used)
        for op in plan.ops:
            if isinstance(op, Create):
                body = {**op.body, "metadata": {**op.body["metadata"], "uid": op.body["metadata"]["name"]}}
                self.items[op.body["metadata"]["name"]] = msgspec.convert(body, ControllerRevision)
            elif isinstance(op, Delete):
                del self.items[op.meta.name]
            elif isinstance(op, Patch) and "revision" in op.body:
                self.items[op.meta.name] = msgspec.structs.replace(self.items[op.meta.name], revision=op.body["revision"])
        return plan.word

    def numbers(self) -> list[int]:
        return sorted(each.revision for each in self.items.values())


def test_each_template_has_one_revision_and_a_returning_one_a_new_number() -> None:
    past = Past()
    first = past.go(daemons("a"))
    assert past.go(daemons("a")) == first
    second = past.go(daemons("b"))
    assert second != first
    assert past.numbers() == [1, 2]
    assert past.go(daemons("a")) == first
    assert past.numbers() == [2, 3]
    made = past.items[f"d-{first}"]
    assert (made.metadata.labels or {})[HASH] == first
    assert (made.metadata.annotations or {})["kubernetes.io/change-cause"] == "image a"
    assert (made.data or {})["spec"]["template"]["$patch"] == "replace"
    assert plan_history(daemons("a"), past.items.values(), ()).ops == ()


def test_old_revisions_go_unless_pods_stand_on_them() -> None:
    past = Past()
    words = [past.go(daemons(image, revisionHistoryLimit=2)) for image in "abcd"]
    past.go(daemons("d", revisionHistoryLimit=2))
    assert past.numbers() == [2, 3, 4]
    past.go(daemons("e", revisionHistoryLimit=0), used=(words[2],))
    past.go(daemons("e", revisionHistoryLimit=0), used=(words[2],))
    assert past.numbers() == [3, 5]


def test_the_word_of_another_controllers_revision_is_taken_over() -> None:
    past = Past()
    word = past.go(daemons("a"))
    foreign = past.items.pop(f"d-{word}")
    labels = {**(foreign.metadata.labels or {}), HASH: "5d8f"}
    past.items["d-5d8f"] = msgspec.structs.replace(foreign, metadata=msgspec.structs.replace(foreign.metadata, labels=labels))
    assert past.go(daemons("a")) == "5d8f"
    assert past.numbers() == [1]
