# SPDX-License-Identifier: GPL-2.0-only
"""One stopped task: its registers, its memory, and system calls made by it on our behalf.

`Tracee` is the handle of a thread. `Remote` is the scope in which the thread runs calls for us: it blocks the thread's
signals, puts a few pages of scratch into its address space, and takes all of it back at the end. Calls go in tables: a
small loop in the scratch pages runs row after row and stops at the first that fails, so that sixty calls cost one stop.
Where no scratch exists (the first and the last call of a scope) a single call is stepped at a system call instruction
that the task has anyway, in its vDSO. The threads of a process work one after the other in the scratch pages of one.

A task that outlives us while it works for us must find back by itself: see `home`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import struct

from pycriu.arch.description import ERRNO_MAX, MASK64, Arch, Registers, signed
from pycriu.errors import KernelError, PycriuError, TraceeGone, Unsupported
from pycriu.kernel import names, procfs, ptrace
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.tracing.home import Home

SIGTRAP, SIGKILL, SIGSTOP = 5, 9, 19
_INTERRUPTS = (1, 2, 14, 15)  # SIGHUP, SIGINT, SIGALRM (--timeout), SIGTERM
ALL_SIGNALS = MASK64

EACCES, ENOMEM = 13, 12
PROT_RW, PROT_RX, PROT_RWX = 3, 5, 7
MAP_PRIVATE_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE = 0x22, 0x10, 0x100000
_NO_FD = -1

SCRATCH_SIZE = 1 << 18  # a multiple of every page size (64 KiB on some aarch64 kernels)
_CODE_ROOM, _TABLE_ROOM = 4096, 1 << 16
_FRAME_ROOM = 1 << 14  # AMX makes the largest frames: 11 KiB
_HANDLER_ROOM = 1 << 16  # where we are killed before a thread's signals are blocked, its handlers run below the frame
_DATA_ROOM = SCRATCH_SIZE - _CODE_ROOM - _TABLE_ROOM - _HANDLER_ROOM - _FRAME_ROOM
_FRAME_AT = SCRATCH_SIZE - _FRAME_ROOM
_ROW = 64  # nr, six arguments, result
_WORDS, _RESULT, _NOTHING = struct.Struct("<8Q"), struct.Struct("<56xq"), (0,) * 6
_ROWS_MAX = _TABLE_ROOM // _ROW
_NOT_RUN = 0x7FFF_0000_DEAD_BEEF  # no call returns this: it is no address a task can have and no error


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Resume = Callable[[int, int], None]  # tid, signal to deliver


class Row:
    """One call of a table: its man-page name, its arguments, and the words that name its object in an error."""

    __slots__ = ("args", "name", "what")

    def __init__(self, name: str, *args: int, what: str = "") -> None:
        self.name, self.args, self.what = name, args, what


class Tracee:
    """A thread that this process traces and that is stopped. Closing it closes /proc/TID/mem, nothing else.

    `leader` is the first thread of its process, where it is another: they have one memory.
    """

    def __init__(self, tid: int, arch: Arch, leader: Tracee | None = None) -> None:
        self.tid = tid
        self.arch = arch
        self.leader = leader
        self._others: set[int] = set()  # of a first thread: the others of its process that we trace
        if leader is not None:
            leader._others.add(tid)
        self.resumes = False  # see interrupted.resume
        self.rest: int | None = None  # see interrupted.with_rest
        self._mem = -1
        self._gate = 0

    @property
    def mem(self) -> int:
        """/proc/TID/mem, open for reading and writing, opened at the first use."""
        if self.leader is not None:
            return self.leader.mem
        if self._mem < 0:
            self._mem = os.open(f"/proc/{self.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        return self._mem

    def close(self) -> None:
        """Close the descriptor."""
        if self._mem >= 0:
            os.close(self._mem)
            self._mem = -1

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the task's memory; a short read is an error."""
        data = os.pread(self.mem, size, address)
        if len(data) != size:
            raise PycriuError(f"task {self.tid}: only {len(data)} of {size} bytes at {address:#x} can be read")
        return data

    def write(self, address: int, data: bytes) -> None:
        """All of `data` into the task's memory."""
        if os.pwrite(self.mem, data, address) != len(data):
            raise PycriuError(f"task {self.tid}: {len(data)} bytes cannot be written at {address:#x}")

    def registers(self) -> Registers:
        """The general registers; Unsupported where those of another kind of CPU are in use."""
        data = ptrace.get_regset(self.tid, ptrace.NT_PRSTATUS, self.arch.gpr.size)
        if len(data) != self.arch.gpr.size:
            raise Unsupported(f"task {self.tid} runs code of 32 bits, which cannot be saved")
        return list(self.arch.gpr.unpack(data))

    def set_registers(self, gpr: Registers) -> None:
        """Set the general registers."""
        ptrace.set_regset(self.tid, ptrace.NT_PRSTATUS, self.arch.gpr.pack(*gpr))

    @property
    def gate(self) -> int:
        """Address of a system call instruction in the task, found in its vDSO; Unsupported where it has none."""
        if not self._gate:
            self._gate = self._find_gate()
        return self._gate

    @gate.setter
    def gate(self, address: int) -> None:
        self._gate = address

    def _find_gate(self) -> int:
        for mapping in procfs.parse_smaps(procfs.text(self.tid, "maps")):
            if mapping.name == "[vdso]":
                return mapping.start + find_syscall(self.arch, self.read(mapping.start, mapping.end - mapping.start))
        raise Unsupported(
            f"task {self.tid} has no vDSO, so no system call instruction is known in it", "boot without vdso=0"
        )

    def step_call(self, gpr: Registers, name: str, *args: int, what: str = "") -> int:
        """One system call, stepped at the gate, on top of the registers `gpr`; KernelError has the task's errno."""
        self.set_registers(self.call_registers(gpr, self.gate, name, args))
        ptrace.step(self.tid)
        self.await_trap(ptrace.step)
        return check(self.result(), name, what or f"in task {self.tid}")

    def result(self) -> int:
        """What the last call returned, errors as negative numbers."""
        return signed(self.registers()[self.arch.result])

    def call_registers(self, gpr: Registers, pc: int, name: str, args: tuple[int, ...]) -> Registers:
        """`gpr` changed so that the call is made at `pc`."""
        out = list(gpr)
        self.arch.prepare_call(out)
        out[self.arch.nr] = self.arch.syscall_number(name)
        for register, value in zip(self.arch.args, args + (0,) * (6 - len(args)), strict=True):
            out[register] = value & MASK64
        out[self.arch.pc] = pc
        return out

    def await_trap(self, resume: Resume = ptrace.cont) -> None:
        """Wait for the trap that ends a step or a table."""
        status = self.next_stop(resume)
        while status >> 16 == ptrace.EVENT_CLONE:  # it has made a thread, as it was told
            ptrace.cont(self.tid)
            status = self.next_stop(resume)
        self._insist(status, SIGTRAP, 0)

    def next_stop(self, resume: Resume) -> int:
        """Wait for the next stop that is for us, and return the wait status.

        SIGSTOP, which cannot be blocked, and SIGCONT, which shows as EVENT_STOP, go their way: they have their effect
        when the task is let go of.
        """
        while True:
            status = ptrace.wait(self.tid, self._others)
            if status >> 16 == ptrace.EVENT_STOP:
                resume(self.tid, 0)
            elif status >> 8 == SIGSTOP:
                resume(self.tid, SIGSTOP)
            else:
                return status

    def await_interrupt(self) -> None:
        """Wait for the stop of PTRACE_INTERRUPT, which shows the signal by which a process was stopped anyway."""
        while (status := ptrace.wait(self.tid, self._others)) >> 8 == SIGSTOP:
            ptrace.cont(self.tid, SIGSTOP)
        self._insist(status, os.WSTOPSIG(status), ptrace.EVENT_STOP)

    def to_syscall(self) -> None:
        """Go on to the beginning or the end of the next system call."""
        ptrace.to_syscall(self.tid)
        self._insist(self.next_stop(ptrace.to_syscall), ptrace.SYSCALL_STOP, 0)

    def _insist(self, status: int, signal: int, event: int) -> None:
        if (os.WSTOPSIG(status), status >> 16) != (signal, event):
            raise PycriuError(
                f"task {self.tid} stopped with {names.signal(os.WSTOPSIG(status))}, event {status >> 16}, "
                f"where {names.signal(signal)}, event {event} was due"
            )


