# SPDX-License-Identifier: GPL-2.0-only
"""Threads: ids, names, registers (all vectors), TLS, signal mask and private queue, alternate stack, credentials, nice
value, death signal, robust locks, membarrier(2); each goes on in the call it was in, and can be joined.

Missing: descriptor tables, directories, namespaces that a thread has for itself; a process without its first thread
"""

import ctypes
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator

import victim
import victim_code

libc = ctypes.CDLL(None, use_errno=True)
libm = ctypes.CDLL("libm.so.6")
libc.pthread_self.restype = ctypes.c_ulong
libc.pthread_sigqueue.argtypes = [ctypes.c_ulong, ctypes.c_int, ctypes.c_void_p]

X86 = victim_code.MACHINE == "x86_64"
SETRESUID, MEMBARRIER = (117, 324) if X86 else (147, 283)
REGISTER_PRIVATE_EXPEDITED, GET_REGISTRATIONS = 1 << 4, 1 << 9
ROUNDINGS = (0, 0x400, 0x800, 0xC00) if X86 else (0, 0x400000, 0x800000, 0xC00000)
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_NAME = 1, 2, 15
PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 27, 28, 24, 38
SECBIT_NO_SETUID_FIXUP, CAP_MKNOD = 1 << 2, 27
# Death signals that do nothing: a restore with -d ends, and it is the parent.
QUIET = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
NAP = 0.7  # seconds
STATUS = ("Name", "Pid", "Uid", "Gid", "SigBlk", "SigPnd", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
over = threading.Event()
local = threading.local()


class Worker(threading.Thread):
    """One thread: sets itself apart, does its `work` until it is called, and compares."""

    def __init__(self, number: int, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.number, self.work, self.problem = number, work, ""
        self.settled = threading.Event()

    def run(self) -> None:
        try:
            before = self.set_apart()
            self.settled.set()
            self.work()
            for now, then in zip(self.portrait(), before, strict=True):
                victim.equal(now, then, f"thread {self.number}")
            victim.equal(self.queued(), self.number, f"thread {self.number}: the value of its pending signal")
        except (victim.Failed, OSError) as error:
            self.problem = str(error) or repr(error)
        finally:
            self.settled.set()

    def set_apart(self) -> list[object]:
        """Everything that a thread can have for itself, different in each."""
        number = self.number
        libc.prctl(PR_SET_NAME, b"worker \xc3\xa4 %d" % number, 0, 0, 0)
        own = {signal.SIGRTMIN + number, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_SETMASK, own)
        self.stack = ctypes.create_string_buffer(16384 + 4096 * number)
        new = struct.pack("=QiiQ", ctypes.addressof(self.stack), 0, 0, len(self.stack))
        victim.equal(libc.sigaltstack(new, None), 0, "sigaltstack")
        libm.fesetround(ROUNDINGS[number % 4])
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), number)
        libc.prctl(PR_SET_PDEATHSIG, QUIET[number % 3], 0, 0, 0)
        libc.pthread_sigqueue(libc.pthread_self(), signal.SIGRTMIN + number, number)
        local.value = f"local {number}"
        self.change_credentials(number)
        return self.portrait()

    def change_credentials(self, number: int) -> None:
        """By system calls: the C library would change those of all threads."""
        if number == 1:
            victim.equal(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0, "no_new_privs")
        if number == 2:
            victim.equal(libc.prctl(PR_CAPBSET_DROP, CAP_MKNOD, 0, 0, 0), 0, "a dropped capability")
            libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        if number == 3:
            victim.equal(libc.syscall(SETRESUID, 1003, 1004, 1005), 0, "setresuid")
            libc.prctl(PR_SET_PDEATHSIG, QUIET[number % 3], 0, 0, 0)  # which the change has reset

    def portrait(self) -> list[object]:
        """What the thread can see of itself."""
        stack = ctypes.create_string_buffer(24)
        libc.sigaltstack(None, stack)
        death = ctypes.c_int(-1)
        libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(death), 0, 0, 0)
        tid = libc.gettid()
        return [
            victim.status_lines(*STATUS, pid=f"self/task/{tid}"),
            ("alternate stack", struct.unpack("=QiiQ", stack.raw)),
            ("rounding", libm.fegetround()),
            ("nice", os.getpriority(os.PRIO_PROCESS, tid)),
            ("death signal", death.value),
            ("securebits", libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)),
            ("local", local.value),
            ("self", libc.pthread_self()),
        ]

    def queued(self) -> int:
        """The value that came with the thread's own pending signal."""
        wanted = struct.pack("=Q", 1 << signal.SIGRTMIN + self.number - 1) + bytes(120)
        info = ctypes.create_string_buffer(128)
        found = libc.sigtimedwait(wanted, info, struct.pack("=qq", 0, 0))
        victim.equal(found, signal.SIGRTMIN + self.number, f"thread {self.number}: its pending signal")
        return int(struct.unpack_from("=Q", info.raw, 24)[0])


