# SPDX-License-Identifier: GPL-2.0-only
"""The memory through which a program that wants to be told of checkpoints, and the engine, speak with each other.

A program that registers hooks maps a memfd of the name MARK, which /proc/PID/maps shows, and closes its descriptor.
The engine reads and writes it through /proc/PID/mem, with the rights that a dump needs anyway: nothing is open between
the two, so nothing of a conversation can be in its way, or has to be left out of the images. It is one more piece of
shared memory there, which every engine keeps. A child made by fork(2) does not get it (MADV_DONTFORK); one made by
vfork(2) has it until it calls execve(2), so PID says whose it is.

A conversation: the engine writes what it wants (WHAT, the message, LIMIT, who it is), then another number into
REQUEST, and sends SIGNAL, which nobody minds who does not know it. The program does what is asked, writes RESULT and a
reply, and that number into ANSWER. After PREPARE it stands still, looking for the next number, until it is told how it
ended – or finds that out itself: that it has been restored (it was born at another time than before), or that whoever
has asked is gone. Who is restored by an engine that knows nothing of this is not left in the lurch.

Both sides trust nothing that they find here.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "pycriu-hooks"
MARK = f"/memfd:{NAME} (deleted)"
MAGIC = b"pycriuH1"
SIZE = 1 << 18

# Offsets of 32-bit numbers.
PID, SIGNAL, REQUEST, ANSWER, WHAT, STATE, RESULT, ASKER, LIMIT, FINAL, MESSAGE_SIZE, REPLY_SIZE = range(8, 56, 4)
DOING, DOING_ROOM = 64, 192  # the hook that runs, in UTF-8
REPLY, MESSAGE = 256, 8192
REPLY_ROOM, MESSAGE_ROOM = MESSAGE - REPLY, SIZE - MESSAGE
HEAD = 256

PREPARE, CONTINUED, RESTORED, FAILED = 1, 2, 3, 4  # WHAT
IDLE, BUSY, STANDING, IN_SECTION = 0, 1, 2, 3  # STATE: hooks run; it waits to hear how it ended; waits for a section
DONE, REFUSED, NOT_NOW = 0, 1, 2  # RESULT
WRITTEN, LOST = 1, 2  # FINAL: whether the checkpoint is there

OUTCOMES = {CONTINUED: "continued", RESTORED: "restored", FAILED: "failed"}

_U32 = struct.Struct("<I")


def number(data: Any, at: int) -> int:
    """The 32-bit number at an offset."""
    return int(_U32.unpack_from(data, at)[0])


def packed(value: int) -> bytes:
    """The other way round."""
    return _U32.pack(value & 0xFFFFFFFF)


def born(pid: int | str = "self") -> int:
    """When a process was started, in ticks since boot; 0 where there is none, or /proc cannot be read.

    A restored process is another one to the kernel, so this tells an own life from the one that was dumped.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read(4096).rpartition(b") ")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
