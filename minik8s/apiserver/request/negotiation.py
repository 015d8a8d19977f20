"""What form a client wants its answer in, from its Accept header: JSON or protobuf, a Table, or metadata only.

Pure. Tables are never protobuf, nor are kinds that have no field numbers: then the next form listed counts.
Must not know: kinds. Read next: `verbs/reading.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from minik8s.apiserver.request.status import Refused

META_GROUP = "meta.k8s.io"
JSON, PROTOBUF = "application/json", "application/vnd.kubernetes.protobuf"


@dataclass(frozen=True, slots=True)
class Form:
    """`as_` is empty for the object itself, else Table, PartialObjectMetadata or ...List, in `version` of meta.k8s.io."""

    as_: str = ""
    version: str = "v1"
    binary: bool = False

    @property
    def plain(self) -> bool:
        """Whether the object is wanted as it is kept: whole, in JSON."""
        return not self.as_ and not self.binary

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
        media = PROTOBUF if self.binary else JSON
        return f"{media};as={self.as_};g={META_GROUP};v={self.version}" if self.as_ else media

    @property
    def stream(self) -> str:
        """The Content-Type of a watch."""
        return f"{self.content};stream=watch" if self.binary else self.content


@functools.lru_cache(maxsize=256)
def form_of(accept: str, *, binary: bool = False) -> Form:
    """The first form asked for that we have (`binary`: protobuf is one of them); 406 when there is none."""
    if not accept.strip():
        return Form()
    for clause in accept.split(","):
        media, _, rest = clause.strip().partition(";")
        parameters = dict(part.strip().split("=", 1) for part in rest.split(";") if "=" in part)
        proto = binary and media.strip().lower() == PROTOBUF
        if not proto and media.strip().lower() not in (JSON, "*/*", "application/*"):
            continue
        if "as" not in parameters:
            return Form(binary=proto)
        if proto and (parameters["as"] == "Table" or parameters.get("v") != "v1"):
            continue
        known = parameters["as"] in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
        if known and parameters.get("g") == META_GROUP and parameters.get("v") in ("v1", "v1beta1"):
            return Form(parameters["as"], parameters["v"], proto)
    raise Refused(406, f"only the following media types are accepted: {JSON}" + (f", {PROTOBUF}" if binary else ""))


def prefers_protobuf(accept: str) -> bool:
    """Whether an error, too, should be protobuf."""
    return accept.lstrip().lower().startswith(PROTOBUF)


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
