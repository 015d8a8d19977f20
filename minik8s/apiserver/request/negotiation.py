"""What form a client wants its answer in, from its Accept header: JSON, a Table, or metadata only.

Pure. Clients that prefer protobuf list JSON as well and get that. Must not know: kinds. Read next: `verbs/reading.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from minik8s.apiserver.request.status import Refused

META_GROUP = "meta.k8s.io"


@dataclass(frozen=True, slots=True)
class Form:
    """`as_` is empty for the object itself, else Table, PartialObjectMetadata or ...List, in `version` of meta.k8s.io."""

    as_: str = ""
    version: str = "v1"

    @property
    def table(self) -> bool:
        """Whether a Table is wanted."""
        return self.as_ == "Table"

    @property
    def partial(self) -> bool:
        """Whether only metadata is wanted."""
        return self.as_.startswith("PartialObjectMetadata")

    @property
    def content(self) -> str:
        """The Content-Type of the answer."""
        return f"application/json;as={self.as_};g={META_GROUP};v={self.version}" if self.as_ else "application/json"


def form_of(accept: str) -> Form:
    """The first form asked for that we have; 406 when there is none."""
    if not accept.strip():
        return Form()
    for clause in accept.split(","):
        media, _, rest = clause.strip().partition(";")
        parameters = dict(part.strip().split("=", 1) for part in rest.split(";") if "=" in part)
        if media.strip().lower() not in ("application/json", "*/*", "application/*"):
            continue
        if "as" not in parameters:
            return Form()
        known = parameters["as"] in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
        if known and parameters.get("g") == META_GROUP and parameters.get("v") in ("v1", "v1beta1"):
            return Form(parameters["as"], parameters["v"])
    raise Refused(406, "only the following media types are accepted: application/json")


def discovery_version(accept: str) -> str:
    """`v2` or `v2beta1` for a client that takes discovery in one piece, else empty."""
    for clause in accept.replace(" ", "").split(","):
        if "as=APIGroupDiscoveryList" in clause and "g=apidiscovery.k8s.io" in clause:
            for version in ("v2", "v2beta1"):
                if f"v={version}" in clause.split(";"):
                    return version
        elif clause.partition(";")[0] in ("application/json", "*/*"):
            return ""
    return ""
