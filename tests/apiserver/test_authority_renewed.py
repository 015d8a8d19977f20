"""An authority that comes to its end is renewed by its key: the old certificate trusts what it signs from then on."""

from __future__ import annotations

import contextlib
import datetime
import json
import ssl
import time
from base64 import b64decode
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from minik8s.access.certs import command
from minik8s.apiserver.certificates import SOON, Certificates
from minik8s.install.plan import Node, certificates, users
from minik8s.pki.authority import Authority, Identity, Pair
from minik8s.pki.kubeconfig import kubeconfig
from minik8s.pki.own import ensure
from nodecore.errors import Denied, UserError
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

SHORT = datetime.timedelta(minutes=25)  # made an hour ago: two thirds are over


def trusted(certificate: bytes, by: bytes) -> None:
    """As OpenSSL sees it, with an hour's time."""
    found, signer = x509.load_pem_x509_certificate(certificate), x509.load_pem_x509_certificate(by)
    found.verify_directly_issued_by(signer)


def key_of(pem: bytes) -> object:
    return x509.load_pem_x509_certificate(pem).public_key()


def test_a_servers_own_authority_is_renewed_in_time(tmp_path: Path) -> None:
    old = Authority().renewed(SHORT)
    (tmp_path / "ca.crt").write_bytes(old.pair.certificate)
    (tmp_path / "ca.key").write_bytes(old.pair.key)
    elsewhere = old.issue(Identity("system:node:n"))
    assert ensure(tmp_path, ("127.0.0.1",), "https://x") > 86400
    new = (tmp_path / "ca.crt").read_bytes()
    left = x509.load_pem_x509_certificate(new).not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=3600)
    assert key_of(new) == key_of(old.pair.certificate), "the pin of `minik8s join` stays"
    assert (tmp_path / "ca.key").read_bytes() == old.pair.key
    for certificate in (elsewhere.certificate, (tmp_path / "apiserver.crt").read_bytes(), (tmp_path / "admin.crt").read_bytes()):
        trusted(certificate, new)
        trusted(certificate, old.pair.certificate)
    inside = json.loads((tmp_path / "admin.kubeconfig").read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
    assert b64decode(inside) == new
    assert ensure(tmp_path, ("127.0.0.1",), "https://x") > 86400
    assert (tmp_path / "ca.crt").read_bytes() == new, "once"


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Authority]:
    """What `minik8s install server` leaves, by an authority that has 25 minutes left."""
    ca, pki = Authority().renewed(SHORT), tmp_path / "pki"
    (pki / "etcd").mkdir(parents=True)
    node = Node("n", ("192.0.2.1",))
    for name, identity in certificates(node).items():
        pair = ca.issue(identity, SHORT)
        (pki / f"{name}.crt").write_bytes(pair.certificate)
        (pki / f"{name}.key").write_bytes(pair.key)
    for user, identity in users(node).items():
        pair = ca.issue(identity, SHORT)
        text = kubeconfig("https://x", ca.pair.certificate, pair.certificate, pair.key, user, "minik8s")
        (tmp_path / f"{user}.kubeconfig").write_text(text)
    (pki / "ca.crt").write_bytes(ca.pair.certificate)
    (pki / "ca.key").write_bytes(ca.pair.key)
    (pki / "stranger.crt").write_bytes(Authority().issue(Identity("of another authority")).certificate)
    return tmp_path, ca


def test_certs_renew(installed: tuple[Path, Authority]) -> None:
    directory, ca = installed
    before = {path: path.read_bytes() for path in directory.rglob("*.crt")}
    checked = CliRunner().invoke(command, ["check", "--directory", str(directory)])
    assert checked.exit_code == 0
    assert "pki/ca.crt" in checked.output
    assert "admin.kubeconfig" in checked.output
    assert checked.output.count(" 0d ") == len(before) - 1 + 4
    renewed = CliRunner().invoke(command, ["renew", "--directory", str(directory)])
    assert renewed.exit_code == 0, renewed.output
    new = (directory / "pki/ca.crt").read_bytes()
    assert key_of(new) == key_of(ca.pair.certificate)
    for path, old in before.items():
        now = path.read_bytes()
        assert (now == old) == (path.name == "stranger.crt"), path
        assert key_of(now) == key_of(old)
        if path.name not in ("stranger.crt", "ca.crt"):
            trusted(now, new)
            trusted(now, ca.pair.certificate)
            was, is_ = x509.load_pem_x509_certificate(old), x509.load_pem_x509_certificate(now)
            assert is_.subject == was.subject
            assert [str(each.value) for each in is_.extensions] == [str(each.value) for each in was.extensions]
    for path in directory.glob("*.kubeconfig"):
        document = json.loads(path.read_text())
        assert b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]) == new
        trusted(b64decode(document["users"][0]["user"]["client-certificate-data"]), new)
        assert path.stat().st_mode & 0o077 == 0


