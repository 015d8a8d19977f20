"""A filter as users of tcpdump write it (pcap-filter(7)), compiled by libpcap, for packets that begin with their IP header.

Only here is libpcap called, by ctypes, and only where an expression is given: nodes get the program. What cannot be said of an
IP packet (Ethernet addresses, VLANs, loops) is refused by name. Must not know: tunnels. Read next: `netscope/filters.py`.
"""

from __future__ import annotations

import ctypes
import ctypes.util

from netscope.bpf import INSTRUCTION, JUMP, WHOLE
from nodecore.errors import Fault, UserError

RAW_IP = 12  # DLT_RAW
UNKNOWN_NETMASK = 0xFFFFFFFF
BACKWARD = 1 << 31


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def compiled(text: str, flag: str) -> bytes:
    """The program, whose loads count from the IP header; `flag` is named when it makes no sense."""
    pcap = _library()
    handle, program = pcap.pcap_open_dead(RAW_IP, WHOLE), _Program()
    try:
        if "\0" in text or pcap.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, UNKNOWN_NETMASK):
            raise UserError(f"{flag}: {text!r}: {_words(pcap.pcap_geterr(handle))}")
        code = ctypes.string_at(program.instructions, program.count * INSTRUCTION.size)
        pcap.pcap_freecode(ctypes.byref(program))
    finally:
        pcap.pcap_close(handle)
    if any(opcode == JUMP and k >= BACKWARD for opcode, _, _, k in INSTRUCTION.iter_unpack(code)):
        raise UserError(f"{flag}: {text!r}: a chain of headers (protochain) is a loop, which the kernel does not take")
    return code


def _words(error: bytes) -> str:
    return error.decode(errors="replace").replace("Raw IP", "IP packets, which are all that is looked at") or "no filter"


def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("pcap") or "libpcap.so.0.8"
    try:
        pcap = ctypes.CDLL(name)
    except OSError:
        raise Fault("filter expressions need libpcap, which is not installed (Debian: apt install libpcap0.8)") from None
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_geterr.restype = ctypes.c_char_p
    pcap.pcap_compile.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32]
    for function in (pcap.pcap_geterr, pcap.pcap_close, pcap.pcap_freecode):
        function.argtypes = [ctypes.c_void_p]
    return pcap