def find_syscall(arch: Arch, code: bytes) -> int:
    """Offset of an aligned system call instruction in `code`; Unsupported where there is none."""
    at = code.find(arch.syscall_insn)
    while at >= 0 and at % arch.syscall_align:
        at = code.find(arch.syscall_insn, at + 1)
    if at < 0:
        raise Unsupported("the vDSO holds no system call instruction")
    return at


def check(result: int, name: str, what: str) -> int:
    """The result of a system call made by a task; an error becomes KernelError."""
    if -ERRNO_MAX <= result < 0:
        raise KernelError(name, -result, what)
    return result


class Remote:
    """A scope in which a stopped task makes calls for us; registers, mask and memory are as before when it ends.

    `at` asks for the scratch pages at that address. `home` makes the task find back by itself if we are killed; without
    it, it must not outlive us (PTRACE_O_EXITKILL). Data that calls need is put beside the table with `data`, room for
    what they return with `room`; both live until `reset` or the end of the scope.

    A thread works `inside` the scratch pages of another one of its process, whose scope lasts, and which has been
    `reset`: its data is gone.
    """

    def __init__(self, task: Tracee, at: int = 0, home: Home | None = None, inside: Remote | None = None) -> None:
        self.task = task
        self._at = at
        self._home = home
        self._inside = inside
        self._frame = 0
        self.scratch = 0
        self._data = bytearray()

    def __enter__(self) -> Remote:
        # Ctrl-C has to wait for these milliseconds: it must not come between a call and the note that it was made.
        self._our_mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _INTERRUPTS)
        try:
            return self._enter()
        except BaseException:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._our_mask)
            raise

    def _enter(self) -> Remote:
        if self._home is not None:
            # What leads home, and what cleans up, must be possible before anything is begun.
            self._judge(self._home.gate, Row("munmap", 0, SCRATCH_SIZE))
            self._judge(self._home.gate, Row("tkill", self.task.tid, self._home.signal))
            self._judge(self._home.restorer, Row("rt_sigreturn"))
        self.gpr = self.task.registers()
        self._mask = ptrace.get_sigmask(self.task.tid)
        if self._home is not None and self._home.at:
            self._put_frame(self._home, self._home.at)
        try:
            if self._inside is None:
                self._map()
            else:
                self._move_in(self._inside)
        except BaseException:
            self._restore()
            raise
        return self

    def _judge(self, address: int, row: Row) -> None:
        if self._home is not None and self._home.judge is not None:
            self._home.judge(row.name, row.args, address)

    def _put_frame(self, home: Home, at: int) -> None:
        self.task.write(at, home.make_frame(at))
        self._frame = at

    def _map(self) -> None:
        flags = MAP_PRIVATE_ANONYMOUS | (MAP_FIXED_NOREPLACE if self._at else 0)
        what = f"scratch pages in task {self.task.tid}"
        try:
            self.scratch = self._step("mmap", self._at, SCRATCH_SIZE, PROT_RWX, flags, _NO_FD, 0, what=what)
        except KernelError as error:
            if error.errno == ENOMEM:
                error.hint = "its limits (RLIMIT_AS, RLIMIT_DATA) leave it no room for these 128 KiB: see prlimit(1)"
            if error.errno != EACCES:
                raise
            self._map_apart(flags, what)
        arch = self.task.arch
        self.task.write(self.scratch, arch.table_loop + (arch.trap if self._home is None else arch.way_home))
        if self._home is not None and not self._frame:
            self._put_frame(self._home, self.scratch + _FRAME_AT)

    def _map_apart(self, flags: int, what: str) -> None:
        """Where nothing may be both written and executed (PR_SET_MDWE, SELinux): code in a page that only we write."""
        if PAGE_SIZE > _CODE_ROOM:
            raise Unsupported(
                f"task {self.task.tid} may not have memory that is both written and executed",
                "prctl(PR_SET_MDWE) or a security module forbids it; with pages larger than 4 KiB it cannot be saved",
            )
        self.scratch = self._step("mmap", self._at, SCRATCH_SIZE, PROT_RW, flags, _NO_FD, 0, what=what)
        if self._home is not None and not self._frame:
            self._put_frame(self._home, self.scratch + _FRAME_AT)
        fixed = MAP_PRIVATE_ANONYMOUS | MAP_FIXED
        self._step("mmap", self.scratch, _CODE_ROOM, PROT_RX, fixed, _NO_FD, 0, what=what)

    def _move_in(self, host: Remote) -> None:
        if (host._home is None) != (self._home is None):
            raise PycriuError(f"task {self.task.tid} has no way home where task {host.task.tid} has one, or vice versa")
        self.scratch = host.scratch
        if self._home is None:
            ptrace.set_sigmask(self.task.tid, ALL_SIGNALS)
        elif not self._frame:
            self._put_frame(self._home, self.scratch + _FRAME_AT)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if self._inside is None:
                self._step("munmap", self.scratch, SCRATCH_SIZE)
        except PycriuError:
            if error is None:  # a second error, which follows from the first, must not take its place
                raise
        finally:
            try:
                self._restore()
            except TraceeGone:
                if error is None:
                    raise
            finally:
                _signal.pthread_sigmask(_signal.SIG_SETMASK, self._our_mask)

    def _step(self, name: str, *args: int, what: str = "") -> int:
        """One call at a gate."""
        what = what or f"in task {self.task.tid}"
        if self._home is None:
            ptrace.set_sigmask(self.task.tid, ALL_SIGNALS)
            return self.task.step_call(self.gpr, name, *args, what=what)
        return check(self._step_home(self._home, name, args), name, what)

    def _step_home(self, home: Home, name: str, args: tuple[int, ...]) -> int:
        """One call at a gate from which the task gets home if we are killed.

        Registers first, then the mask: from the first moment on the frame brings both back. Stepping would be wrong: a
        task that loses its tracer at a SIGTRAP dies of it. It ends in a stop at which the kernel will look at the call
        that the task was in, when it has its own registers again.
        """
        task = self.task
        self._judge(home.gate, Row(name, *args))
        gpr = task.call_registers(self.gpr, home.gate, name, args)
        if self._frame:
            task.arch.go_home(gpr, home.restorer, self._frame)
        task.set_registers(gpr)
        ptrace.set_sigmask(task.tid, ALL_SIGNALS)
        for _ in ("begin", "end"):
            task.to_syscall()
        result = task.result()
        ptrace.interrupt(task.tid)
        ptrace.cont(task.tid)
        task.await_interrupt()
        return result

    def _restore(self) -> None:
        """Mask first, then registers: up to the last moment the frame would have brought both back."""
        ptrace.set_sigmask(self.task.tid, self._mask)
        self.task.set_registers(self.gpr)

    def data(self, content: bytes) -> int:
        """Put `content` into the scratch pages, 16-byte aligned; its address in the task."""
        address = self.scratch + _CODE_ROOM + _TABLE_ROOM + len(self._data)
        self._data += content + bytes(-len(content) % 16)
        if len(self._data) > _DATA_ROOM:
            raise PycriuError("a table of remote calls has more data than the scratch pages have room for")
        return address

    def room(self, size: int) -> int:
        """Zeroed room for `size` bytes of result."""
        return self.data(bytes(size))

    def unused_page(self) -> int:
        """The address of a page of the scratch that nobody has touched, unless there is very much data."""
        return (self.scratch + _FRAME_AT - _FRAME_ROOM) & ~0xFFF

    def reset(self) -> None:
        """Forget the data put so far."""
        self._data.clear()

    @property
    def space(self) -> int:
        """Bytes of data that still fit."""
        return _DATA_ROOM - len(self._data)

    def call(self, name: str, *args: int, what: str = "") -> int:
        """One call through the table."""
        return self.calls([Row(name, *args, what=what)])[0]

    def calls(self, rows: list[Row]) -> list[int]:
        """Run `rows` in order; their results. KernelError for the first that fails: those after it have not run."""
        if self._data:
            self.task.write(self.scratch + _CODE_ROOM + _TABLE_ROOM, bytes(self._data))
        results: list[int] = []
        for start in range(0, len(rows), _ROWS_MAX):
            results += self._run(rows[start : start + _ROWS_MAX])
        return results

    def _run(self, rows: list[Row]) -> list[int]:
        arch, table = self.task.arch, bytearray()
        for row in rows:
            self._judge(self.scratch, row)
            words = [word & MASK64 for word in row.args]
            table += _WORDS.pack(arch.syscall_number(row.name), *words, *_NOTHING[len(words) :], _NOT_RUN)
        address = self.scratch + _CODE_ROOM
        self.task.write(address, bytes(table))
        gpr = list(self.gpr)
        arch.prepare_call(gpr)
        gpr[arch.pc] = self.scratch
        gpr[arch.table_registers[0]], gpr[arch.table_registers[1]] = address, len(rows)
        if self._home is None:
            self.task.set_registers(gpr)
            ptrace.cont(self.task.tid)
            self.task.await_trap()
        else:
            self._run_home(self._home, gpr)
        done = self.task.read(address, len(table))
        results = [words[0] for words in _RESULT.iter_unpack(done)]
        for row, result in zip(rows, results, strict=True):
            check(result, row.name, row.what or f"in task {self.task.tid}")
            if result == _NOT_RUN:
                raise PycriuError(f"task {self.task.tid} did not run {row.name}: its table of calls was cut short")
        return results

    def _run_home(self, home: Home, gpr: Registers) -> None:
        """Run a table that ends with a signal to the task itself, and a frame that leads home if nobody sees that."""
        task, arch = self.task, self.task.arch
        gpr[arch.home_registers[0]], gpr[arch.home_registers[1]] = task.tid, home.signal
        gpr[arch.sp] = self._frame + arch.sigreturn_sp
        task.set_registers(gpr)
        ptrace.set_sigmask(task.tid, ALL_SIGNALS & ~(1 << home.signal - 1))
        while True:
            ptrace.cont(task.tid)
            signal = os.WSTOPSIG(task.next_stop(ptrace.cont))
            if signal != home.signal:
                raise PycriuError(
                    f"task {task.tid} stopped with {names.signal(signal)} in the middle of a table of calls"
                )
            # Not who sent it: where RLIMIT_SIGPENDING is used up, nobody knows.
            if task.registers()[arch.pc] >= self.scratch + len(arch.table_loop):
                return
            # Somebody else's signal of that number, which the task ignores: dropping it is what the kernel would do.
