"""Programs of classic BPF put together: moved to where the innermost IP header begins, all of several, for whole frames: pure.

    asked of tunnels' insides      at_innermost(program)     every load is moved behind the headers around
    two must both let it by        all_of((one, other))      where one would take a packet, the other begins
    a ring, whose frames begin     whole_frames(program)     loads count from the network header (SKF_NET_OFF), and what the
      with their link's header                                 kernel knows beside the packet stays where it is (SKF_AD_OFF)

Must not know: where programs come from. Read next: `netscope/bpf.py`, `netscope/capture/expression.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from netscope.bpf import INSTRUCTION, JUMP, LOAD_HEADER_LENGTH, LOADS, LOADS_AT_X, NOTHING, RETURN, WHOLE, head, places

NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
BESIDE = 0xFFFFF000  # SKF_AD_OFF: interface, direction


def at_innermost(program: bytes) -> bytes:
    """The same asked of the innermost packet alone: of what a tunnel carries, or of the packet itself where there is none."""
    tunnels = [(begin, outside) for begin, outside, _ in places() if outside]
    code = b""
    for begin, outside in tunnels:
        inside = moved(program, begin)
        code += head(outside, len(inside) // INSTRUCTION.size) + inside
    return code + program


def all_of(programs: Sequence[bytes]) -> bytes:
    """Takes what each of them takes."""
    code = b""
    for program in programs[:-1]:
        count = len(program) // INSTRUCTION.size
        for place, (opcode, passes, fails, k) in enumerate(INSTRUCTION.iter_unpack(program)):
            takes = opcode == RETURN and k
            code += INSTRUCTION.pack(JUMP, 0, 0, count - place - 1) if takes else INSTRUCTION.pack(opcode, passes, fails, k)
    return code + programs[-1]


def none_of(program: bytes) -> bytes:
    """Takes what that one does not."""
    return b"".join(INSTRUCTION.pack(opcode, passes, fails, (NOTHING if k else WHOLE) if opcode == RETURN else k)
                    for opcode, passes, fails, k in INSTRUCTION.iter_unpack(program))


def whole_frames(program: bytes) -> bytes:
    """The same for frames with their link's header."""
    return moved(program, NETWORK_HEADER)


def cut(program: bytes, size: int) -> bytes:
    """The same, but of each packet only so many bytes are taken."""
    return b"".join(INSTRUCTION.pack(opcode, passes, fails, min(k, size) if opcode == RETURN else k)
                    for opcode, passes, fails, k in INSTRUCTION.iter_unpack(program))


def moved(program: bytes, begin: int) -> bytes:
    """Every load of the packet's bytes so much farther behind."""
    code = b""
    for opcode, passes, fails, k in INSTRUCTION.iter_unpack(program):
        loads = opcode in LOADS_AT_X or (opcode in (*LOADS, LOAD_HEADER_LENGTH) and k < BESIDE)
        code += INSTRUCTION.pack(opcode, passes, fails, (k + begin) & 0xFFFFFFFF if loads else k)
    return code
