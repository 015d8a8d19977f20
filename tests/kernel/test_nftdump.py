"""Tables read back in binary, while somebody else writes."""

from __future__ import annotations

import threading

import pytest

from nodecore.errors import Busy
from nodecore.kernel.netns import Netns
from nodecore.kernel.nftdump import NFT_MSG_GETCHAIN, chain_names, dump
from nodecore.net import Family

pytestmark = pytest.mark.kernel
COUNT = 3000
TABLE = "many"


def test_names_read_while_others_come_and_go_are_not_taken_for_all() -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            space.run(["nft", "add table ip other; delete table ip other"])

    def read_often() -> None:
        for _ in range(1000):
            assert len(list(dump(NFT_MSG_GETCHAIN, Family.IPV4))) == COUNT

    with Netns.create() as space:
        space.run(["nft", "-f", "-"], input=f"add table ip {TABLE}\n" + "".join(
            f"add chain ip {TABLE} c-{number}\n" for number in range(COUNT)))
        writer = threading.Thread(target=write)
        writer.start()
        try:
            with space.enter():
                with pytest.raises(Busy):
                    read_often()
                for _ in range(20):
                    assert len(chain_names(Family.IPV4, TABLE)) == COUNT
        finally:
            done.set()
            writer.join()
