"""How many requests a second somebody may make: the buckets as values, and a server that says 429 while heartbeats go on."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from pathlib import Path

import pytest

from minik8s.apiserver.auth.authorize import UNAUTHENTICATED, User
from minik8s.apiserver.request import rates
from minik8s.apiserver.request.rates import Buckets, Rates
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.status import Refused
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

PODS, LEASES = Target("", "v1", "pods"), Target("coordination.k8s.io", "v1", "leases")
NOBODY = User("system:anonymous", (UNAUTHENTICATED,))


def taken(buckets: Buckets, who: str, now: float, tries: int = 1000) -> int:
    return sum(buckets.take(who, now) == 0 for _ in range(tries))


def test_a_bucket_fills_as_time_goes() -> None:
    buckets = Buckets(10)
    assert taken(buckets, "a", 100.0) == 20, "two seconds' worth at once"
    assert buckets.take("a", 100.0) == pytest.approx(0.1)
    assert taken(buckets, "a", 101.0) == 10
    assert taken(buckets, "b", 101.0) == 20, "each has one"
    assert taken(buckets, "a", 500.0) == 20, "and no more than that"
    assert (taken(Buckets(0), "a", 0.0), taken(Buckets(0.1), "a", 0.0)) == (1000, 1)


def test_never_more_than_the_rate_whatever_the_moments() -> None:
    rng = random.Random(7)
    for _ in range(50):
        rate, now, moments = rng.choice([1, 7, 300]), 0.0, []
        buckets = Buckets(rate)
        for _ in range(1000):
            now += rng.expovariate(rate * 3)
            if not buckets.take("a", now):
                moments.append(now)
        for first in range(0, len(moments), 50):
            for last in range(first, len(moments), 50):
                assert last - first <= (moments[last] - moments[first] + rates.HELD_SECONDS) * rate + 1


def test_buckets_are_few_and_who_lacks_most_is_not_forgotten() -> None:
    buckets = Buckets(10)
    assert taken(buckets, "greedy", 100.0) == 20
    for number in range(3 * rates.MOST):
        assert buckets.take(f"u{number}", 100.0) == 0
    assert len(buckets) <= rates.MOST
    assert buckets.take("greedy", 100.0) > 0
    buckets.take("x" * 9, 200.0)
    assert taken(buckets, "greedy", 200.0) == 20


def test_who_is_counted_and_by_what() -> None:
    rejected = Counter[str]()
    counting = Rates(0.5, 0.5, rejected)

    def often(user: User, target: Target | None = None, address: str = "192.0.2.1") -> bool:
        try:
            for _ in range(5):
                counting.count(user, target, address, 100.0)
        except Refused as refused:
            return refused.code != 429
        return True

    node, account = User("system:node:n", ("system:nodes",)), "system:serviceaccount:{}:a"
    assert often(node, LEASES)
    assert not often(node, Target("", "v1", "secrets"))
    assert often(User("root", ("system:masters",)), PODS)
    assert often(User("root", ("system:masters",)))
    assert often(User("system:kube-scheduler"), PODS)
    assert often(User(account.format("kube-system")), PODS)
    assert not often(User(account.format("kube-system-of-mine")), PODS)
    assert not often(User("jane"), PODS)
    assert not often(NOBODY)
    for one, other in (("2001:db8::1", "2001:db8::2"), ("::ffff:192.0.2.9", "192.0.2.9"), ("fe80::1%eth0", "fe80::2%eth1")):
        assert not often(NOBODY, None, one)
        with pytest.raises(Refused):
            counting.count(NOBODY, None, other, 100.0)
    counting.count(NOBODY, None, "2001:db8:0:1::1", 100.0)
    assert rejected == {"rate-limit": 10}


@pytest.mark.etcd
@pytest.mark.slow
def test_a_server_says_when_to_come_again(api_etcd: EtcdServer, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text('secret-of-jane,jane,1,"system:masters-of-none"\n')
    flags = ("--max-requests-per-second", "1", "--max-anonymous-requests-per-second", "2")
    with contextlib.closing(ApiServer.start(api_etcd, *flags, "--token-auth-file", str(tmp_path / "tokens"))) as server:
        jane = {"headers": {"Authorization": "Bearer secret-of-jane"}, "user": ""}
        found = until(lambda: (answer := server.call("GET", "/version", **jane)).code == 429 and answer, what="too many")
        assert (found.body["kind"], found.body["reason"], found.headers["Retry-After"]) == ("Status", "TooManyRequests", "1")
        assert found.body["message"] == "too many requests a second from user 'jane', please try again later"
        assert all(server.call("GET", "/api/v1/nodes?limit=1").code == 200 for _ in range(20))
        assert {server.call("GET", "/api/v1/nodes", user="kubelet").code for _ in range(5)} <= {200, 403}
        wrong = {"headers": {"Authorization": "Bearer wrong"}, "user": ""}
        until(lambda: server.call("GET", "/version", **wrong).code == 429, what="too many wrong tokens")
        assert server.call("GET", "/livez", user="").code == 429, "of the same address"
        until(lambda: server.call("GET", "/livez", user="").code == 200, what="a token of a bucket")
        told = str(server.call("GET", "/metrics").body)
        assert 'apiserver_flowcontrol_rejected_requests_total{reason="rate-limit"} ' in told
        assert 'apiserver_flowcontrol_rejected_requests_total{reason="rate-limit"} 0\n' not in told
        for _ in range(3):  # kubectl asks again when it was told to
            server.kubectl("get", "--raw", "/version", user="nobody")
