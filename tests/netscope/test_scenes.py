"""A bundle keeps all of a scene but secrets, the map draws it, flows joins what two nodes see, --fix mends what is safe."""

from __future__ import annotations

import json
import socket
import tarfile
import tempfile
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import net_by_hand
import pytest
from click.testing import CliRunner, Result
from etcdserver import free_ports
from labs import until
from net_by_hand import VIA, Net
from scene_by_hand import objects_of, scene_of

from netscope import bundle, mapdrawing, mappicture
from netscope.command import command
from netscope.commands.doctor import mend
from netscope.commands.flows import answer
from netscope.directory import Directory
from netscope.doctor import findings_in
from netscope.explain import explain
from netscope.flowmetrics import metrics
from netscope.flows import Filter, Ledger, Row, draw, place_of
from netscope.gather import with_connections, with_echoes
from netscope.map import map_of
from netscope.mending import safe_commands
from netscope.nodes import Nodes
from netscope.records import Flows, Mend, Mended, Watch
from nodecore.errors import UserError
from nodecore.kernel.flowtable import FlowTable

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        made = net_by_hand.make(stack)
        made.on("b", "nft 'table ip services { chain pre { type nat hook prerouting priority dstnat; "
                     "ip daddr 10.96.0.10 tcp dport 80 dnat to 10.2.0.2:8080; "
                     "ip daddr 10.96.0.10 udp dport 80 dnat to 10.2.0.2:8080; }; "
                     "chain post { type nat hook postrouting priority srcnat; "
                     "ip saddr 10.2.0.2 ip daddr 10.2.0.2 masquerade; }; }'")
        yield made


@pytest.fixture(scope="module")
def nodes(net: Net) -> Iterator[Nodes]:
    with Nodes(net.directory.nodes, VIA) as made:
        yield made


@pytest.fixture(scope="module")
def saved(net: Net, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "b.tar.gz"
    with path.open("wb") as file:
        bundle.write(scene_of(net, nodes), file)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def test_a_bundle_is_the_scene(net: Net, nodes: Nodes, saved: Path) -> None:
    scene = bundle.read(str(saved))
    assert (scene.objects, list(scene.facts)) == (objects_of(net), list(net.directory.nodes))
    done = run("explain", "pod/a", "svc/web:80", "--bundle", saved)
    assert done.exit_code == 0, done.output
    assert done.output.rstrip().endswith("delivered to 10.2.0.2 (pod/default/b):8080, and answered")
    told = json.loads(run("explain", "pod/a", "svc/web:80", "--bundle", saved, "-o", "json").output)
    assert told[0]["ways"][0]["end"] == "10.2.0.2 8080"


SECRET = "hunter2hunter2hunter2hunter2hunt"


def full_of_secrets(kind: str) -> dict[str, Any]:
    """An object of the API with a secret wherever there may be one."""
    template = {"env": [{"name": "X", "value": SECRET}], "command": [SECRET], "args": [SECRET], "name": "c", "image": SECRET,
                "livenessProbe": {"exec": {"command": [SECRET]}, "httpGet": {"httpHeaders": [{"name": "A", "value": SECRET}]}}}
    return {
        "kind": kind, "data": {"password": SECRET}, "stringData": {"password": SECRET},
        "metadata": {"name": "s", "namespace": "default", "managedFields": [{"x": SECRET}], "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"kind": "Secret", "data": SECRET}), "x": SECRET,
            "flannel.alpha.coreos.com/backend-type": "wireguard", "flannel.alpha.coreos.com/backend-data": json.dumps(
                {"VNI": 1, "VtepMAC": "x", "PublicKey": SECRET, "PSK": SECRET, "PrivateKey": SECRET})}},
        "spec": {"containers": [template], "initContainers": [template], "ephemeralContainers": [template],
                 "volumes": [{"name": "v", "projected": {"x": SECRET}, "csi": {"volumeAttributes": {"x": SECRET}}}]},
    }


