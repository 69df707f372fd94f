# SPDX-License-Identifier: GPL-2.0-only
"""Classic BPF as seccomp(2) has it: what a filter would say of a system call.

The instruction set is that of linux/filter.h less what seccomp_check_filter() forbids; the data is struct seccomp_data.
Filters that the kernel has accepted end with a return and only jump forwards, so running one ends.
"""

from __future__ import annotations

import struct

from pycriu.errors import ImageError

# include/uapi/linux/seccomp.h
RET_KILL_PROCESS, RET_KILL_THREAD, RET_TRAP, RET_ERRNO = 0x80000000, 0, 0x00030000, 0x00050000
RET_USER_NOTIF, RET_TRACE, RET_LOG, RET_ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
ACTION_FULL = 0xFFFF0000

DATA = struct.Struct("<iIQ6Q")  # struct seccomp_data: nr, arch, instruction_pointer, args
INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter: code, jt, jf, k
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_ARGS_AT = 8  # offset of the first byte that differs between two calls of one number from one architecture
_MASK = 0xFFFFFFFF

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_ABS, _MEM, _LEN, _IMM = 0x20, 0x60, 0x80, 0x00
_X = 0x08
_JA, _JEQ, _JGT, _JGE, _JSET = 0x00, 0x10, 0x20, 0x30, 0x40
_RET_A = 0x16
_DIV = 0x30


class Program:
    """One filter, taken apart."""

    def __init__(self, raw: bytes, label: str = "a seccomp filter") -> None:
        if not raw or len(raw) % INSTRUCTION.size or len(raw) > MAX_INSTRUCTIONS * INSTRUCTION.size:
            raise ImageError(f"{label} is {len(raw)} bytes long, which no filter is")
        self.raw = raw
        self.label = label
        self._code = list(INSTRUCTION.iter_unpack(raw))

    def returns(self) -> set[int]:
        """The actions that it can return by a constant."""
        return {k & ACTION_FULL for code, _, _, k in self._code if code & 7 == _RET and code != _RET_A}

    def run(self, data: bytes) -> tuple[int, bool]:
        """What it returns for `data` (DATA), and whether it looked at more than number and architecture."""
        a = x = at = 0
        memory = [0] * 16
        looked = False
        while at < len(self._code):
            code, jt, jf, k = self._code[at]
            at += 1
            kind = code & 7
            if kind == _RET:
                return (a if code == _RET_A else k), looked
            if kind == _JMP:
                at += k if code & 0xF0 == _JA else (jt if _holds(code, a, x if code & _X else k) else jf)
            elif kind == _ALU:
                operand = x if code & _X else k
                if code & 0xF0 == _DIV and not operand:
                    return RET_KILL_THREAD, looked  # what the kernel makes of it
                a = _computed(code, a, operand)
            elif kind in (_LD, _LDX):
                looked |= code & 0xE0 == _ABS and k >= _ARGS_AT
                value = _loaded(code, k, data, memory)
                a, x = (value, x) if kind == _LD else (a, value)
            elif kind == _MISC:
                a, x = (a, a) if code & 0xF8 == 0 else (x, x)
            else:
                memory[k & 15] = a if kind == _ST else x
        raise ImageError(f"{self.label} does not end with a return")


def _holds(code: int, a: int, operand: int) -> bool:
    test = code & 0xF0
    if test == _JEQ:
        return a == operand
    if test == _JGT:
        return a > operand
    return a >= operand if test == _JGE else bool(a & operand)


def _computed(code: int, a: int, operand: int) -> int:
    results = {
        0x00: a + operand, 0x10: a - operand, 0x20: a * operand, 0x40: a | operand, 0x50: a & operand,
        0x60: a << (operand & 31), 0x70: a >> (operand & 31), 0x80: -a, 0xA0: a ^ operand,
        _DIV: a // operand if operand else 0,
    }  # fmt: skip
    if code & 0xF0 not in results:
        raise ImageError(f"a seccomp filter has the instruction {code:#x}, which the kernel would not take")
    return results[code & 0xF0] & _MASK


def _loaded(code: int, k: int, data: bytes, memory: list[int]) -> int:
    mode = code & 0xE0
    if mode == _ABS:
        return int.from_bytes(data[k : k + 4], "little")
    if mode == _MEM:
        return memory[k & 15]
    return len(data) if mode == _LEN else k
