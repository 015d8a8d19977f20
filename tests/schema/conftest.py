"""The schema cache, built once a session; kubectl in both versions; the stub they talk to."""

import shutil
import subprocess

import pytest
from schema_stub import Kubectl, serving

from minik8s.apiserver import schema


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    place = tmp_path_factory.mktemp("schema-cache")
    schema.prepare(place)
    return place


@pytest.fixture(scope="session")
def old_kubectl(tmp_path_factory):
    """Debian's kubectl 1.20, unpacked but not installed."""
    place = tmp_path_factory.mktemp("kubectl-1.20")
    place.chmod(0o755)
    fetch = subprocess.run(["apt-get", "download", "kubernetes-client"], cwd=place, capture_output=True, text=True, check=False)
    packages = list(place.glob("*.deb"))
    if fetch.returncode or not packages:
        pytest.skip(f"LOUD: Debian's kubernetes-client could not be fetched, kubectl 1.20 stays untested: {fetch.stderr[-200:]}")
    subprocess.run(["dpkg", "-x", packages[0], place], check=True)
    return str(place / "usr/bin/kubectl")


@pytest.fixture(scope="session")
def new_kubectl():
    found = shutil.which("kubectl")
    if not found:
        pytest.skip("LOUD: no kubectl on PATH, the current kubectl stays untested")
    return found


@pytest.fixture(params=["new", "old"])
def any_kubectl(request):
    return request.getfixturevalue(f"{request.param}_kubectl")


@pytest.fixture
async def stub(cache):
    async with serving() as running:
        yield running


@pytest.fixture
def kubectl(new_kubectl, stub, tmp_path):
    return Kubectl(new_kubectl, stub.url, tmp_path)


@pytest.fixture
def either(any_kubectl, stub, tmp_path):
    """Each version in turn."""
    return Kubectl(any_kubectl, stub.url, tmp_path)