@contextmanager
def api(asked: list[str]) -> Iterator[str]:
    """A kubeconfig (with a secret token) of an API that has one object of each kind, full of secrets."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = json.dumps({"items": [full_of_secrets(self.path.rpartition("/")[2])]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.NamedTemporaryFile("w") as file:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        json.dump({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                   "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                   "users": [{"name": "u", "user": {"token": SECRET}}]}, file)
        file.flush()
        yield file.name
        server.shutdown()


def test_a_bundle_keeps_no_secret(net: Net, tmp_path: Path) -> None:
    """Not the API's, nor the files', tunnels' and environments' of a node."""
    subnet, asked = tmp_path / "subnet.env", list[str]()
    subnet.write_text(f"FLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_IPSEC_PSK={SECRET}\nETCD_PASSWORD={SECRET}\n")
    for name in ("10-flannel.conflist", "calico-kubeconfig", "wgkey", "swanctl.conf", "etcd-client.key"):
        (tmp_path / name).write_text(json.dumps({"token": SECRET, "psk": SECRET, "PrivateKey": SECRET}))
    state = f"src 192.168.50.1 dst 192.168.50.2 proto esp spi 1 mode tunnel auth 'hmac(sha256)' {SECRET} enc 'cbc(aes)' {SECRET}"
    net.on("a", f"ip link set eth0 alias {SECRET}", f"ip xfrm state add {state} 2>/dev/null || true")  # some kernels have no ESP
    via = VIA.replace("{node}", net.name("a")).replace(" env ", f" env WIREGUARD_KEY_FILE={tmp_path}/wgkey ETCD={SECRET} ")
    with api(asked) as kubeconfig:
        done = run("bundle", "-w", tmp_path / "b.tar.gz", "--kubeconfig", kubeconfig, "--via",
                   f"{via} --cni-dir {tmp_path} --subnet-file {subnet}")
    net.on("a", "ip link set eth0 alias ''; ip xfrm state flush 2>/dev/null || true")
    assert done.exit_code == 0, done.output
    assert not {"secrets", "configmaps"} & {path.rpartition("/")[2] for path in asked}
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        texts = {member.name: extracted.read().decode() for member in archive if (extracted := archive.extractfile(member))}
    assert {"netscope/objects/pods.json", "netscope/nodes/s.json", "netscope/connections/s.json"} <= texts.keys()
    assert "VtepMAC" in texts["netscope/objects/nodes.json"]
    assert "10.1.0.1/24" in texts["netscope/nodes/s.json"]
    assert [name for name, text in texts.items() if SECRET in text or b64encode(SECRET.encode()).decode() in text] == []


def test_a_bundle_has_the_connections_and_explain_names_those_to_who_is_gone(net: Net, nodes: Nodes, tmp_path: Path) -> None:
    net.on("a", "conntrack -I -p udp -s 10.1.0.2 -d 10.96.0.10 --sport 4000 --dport 80 -r 10.2.0.9 -q 10.1.0.2 "
                "--reply-port-src 8080 --reply-port-dst 4000 -t 60")
    with (tmp_path / "b.tar.gz").open("wb") as file:
        bundle.write(with_connections(scene_of(net, nodes), VIA), file)
    (told,) = explain(bundle.read(str(tmp_path / "b.tar.gz")), ["pod/a"], "svc/web:80", "udp")
    assert told.notes == (f"{net.name('a')} still sends connections to 10.2.0.9:8080, which is no endpoint of "
                          "service/default/web now: conntrack -D -d 10.96.0.10 --reply-src 10.2.0.9",)
    net.on("a", told.notes[0].partition(": ")[2])


def test_a_node_that_does_not_answer_is_told_and_the_others_are_looked_at(net: Net) -> None:
    name, other = net.directory.nodes
    with Nodes((name, other), f"sh -c 'test {{node}} = {other} || exec {VIA.replace('{node}', name)}; echo gone >&2'") as some:
        scene = scene_of(net, some)
    assert (list(scene.facts), scene.missing) == ([name], {other: f"{other}: gone"})
    assert not any("which no node has" in each.what for each in findings_in(scene))
    with pytest.raises(UserError, match=r"--via: .* cannot be started"):
        Nodes((name,), "/nowhere/ssh {node}")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("x")
    done = run("doctor", "--bundle", path)
    assert "cannot be read as a bundle" in str(done.exception)
    assert "cannot be mended" in str(run("doctor", "--fix", "--bundle", path).exception)


def test_the_map_is_drawn_with_what_answers(net: Net, nodes: Nodes, saved: Path, tmp_path: Path) -> None:
    scene = scene_of(net, nodes)
    drawn = map_of(with_echoes(scene, nodes, 30))
    assert all(pair.works and pair.asked and pair.by == "flannel.1" for pair in drawn.pairs)
    text = mapdrawing.draw(drawn, 100)
    service = "default/web 10.96.0.10 80/TCP 80/UDP ─▶ pod/default/b:8080"
    for words in ("flannel.1 VXLAN 1 10.1.0.0", "default/b 10.2.0.2", service):
        assert words in text
    net.on("a", "ip neigh del 10.2.0.0 dev flannel.1")
    try:
        broken = map_of(with_echoes(scene, nodes, 0.3))
    finally:
        net.on("a", f"ip neigh replace 10.2.0.0 lladdr {net_by_hand.VTEPS['b']} dev flannel.1 nud permanent")
    assert [(pair.host is not None, pair.tunnel) for pair in broken.pairs] == [(True, None)] * 2
    assert "LOST" in mapdrawing.draw(broken, 100)
    assert 'class="lost"' in mappicture.svg(broken)
    picture = tmp_path / "m.svg"
    assert run("map", "--bundle", saved, "--svg", picture).exit_code == 0
    assert "default/web" in picture.read_text()


def look(net: Net, nodes: Nodes, ledger: Ledger, wanted: Filter, at: float = 0.0) -> list[Row]:
    told = {name: answer for name, answer in nodes.ask_each(Watch(), 60).items() if isinstance(answer, Flows)}
    return ledger.rows(told, wanted, at)


def test_a_connection_is_told_once_by_its_names(net: Net, nodes: Nodes) -> None:
    directory = net.directory
    ledger = Ledger.new(directory)
    wanted = Filter(place_of(directory, "pod/a", "--from"), place_of(directory, "svc/web", "--to"))
    net.on("a", "sysctl -qw net.netfilter.nf_conntrack_acct=1")
    look(net, nodes, ledger, wanted)
    with net.pod["a"].enter():
        client = socket.create_connection(("10.96.0.10", 80))
    served, _ = net.servers[0].accept()
    with client, served:
        client.sendall(b"x")
        assert served.recv(1) == b"x"
        rows = look(net, nodes, ledger, wanted, 1.0)
        client.sendall(b"y" * 10)
        assert served.recv(10)
        (later,) = look(net, nodes, ledger, wanted, 2.0)
    (row,) = rows
    assert (row.source, row.target, row.target_port, row.endpoint, row.protocol, row.verdict, row.state) == (
        "pod/default/a", "service/default/web", 80, "pod/default/b", "tcp", "answered", "ESTABLISHED")
    assert row.nodes == tuple(sorted(net.directory.nodes))
    assert row.packets
    assert later.per_second
    assert later.retransmissions == 0
    assert "service/default/web:80" in draw(rows)
    page = metrics(rows, {}, ledger.lost, directory).splitlines()
    assert 'netscope_flows{source="pod/default/a",target="service/default/web",protocol="tcp",verdict="answered"} 1' in page
    assert {f'netscope_flow_news_lost_total{{node="{name}"}} 0' for name in directory.nodes} <= set(page)


def test_a_connection_nobody_answers_is_told(net: Net, nodes: Nodes) -> None:
    ledger, wanted = Ledger.new(net.directory), Filter(verdict="unanswered", protocol="udp")
    with net.pod["a"].enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(b"x", ("10.2.0.2", 8080))
        (row,) = until(lambda: look(net, nodes, ledger, wanted))
    assert (row.source, row.target, row.verdict) == ("pod/default/a", "pod/default/b", "unanswered")


def test_prometheus_is_answered() -> None:
    end = f"127.0.0.1:{free_ports(1)[0]}"
    latest = [metrics([], {}, {"n\"1": 2}, Directory(()))]
    answer(end, latest)
    with urllib.request.urlopen(f"http://{end}/metrics") as reply:
        assert reply.read().decode().endswith('\nnetscope_flow_news_lost_total{node="n\\"1"} 2\n')
    with pytest.raises(UserError, match="HOST:PORT"):
        answer("here", latest)
    port = free_ports(1)[0]
    answer(str(port), latest)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        assert reply.status == 200


def test_only_what_is_safe_is_mended(net: Net, nodes: Nodes) -> None:
    net.on("a", "ip route del 10.2.0.0/24", "ip neigh del 10.2.0.0 dev flannel.1", "sysctl -qw net.ipv4.ip_forward=0")
    net.on("b", "nft 'table ip w { chain c { type filter hook forward priority 0; tcp dport 8080 drop; }; }'")
    scene = scene_of(net, nodes)
    before = net.node["b"].run(["nft", "list", "ruleset"]).stdout
    assert len(findings_in(scene)) >= 3
    _, left = mend(scene, findings_in(scene), VIA)
    assert [(each.node, each.evidence) for each in left] == [(net.name("b"), "ip w c: tcp dport 8080 drop")]
    assert net.node["b"].run(["nft", "list", "ruleset"]).stdout == before


@pytest.mark.parametrize("fix", [
    "nft delete rule ip w c handle 2", "ip link del flannel.1", "ip link set eth0 down", "systemctl restart flanneld",
    "sysctl -w a=1; rm -r /x", "ip route del 10.2.0.0/24", "kubectl delete node x", "ip link set eth0 address 0a:00:00:00:00:01"])
def test_what_is_not_safe_is_refused(nodes: Nodes, net: Net, fix: str) -> None:
    assert safe_commands(fix) == []
    answer = nodes.ask(net.name("a"), Mend(fix.split("; ")[-1].split()), 10)
    assert isinstance(answer, Mended)
    assert "is not one of the commands that are safe" in answer.trouble


def test_news_that_was_lost_is_counted(net: Net) -> None:
    """Hundreds of connections end at once, and the kernel has room for a few."""
    with net.node["a"].enter():
        table = FlowTable()
    table._news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with net.pod["a"].enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in range(1, 400):
            sock.sendto(b"x", ("10.2.0.2", port))
    until(lambda: int(net.node["a"].run(["conntrack", "-C"]).stdout) > 300)
    net.on("a", "conntrack -F 2>/dev/null")
    ended, lost = table.ended()
    assert lost
    assert len(ended) < 300
    table.close()
