"""X25519 (RFC 7748): the public key that goes with a WireGuard private key.

Plain integers, 1 ms a key. The daemon does this once at its start; a library would weigh 18 MB in every agent's memory for
it, and the kernel tells the public key only of a device that is made, which is after the lease needs it. It does not take the
same time for every key, so it is no thing to do on a stranger's request.

Pure. Read next: `flanneld_py/identity.py`.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

from nodecore.errors import UserError

LENGTH = 32
PRIME = 2**255 - 19
A24 = 121665
BASE_POINT = (9).to_bytes(LENGTH, "little")


def decode_key(text: str, what: str) -> bytes:
    """A key from its base64; raises `UserError` that names it and does not show it."""
    try:
        key = b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != LENGTH:
        raise UserError(f"{what}: not a WireGuard key (32 bytes in base64)")
    return key


def encode_key(key: bytes) -> str:
    """A key as leases and files have it."""
    return b64encode(key).decode()


def clamp(secret: bytes) -> bytes:
    """Random bytes as a private key."""
    number = int.from_bytes(secret, "little")
    return (number & ((1 << 255) - 8) | 1 << 254).to_bytes(LENGTH, "little")


def public_key(private_key: bytes) -> bytes:
    """The public key of a private one."""
    return multiply(private_key, BASE_POINT)


def multiply(scalar: bytes, point: bytes) -> bytes:
    """The function X25519 of RFC 7748, section 5: a Montgomery ladder from the highest bit down."""
    k = int.from_bytes(clamp(scalar), "little")
    u = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    swapped = 0
    for position in range(254, -1, -1):
        bit = k >> position & 1
        if bit != swapped:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = bit
        plus, minus = x2 + z2, x2 - z2
        square, other = plus * plus % PRIME, minus * minus % PRIME
        cross, back = (x3 - z3) * plus % PRIME, (x3 + z3) * minus % PRIME
        x3, z3 = (back + cross) ** 2 % PRIME, u * (back - cross) ** 2 % PRIME
        difference = square - other
        x2, z2 = square * other % PRIME, difference * (square + A24 * difference) % PRIME
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(LENGTH, "little")