def scenario() -> Iterator[victim.Damage]:
    victim.equal(os.geteuid(), 0, "the victim's user")
    lock = threading.Lock()
    lock.acquire()
    reads, polls = os.pipe(), os.pipe()
    cond, flag, robust = Cond(), ctypes.c_int(0), Robust()
    widest = victim_code.vector_bits()
    across_calls = "neon" if widest == "sve" else widest
    works: list[Callable[[], None]] = [
        lambda: none(lock.acquire()),
        lambda: vectors(across_calls, "read", reads[0], ctypes.c_int(0)),
        naps,
        lambda: victim.equal(poll(polls[0]), 1, "poll"),
        cond.wait,
        lambda: vectors(widest, "spin", 0, flag),
        robust.hold,
        lambda: none(over.wait()),
    ]
    libc.syscall(MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0, 0)
    registered = libc.syscall(MEMBARRIER, GET_REGISTRATIONS, 0, 0)  # an error before Linux 6.3
    workers = [Worker(number, work) for number, work in enumerate(works)]
    for worker in workers:
        worker.start()
        worker.settled.wait()
    tids = [worker.native_id for worker in workers]
    time.sleep(0.05)  # until they are in their calls, where dumps should find them; nothing depends on it
    yield lambda: rename(tids[4])
    victim.equal(sorted(map(int, os.listdir("/proc/self/task"))), sorted([os.getpid(), *tids]), "threads")  # type: ignore[list-item]
    victim.equal(libc.syscall(MEMBARRIER, GET_REGISTRATIONS, 0, 0), registered, "what membarrier is registered for")
    flag.value = 1
    over.set()
    lock.release()
    cond.wake()
    os.write(reads[1], b"x")
    os.write(polls[1], b"x")
    for worker in workers:
        worker.join(60)
        victim.check(not worker.is_alive(), f"thread {worker.number} does not end")
        victim.check(not worker.problem, worker.problem)
    victim.equal(robust.lock(), Robust.OWNER_DIED, "a robust lock whose holder ended")
    another = threading.Thread(target=over.wait)
    another.start()
    another.join()


def none(_: object) -> None:
    """Forget a result."""


def rename(tid: int | None) -> None:
    with open(f"/proc/self/task/{tid}/comm", "w") as comm:
        comm.write("spoilt")


def naps() -> None:
    """Relative sleeps, none of which may be short, or interrupted."""
    request = struct.pack("=qq", 0, int(NAP * 1e9))
    while not over.is_set():
        begin = time.monotonic()
        victim.equal(libc.nanosleep(request, None), 0, "nanosleep")
        passed = time.monotonic() - begin
        victim.check(passed > NAP - 0.001, f"nanosleep of {NAP} s returned after {passed}")


def poll(fd: int) -> int:
    """poll(2) without limit, by C's function: Python's would repeat it."""
    return int(libc.poll(struct.pack("=ihh", fd, 1, 0), 1, -1))


def vectors(kind: str, middle: str, number: int, flag: ctypes.c_int) -> None:
    """Be in user mode or in a call with something in every vector register."""
    size = victim_code.vector_size(kind)
    # the same in no two registers; floating-point numbers that are no trap
    given = ctypes.create_string_buffer(b"".join(struct.pack("<HH", n, n ^ 0x3F80) for n in range(size // 4)), size)
    taken = ctypes.create_string_buffer(size)
    result = victim_code.holding(kind, middle)(given, taken, number, flag)
    victim.check(middle != "read" or result == 1, f"a read in machine code returned {result}")
    victim.equal(taken.raw, given.raw, f"the {kind} registers over a {middle}")


class Cond:
    """A pthread_cond_t with its mutex, and what is waited for."""

    def __init__(self) -> None:
        self.mutex, self.cond = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        self.woken = False

    def wait(self) -> None:
        libc.pthread_mutex_lock(self.mutex)
        while not self.woken:
            victim.equal(libc.pthread_cond_wait(self.cond, self.mutex), 0, "pthread_cond_wait")
        libc.pthread_mutex_unlock(self.mutex)

    def wake(self) -> None:
        libc.pthread_mutex_lock(self.mutex)
        self.woken = True
        libc.pthread_cond_broadcast(self.cond)
        libc.pthread_mutex_unlock(self.mutex)


class Robust:
    """A lock of which the kernel says when its holder has ended: it walks the thread's robust list."""

    OWNER_DIED = 130  # EOWNERDEAD

    def __init__(self) -> None:
        self.mutex, attributes = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        libc.pthread_mutexattr_init(attributes)
        libc.pthread_mutexattr_setrobust(attributes, 1)
        libc.pthread_mutex_init(self.mutex, attributes)

    def hold(self) -> None:
        victim.equal(self.lock(), 0, "the first to take a robust lock")
        over.wait()

    def lock(self) -> int:
        return int(libc.pthread_mutex_lock(self.mutex))


victim.play(scenario)
