"""Addresses as the outside world writes them: what Python takes for one is not all good enough for a rule."""

from __future__ import annotations

import pytest

from nodecore.errors import UserError
from nodecore.net import parse_address, parse_network, read_address, read_network


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fd96::1%} ; flush ruleset", "fd96::%x y"])
def test_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="zone"):
        read_address(text)
    with pytest.raises(ValueError, match="zone"):
        read_network(f"{text}/64", strict=False)
    with pytest.raises(UserError, match="is not an IP address"):
        parse_address(text, what="--public-ip")
    with pytest.raises(UserError, match="is not a network in CIDR form"):
        parse_network(f"{text}/64", what="--cluster-cidr")


def test_the_usual_ones_are_read() -> None:
    assert str(read_address("FD00::0001")) == "fd00::1"
    assert str(read_network("10.1.2.3/8", strict=False)) == "10.0.0.0/8"
    with pytest.raises(ValueError, match="host bits"):
        read_network("10.1.2.3/8")
