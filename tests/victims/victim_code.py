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


# x86_64's numbers, and those of all others
NUMBERS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "dup": (32, 23), "rt_sigaction": (13, 134),
    "chdir": (80, 49), "umask": (95, 166), "exit_group": (231, 94), "getppid": (110, 173), "getpid": (39, 172),
    "setsid": (112, 157),
}  # fmt: skip


class Cloned:
    """A process made by clone(2), with any flags, that never returns to Python: it makes system calls row by row.

    A row is a call's number, six arguments, and the result. In shared memory the parent sees results as they come, and
    may change what has not been run.
    """

    # push %r12; mov %rdi,%r12; mov %rdx,%rdi; mov %rcx,%rsi; xor %edx,%edx; xor %r10,%r10; xor %r8,%r8; mov $56,%eax;
    # syscall; test %eax,%eax; jz child; pop %r12; ret
    # child: mov (%r12),%rax; mov 8(%r12),%rdi; … %rsi, %rdx, %r10, %r8, %r9; syscall; mov %rax,56(%r12); add $64,%r12;
    # jmp child
    _X86 = bytes.fromhex(
        "4154 4989fc 4889d7 4889ce 31d2 4d31d2 4d31c0 b838000000 0f05 85c0 7403 415c c3"
        "498b0424 498b7c2408 498b742410 498b542418 4d8b542420 4d8b442428 4d8b4c2430 0f05 4989442438 4983c440 ebd1"
    )
    # mov x9,x0; mov x0,x2; mov x1,x3; mov x2,#0; mov x3,#0; mov x4,#0; mov x8,#220; svc #0; cbz x0,child; ret
    # child: ldr x8,[x9]; ldp x0,x1,[x9,#8]; ldp x2,x3,[x9,#24]; ldp x4,x5,[x9,#40]; svc #0; str x0,[x9,#56];
    # add x9,x9,#64; b child
    _ARM = _words(
        0xAA0003E9, 0xAA0203E0, 0xAA0303E1, 0xD2800002, 0xD2800003, 0xD2800004, 0xD2801B88, 0xD4000001, 0xB4000040,
        0xD65F03C0, 0xF9400128, 0xA9408520, 0xA9418D22, 0xA9429524, 0xD4000001, 0xF9001D20, 0x91010129, 0x17FFFFF9,
    )  # fmt: skip
    _STACK = 1 << 16

    def __init__(self, flags: int, rows: list[tuple[object, ...]]) -> None:
        self._table = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        table = ctypes.c_char.from_buffer(self._table)
        self.keep: list[object] = [table]
        for at, (name, *args) in enumerate(rows):
            self._put(at, str(name), args)
        code = Code(self._ARM if MACHINE == "aarch64" else self._X86)
        self._stack = mmap.mmap(-1, self._STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        stack = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + self._STACK
        kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p)
        self.pid: int = kind(code.address)(ctypes.addressof(table), 0, flags, stack)
        self.keep.append(code)

    def _put(self, at: int, name: str, args: list[object]) -> None:
        words = [NUMBERS[name][MACHINE != "x86_64"]]
        for value in args:
            if not isinstance(value, int):
                self.keep.append(value)
                value = ctypes.addressof(value)  # type: ignore[arg-type]
            words.append(value)
        self._table[at * 64 : at * 64 + 56] = struct.pack("<7q", *words, *(0,) * (7 - len(words)))

    def result(self, at: int) -> int:
        """What a row returned, as seen in shared memory."""
        return int(struct.unpack_from("<q", self._table, at * 64 + 56)[0])
