"""The originals to compare with: Kubernetes 1.20, built once of Debian's source package with Debian's Go, outside the checkout.

    sudo apt install golang-1.19-go && .venv/bin/python -m tests.original kube-proxy      some ten minutes on two cores

Tests and measurements that need one skip until it is there. Read next: `tests/proxy/test_go_kube_proxy.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from minik8s.lab.debian import MIRROR

SOURCE = f"{MIRROR}/pool/main/k/kubernetes/kubernetes_1.20.5+really1.20.2.orig.tar.gz"
SHA256 = "b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc"
GO = Path("/usr/lib/go-1.19/bin/go")
VERSION = "-s -w -X k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion=v1.20.2"
CACHE = Path(os.environ.get("FLANNELD_PY_ORIGINALS", "/var/cache/flanneld-py/originals"))


def original(program: str) -> Path:
    """Where it is, once it is built."""
    return CACHE / f"{program}-1.20.2"


KUBE_PROXY = original("kube-proxy")


def build(programs: list[str]) -> None:
    """Fetch the source, check it, build these."""
    if not GO.exists():
        sys.exit("not installed: golang-1.19-go")
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "source.tar.gz"
        urllib.request.urlretrieve(SOURCE, archive)
        if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
            sys.exit(f"{SOURCE}: its SHA-256 is {found}, not {SHA256}")
        tree = Path(place) / "path/src/k8s.io"  # as before there were modules: its go.mod wants a network now
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="tar")
        (tree / "kubernetes-1.20.2").rename(tree / "kubernetes")
        environment = {**os.environ, "PATH": f"{GO.parent}:{os.environ['PATH']}", "GOPATH": f"{place}/path",
                       "GOCACHE": f"{place}/cache", "GO111MODULE": "off", "CGO_ENABLED": "0"}
        CACHE.mkdir(parents=True, exist_ok=True)
        if "kube-apiserver" in programs:
            describe(tree / "kubernetes", environment)
        for program in programs:
            subprocess.run([GO, "build", "-ldflags", VERSION, "-o", f"{place}/{program}", f"k8s.io/kubernetes/cmd/{program}"],
                           cwd=tree / "kubernetes", env=environment, check=True)
            shutil.move(f"{place}/{program}", original(program))


def describe(tree: Path, environment: dict[str, str]) -> None:
    """Write what the source package leaves to its build: the types' description that kube-apiserver is compiled with."""
    subprocess.run([GO, "build", "-o", "openapi-gen", "k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen"],
                   cwd=tree, env=environment, check=True)
    marked = (file.parent.relative_to(tree) for below in ("pkg", "staging/src/k8s.io") for file in (tree / below).rglob("*.go")
              if "testdata" not in file.parts and b"\n// +k8s:openapi-gen=true" in file.read_bytes())
    packages = sorted({f"k8s.io/kubernetes/{str(path).replace('staging/src', 'vendor')}" for path in marked})
    subprocess.run(["./openapi-gen", "--go-header-file", "hack/boilerplate/boilerplate.generatego.txt", "-i", ",".join(packages),
                    "-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi", "-r", "/dev/null"],
                   cwd=tree, env=environment, check=True)


if __name__ == "__main__":
    build(sys.argv[1:] or ["kube-proxy"])
