"""What `lab vms` and installing on a machine with several networks decide, without any machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from minik8s.access.token import command as token
from minik8s.access.token import new_token
from minik8s.install.__main__ import own_address
from minik8s.lab import box, vms
from nodecore.errors import UserError


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    monkeypatch.setattr(vms, "PATH", str(tmp_path))
    monkeypatch.setattr(box, "GEMS", ())
    with pytest.raises(UserError, match=r"^not installed: vagrant libvirt-daemon-system .*vagrant-libvirt"):
        vms.check()


def test_machines_that_are_not_there_are_no_trace_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lab vms up"):
        vms.run(vms.Vms(tmp_path), ["true"])
    vms.down(vms.Vms(tmp_path / "none"))


def test_a_node_has_the_address_of_its_way_to_the_server() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert own_address("::1") == "::1"
    with pytest.raises(UserError, match="--node-ip"):
        own_address("no-such-name.invalid")


@pytest.mark.parametrize("wrong", ["short", "abcdef.0123456789abcdeF", "abcdef.0123456789abcdef0"])
def test_a_token_has_its_shape(wrong: str) -> None:
    with pytest.raises(UserError, match="TOKEN"):
        CliRunner().invoke(token, ["create", wrong], catch_exceptions=False)
    assert new_token() != new_token()


def test_a_changed_source_makes_new_packages() -> None:
    """And what the machines' shell does, another provisioning, but no other packages."""
    names = {text.partition("\0")[0] for source in box.SOURCES for text in box.texts(box.PROJECT / source)}
    assert {"packaging/systemd/flanneld-py.service", "nodecore/net.py", "vagrant/hello.yaml", "pyproject.toml"} <= names
    assert not [name for name in names if name.endswith(".pyc") or "provision" in name]
