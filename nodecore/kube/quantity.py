"""Resource amounts as Kubernetes writes them: `100m`, `1.5Gi`, `2e3`.

Grammar: signed decimal number, then a binary suffix (Ki..Ei), a decimal one (n u m, none, k..E) or an exponent.
Pure. Read next: `minik8s/scheduler/fit.py`, `minik8s/kubelet`, which weigh with these.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from nodecore.errors import UserError

_FORM = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:([eE][+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i)|)\Z", re.ASCII)
_FACTORS = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}


@lru_cache(maxsize=4096)
def _parse(text: str, what: str) -> Fraction:
    found = _FORM.match(text)
    if not found:
        raise UserError(f"{what}: {text!r} is not a quantity such as 100m, 0.5 or 2Gi")
    sign, number, exponent, suffix = found.groups()
    factor = Fraction(10) ** int(exponent[1:]) if exponent else _FACTORS[suffix or ""]
    amount = Fraction(number) * factor
    return -amount if sign == "-" else amount


def parse_quantity(value: str | int | float, *, what: str = "quantity") -> Fraction:
    """The exact amount, or `UserError` naming `what` was wrong. Numbers (JSON, YAML) count as their text does."""
    return _parse(str(value).strip(), what)


def parse_milli(value: str | int | float, *, what: str = "quantity") -> int:
    """In thousandths, rounded up: the unit of cpu."""
    amount = parse_quantity(value, what=what) * 1000
    return -((-amount.numerator) // amount.denominator)


def parse_whole(value: str | int | float, *, what: str = "quantity") -> int:
    """In whole units, rounded up: bytes of memory, a number of pods."""
    amount = parse_quantity(value, what=what)
    return -((-amount.numerator) // amount.denominator)


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The one way in which the API writes an amount: `0.5` is `500m`, `1024Mi` is `1Gi`, `2000m` is `2`; rounded up to `n`."""
    amount, found = parse_quantity(text), _FORM.match(text.strip())
    binary, exponent = bool(found and (found[4] or "").endswith("i")), bool(found and found[3])
    if binary and amount.denominator == 1 and abs(amount) >= 1024:
        return _written(int(amount), 1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))
    nano = -((-amount.numerator * 10**9) // amount.denominator)
    if exponent:
        return _written(nano, 1000, tuple(f"e{power}" if power else "" for power in range(-9, 40, 3)))
    return _written(nano, 1000, ("n", "u", "m", "", "k", "M", "G", "T", "P", "E"))


def _written(number: int, base: int, suffixes: tuple[str, ...]) -> str:
    """The number in the largest unit in which it is whole."""
    if not number:
        return "0"
    at = 0
    while number % base == 0 and at + 1 < len(suffixes):
        number, at = number // base, at + 1
    return f"{number}{suffixes[at]}"
