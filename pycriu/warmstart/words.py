# SPDX-License-Identifier: GPL-2.0-only
"""What /proc/PID/cmdline and /proc/PID/environ of this process show: ps(1) and pgrep(1) look there.

Both are memory of the process, of which the kernel knows from where to where it goes: prctl(PR_SET_MM_MAP) tells it
(since Linux 3.18, with CONFIG_CHECKPOINT_RESTORE, which a restore needs anyway; no capability is asked for).
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
# struct prctl_mm_map: start_code end_code start_data end_data start_brk brk start_stack arg_start arg_end env_start
# env_end, auxv, its size (0: as it is), exe_fd (-1: as it is)
_MM_MAP = struct.Struct("=11QQIi")
# The fields of /proc/PID/stat behind the name, from 0, in that order; nothing there says brk: sbrk(2) does.
_STAT = (23, 24, 42, 43, 44, None, 25, 45, 46, 47, 48)
_BRK, _ARGUMENTS = 5, 7

_shown: list[ctypes.Array[ctypes.c_char]] = []  # what the kernel points to must stay


def show(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the kernel shows these from now on."""
    words = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    room = ctypes.create_string_buffer(words + variables)
    start = ctypes.addressof(room)
    ends = (start, start + len(words), start + len(words), start + len(words) + len(variables))
    numbers = [int(fields[at]) if at is not None else int(libc.sbrk(0) or 0) for at in _STAT]
    numbers[_ARGUMENTS:] = ends
    told = ctypes.create_string_buffer(_MM_MAP.pack(*numbers, 0, 0, -1))
    done: int = libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(told), ctypes.c_ulong(_MM_MAP.size), 0)
    if done == 0:
        _shown[:] = [room]
    return done == 0