def test_certs_need_the_authority_to_renew(tmp_path: Path) -> None:
    for argv in (["check"], ["renew"]):
        done = CliRunner().invoke(command, [*argv, "--directory", str(tmp_path)])
        assert isinstance(done.exception, UserError)
        assert str(tmp_path) in str(done.exception)


def test_a_server_says_which_authority_comes_to_its_end(tmp_path: Path) -> None:
    short, long = Authority(), Authority()
    pair = short.issue(Identity("server", (), ("127.0.0.1",)))
    ending = short.renewed(datetime.timedelta(days=100)).pair.certificate

    def load(bundle: bytes) -> Certificates:
        for name, data in (("pem", pair.certificate + pair.key), ("ca", bundle)):
            (tmp_path / name).write_bytes(data)

        def made() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "pem")
            context.load_verify_locations(tmp_path / "ca")
            return context
        return Certificates(made, [str(tmp_path / "pem"), str(tmp_path / "ca")])

    assert load(long.pair.certificate).ending(time.time()) == []
    (found,) = load(long.pair.certificate + ending).ending(time.time())
    assert found.startswith("flanneld-py on ")
    assert len(load(long.pair.certificate + ending).ending(time.time() + 3650 * 86400 - SOON + 60)) == 2


def test_old_and_new_serve_each_other(tmp_path: Path) -> None:
    """A handshake: who knows only the old certificate, a server with the renewed one; and the other way round."""
    old = Authority()
    new = Authority(Pair(old.renewed().pair.certificate, old.pair.key))
    for knows, signs in ((old, new), (new, old)):
        pair = signs.issue(Identity("x", (), ("127.0.0.1",)))
        (tmp_path / "pem").write_bytes(pair.certificate + pair.key)
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(tmp_path / "pem")
        asking = ssl.create_default_context(cadata=knows.pair.certificate.decode())
        one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = asking.wrap_bio(one, other, server_hostname="127.0.0.1")
        server = serving.wrap_bio(other, one, server_side=True)
        for side in (client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert client.getpeercert()


def published(server: ApiServer) -> tuple[str, str, str]:
    """The CA that pods are told of, the one that is told in public, and how often the first was written."""
    server.call("POST", "/api/v1/namespaces", {"metadata": {"generateName": "told-"}})  # a change, after which a server looks
    pods = server.call("GET", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt").body
    info = json.loads(server.call("GET", "/api/v1/namespaces/kube-public/configmaps/cluster-info").body["data"]["kubeconfig"])
    public = b64decode(info["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
    return pods["data"]["ca.crt"], public, pods["metadata"]["resourceVersion"]


@pytest.mark.etcd
@pytest.mark.slow
def test_nodes_fetch_a_renewed_authority_and_servers_with_two_do_not_fight(tmp_path: Path) -> None:
    with EtcdServer.start() as etcd, contextlib.closing(ApiServer.start(etcd)) as server:
        (tmp_path / "pki").mkdir()
        old = server.file("ca.crt").read_bytes()
        (tmp_path / "pki/ca.crt").write_bytes(old)
        pair = Pair(old, server.file("ca.key").read_bytes())
        node = Authority(pair).issue(Identity("system:node:n", ("system:nodes",)))
        text = kubeconfig(server.url, old, node.certificate, node.key, "kubelet", "minik8s")
        (tmp_path / "kubelet.kubeconfig").write_text(text)
        new = Authority(pair).renewed().pair.certificate
        server.file("ca.crt").write_bytes(new)
        until(lambda: published(server)[:2] == (new.decode(), new.decode()), what="it is published")
        done = CliRunner().invoke(command, ["fetch", "--directory", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "pki/ca.crt").read_bytes() == new
        inside = json.loads((tmp_path / "kubelet.kubeconfig").read_text())
        assert b64decode(inside["clusters"][0]["cluster"]["certificate-authority-data"]) == new
        assert b64decode(inside["users"][0]["user"]["client-certificate-data"]) == node.certificate
        with contextlib.closing(ApiServer.start(etcd)) as other:
            theirs = other.file("ca.crt").read_text()
            until(lambda: published(server)[:2] == (theirs, theirs), what="the one started last has its own published")
            until(lambda: "has another CA than ours" in server.file("log").read_text(), what="the other one warns")
            written = published(server)[2]
            assert {published(each)[2] for _ in range(10) for each in (server, other)} == {written}
            refused = CliRunner().invoke(command, ["fetch", "--directory", str(tmp_path)])
            assert isinstance(refused.exception, Denied)
            assert server.file("log").read_text().count("has another CA than ours") == 1
            assert "has another CA than ours" not in other.file("log").read_text()
