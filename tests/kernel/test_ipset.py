"""The ipset adapter against the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from nodecore import errors
from nodecore.kernel.ipset import Ipset
from nodecore.kernel.netns import Netns

pytestmark = pytest.mark.kernel


@pytest.fixture
def sets() -> Iterator[Ipset]:
    with Netns.create() as space:
        yield Ipset(prefix=("nsenter", f"--net={space.path}"))


def test_many_at_once(sets: Ipset) -> None:
    lines = ["create a hash:ip,port", *(f"add a 10.96.{number >> 8}.{number & 255},tcp:80" for number in range(1000))]
    asyncio.run(sets.restore("\n".join(["create b hash:net", *lines, ""])))
    assert sorted(asyncio.run(sets.names())) == ["a", "b"]
    asyncio.run(sets.restore("destroy b\n"))
    assert asyncio.run(sets.names()) == ["a"]


def test_what_fails_is_said(sets: Ipset) -> None:
    for script, kind in (("destroy none\n", errors.NotFound), ("nonsense\n", errors.Invalid),
                         ("create a hash:ip\ncreate a hash:net\n", errors.AlreadyExists)):
        with pytest.raises(kind, match="ipset: "):
            asyncio.run(sets.restore(script))
    assert asyncio.run(sets.names()) == ["a"], "what came before the failure is done"
