"""Label selectors as values: does this selector match these labels?

Pure. Read next: `nodecore/kube/placement.py`, which does the like for nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodecore.kube.objects import View


class LabelRequirement(View, frozen=True):
    """meta/v1 LabelSelectorRequirement."""

    key: str
    operator: str
    values: list[str] | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy it; an unknown operator is satisfied by none."""
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in (self.values or ())
            case "NotIn":
                return labels.get(self.key) not in (self.values or ())
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
        return False


class LabelSelector(View, frozen=True):
    """meta/v1 LabelSelector: every part must match; an empty one matches everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelRequirement] | None = None

    @property
    def empty(self) -> bool:
        """Whether it asks for nothing."""
        return not self.match_labels and not self.match_expressions

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether these labels satisfy every part."""
        return contains(labels, self.match_labels) and all(part.matches(labels or {}) for part in self.match_expressions or ())


def contains(labels: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    """Whether the labels hold all wanted pairs, as a Service's or node's plain selector asks."""
    have = labels or {}
    return all(have.get(key) == value for key, value in (wanted or {}).items())
