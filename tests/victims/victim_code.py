# SPDX-License-Identifier: GPL-2.0-only
"""A few bytes of machine code for victims that must know what is in a register, or must not touch a stack.

Every routine is C's `long (*)(const void *in, void *out, long number, void *flag)`.
"""

import ctypes
import mmap
import os
import struct

MACHINE = os.uname().machine
_HWCAP, _HWCAP_SVE = 16, 1 << 22


def vector_bits() -> str:
    """The widest vector registers that this CPU has: their name in this file."""
    if MACHINE == "aarch64":
        libc = ctypes.CDLL(None)
        libc.getauxval.restype = ctypes.c_ulong
        return "sve" if libc.getauxval(_HWCAP) & _HWCAP_SVE else "neon"
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    return "avx512" if "avx512f" in flags else "avx" if "avx" in flags else "sse"


SIZES = {"avx512": 32 * 64, "avx": 16 * 32, "sse": 16 * 16, "neon": 32 * 16}
"""Bytes that the vector registers hold."""


def _x86_moves(kind: str, opcode: int, base: int) -> bytes:
    """Load (0x6f) or store (0x7f) every vector register at the address in register `base` (7: rdi, 6: rsi)."""
    out = b""
    for n in range(32 if kind == "avx512" else 16):
        if kind == "avx512":  # vmovdqu64 zmm
            prefix = bytes([0x62, (~n >> 3 & 1) << 7 | 0x60 | (~n >> 4 & 1) << 4 | 1, 0xFE, 0x48])
            size = 64
        elif kind == "avx":  # vmovdqu ymm
            prefix, size = bytes([0xC5, 0xFE if n < 8 else 0x7E]), 32
        else:  # movdqu xmm
            prefix, size = b"\xf3\x0f" if n < 8 else b"\xf3\x44\x0f", 16
        out += prefix + bytes([opcode, 0x80 | (n & 7) << 3 | base]) + struct.pack("<i", n * size)
    return out


def _x86(kind: str, middle: str) -> bytes:
    # push %rsi; then: mov %edx,%edi; mov %rcx,%rsi; mov $1,%edx; xor %eax,%eax; syscall
    # or: again: pause; mov (%rcx),%eax; test %eax,%eax; je again;  at the end: pop %rsi
    codes = {"read": "89d74889ceba0100000031c00f05", "spin": "f3908b0185c074f8"}
    tail = b"\xc5\xf8\x77" if kind != "sse" else b""  # vzeroupper
    return (
        _x86_moves(kind, 0x6F, 7) + b"\x56" + bytes.fromhex(codes[middle]) + b"\x5e"
        + _x86_moves(kind, 0x7F, 6) + tail + b"\xc3"
    )  # fmt: skip


def _words(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def _pairs(opcode: int, base: int, first: int, count: int, step: int) -> bytes:
    """ldp or stp of pairs of q registers, `step` (in 16 bytes) being what the address grows by after each."""
    return _words(*(opcode | step << 15 | (n + 1) << 10 | base << 5 | n for n in range(first, first + count, 2)))


_LDP_POST, _STP_POST = 0xACC00000, 0xAC800000
_SP, _X0, _X9 = 31, 0, 9


def _arm(kind: str, middle: str) -> bytes:
    save = _words(0xD10203FF, 0x910003E4) + _pairs(_STP_POST, 4, 8, 8, 2)  # sub sp,sp,#128; mov x4,sp
    restore = _words(0x910003E4) + _pairs(_LDP_POST, 4, 8, 8, 2) + _words(0x910203FF)
    out = _words(0xAA0103E9)  # mov x9,x1
    codes = {
        # mov x0,x2; mov x1,x3; mov x2,#1; mov x8,#63; svc #0
        "read": (0xAA0203E0, 0xAA0303E1, 0xD2800022, 0xD28007E8, 0xD4000001),
        "spin": (0xD503203F, 0xB9400060, 0x34FFFFC0),  # again: yield; ldr w0,[x3]; cbz w0,again
    }
    if kind == "sve":
        loads = _words(*(0x85804000 | n >> 3 << 16 | (n & 7) << 10 | _X0 << 5 | n for n in range(32)))
        stores = _words(*(0xE5804000 | n >> 3 << 16 | (n & 7) << 10 | _X9 << 5 | n for n in range(32)))
    else:
        loads, stores = _pairs(_LDP_POST, _X0, 0, 32, 2), _pairs(_STP_POST, _X9, 0, 32, 2)
    return save + out + loads + _words(*codes[middle]) + stores + restore + _words(0xD65F03C0)


class Code:
    """A page with one routine. Calling it lets other threads of the interpreter run."""

    def __init__(self, code: bytes) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(code)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p)
        self._call = kind(self.address)

    def __call__(self, given: object, taken: object, number: int, flag: object) -> int:
        """`given`, `taken` and `flag` are ctypes objects."""
        at = [ctypes.addressof(one) for one in (given, taken, flag)]  # type: ignore[arg-type]
        result: int = self._call(at[0], at[1], number, at[2])
        return result


def holding(kind: str, middle: str) -> Code:
    """A routine that fills all vector registers from `in`, then reads one byte of the descriptor `number` into `flag`
    (middle: read) or turns until `flag` is not 0 (spin), and stores all vector registers to `out`."""
    return Code(_arm(kind, middle) if MACHINE == "aarch64" else _x86(kind, middle))


def vector_size(kind: str) -> int:
    """Bytes that the vector registers of `kind` hold."""
    if kind != "sve":
        return SIZES[kind]
    length: int = ctypes.CDLL(None).prctl(51) & 0xFFFF  # PR_SVE_GET_VL
    return 32 * length
