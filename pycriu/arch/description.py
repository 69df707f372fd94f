# SPDX-License-Identifier: GPL-2.0-only
"""What pycriu needs to know of a CPU, as one value per architecture.

Every file beside this one fills in one `Arch`. All of them load, and are unit-tested, on every host: nothing in them
asks the machine it runs on, except inside the functions that take a tid.
"""

from __future__ import annotations

import struct

from pycriu.kernel import syscalls
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Registers = list[int]
"""The general registers of NT_PRSTATUS, in the kernel's order."""

MASK64 = (1 << 64) - 1
ERRNO_MAX = 4095


def signed(value: int) -> int:
    """A 64-bit register as a signed number."""
    return value - (1 << 64) if value >> 63 else value


@record
class Arch:
    """One architecture. Machine code is given as bytes with the assembly beside it in the file that fills it in."""

    name: str
    mtype: int  # core_entry.march
    thread_info: str  # the field of core_entry that holds this architecture's registers
    elf_machine: int  # e_machine
    numbering: str  # of system calls, see kernel.syscalls
    gpr: struct.Struct  # layout of NT_PRSTATUS
    nr: int  # index of the register with the call's number
    args: tuple[int, int, int, int, int, int]
    result: int
    pc: int
    sp: int
    syscall_insn: bytes
    syscall_align: int  # instructions start at multiples of this
    table_loop: bytes  # runs a table of calls up to the first that fails; one of the next two follows it
    table_registers: tuple[int, int]  # address of the table, number of rows
    trap: bytes
    way_home: bytes  # tkill(2)s the thread itself, then calls rt_sigreturn: see home
    home_registers: tuple[int, int]  # the thread's id, the signal
    call_and_return: bytes  # a system call instruction followed by a return
    restorers: tuple[bytes, ...]  # ways to write a call of rt_sigreturn
    sigframe: Callable[[Registers, int, dict[int, bytes], int, int], bytes]  # gpr, mask, sets, restorer, address
    go_home: Callable[[Registers, int, int], None]  # gpr, restorer, frame: a return leads to the restorer
    sigreturn_sp: int  # where the stack pointer stands, counted from the frame, when rt_sigreturn is called
    task_size: int  # end of the user half of the address space at its smallest
    epoll_event: struct.Struct  # struct epoll_event: events, data
    messages: tuple[str, ...]  # classes of the image format that `save` makes, to be loaded before anybody is stopped
    interrupted_call: Callable[[Registers], int]  # number of the call that a stopped task is in, -1 where none is known
    prepare_call: Callable[[Registers], None]  # make the kernel forget the interrupted call
    # What a new task must start with to go on as this one would; with the number of the call that it restarts: see
    # interrupted.original
    after_interruption: Callable[[Registers, int | None], Registers]
    restarting: Callable[[Registers], int]  # where the restart_syscall(2) lies that the task is in, else 0
    numbers_in: Callable[[bytes], list[int]]  # numbers that code loads for a call at its end, the nearest first
    call_again: Callable[[Registers, int, int], None]  # number, first argument: make the call again that has a result
    look: Callable[[int], dict[int, bytes]]  # tid → every register set but the general, by note
    calls_destroy: tuple[int, ...]  # the notes among them that system calls made for the task change
    has_key_rights: Callable[
        [dict[int, bytes]], bool
    ]  # register sets: rights of protection keys, not those of a new task
    save: Callable[
        [Registers, dict[int, bytes], int], tuple[Any, dict[str, bytes]]
    ]  # + tid address → thread_info, extras
    load: Callable[[Any], tuple[Registers, int]]  # core_entry → gpr, tid address
    restore_others: Callable[[int, Any, dict[str, bytes]], None]  # tid, core_entry, extras: every set but the general

    def syscall_number(self, name: str) -> int:
        """The number of system call `name`; LookupError when this architecture lacks it."""
        return syscalls.number(name, self.numbering)


_ELF_AT = 0x10000  # vm.mmap_min_addr is at most this


def elf(arch: Arch) -> bytes:
    """A static ELF file whose only content is a system call instruction and a trap."""
    code = arch.syscall_insn + arch.trap
    header, segment = 64, 56
    size = header + segment + len(code)
    pt_load, read_execute, page = 1, 5, 0x10000
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    entry = _ELF_AT + header + segment
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, arch.elf_machine, 1, entry, header, 0, 0, header, segment, 1, 0, 0, 0
    )
    return head + struct.pack("<IIQQQQQQ", pt_load, read_execute, 0, _ELF_AT, _ELF_AT, size, size, page) + code
