# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns tasks: ptrace, /proc, PIDs, descriptors of others, timers, ids, namespaces."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

from pycriu.errors import KernelError
from pycriu.kernel import libc, procfs, ptrace
from pycriu.probes.subject import CLONE_NEWCGROUP, CLONE_NEWUSER, Absent, Subject, apart, called, in_child, prctl, start
from pycriu.resources import posix_timers

PTRACE_GET_SYSCALL_INFO, PTRACE_SECCOMP_GET_FILTER = 0x420E, 0x420C
PTRACE_O_SUSPEND_SECCOMP = 1 << 21
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS = 22, 38, 40
SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, BPF_RET = 2, 0x7FFF0000, 6
MEMBARRIER_CMD_QUERY = 0
PTRACE_POKEUSER, PTRACE_GETREGSET = 6, 0x4204
NT_HW_BREAK = 0x402  # NT_ARM_HW_BREAK
USER_DEBUG_REGISTERS = 848  # offsetof(struct user, u_debugreg), where there is no such set


def seize(subject: Subject) -> None:
    """PTRACE_SEIZE, PTRACE_INTERRUPT, and a stop."""
    _read(f"/proc/{subject.pid}/stat")


def listen(_subject: Subject) -> None:
    """A task stopped by SIGSTOP stays so under PTRACE_LISTEN and tells when it goes on."""
    with Subject() as own:
        ptrace.cont(own.pid)
        os.kill(own.pid, signal.SIGSTOP)
        ptrace.wait(own.pid)  # the signal
        ptrace.cont(own.pid, signal.SIGSTOP)
        ptrace.wait(own.pid)  # the group stop
        called("ptrace", ptrace.LISTEN, own.pid, None, None)
        os.kill(own.pid, signal.SIGCONT)
        ptrace.wait(own.pid)


def peek_siginfo(subject: Subject) -> None:
    """PTRACE_PEEKSIGINFO on an empty queue."""
    ptrace.peek_siginfo(subject.pid, shared=True)


def get_sigmask(subject: Subject) -> None:
    """PTRACE_GETSIGMASK."""
    ptrace.get_sigmask(subject.pid)


def syscall_info(subject: Subject) -> None:
    """PTRACE_GET_SYSCALL_INFO."""
    buffer = ctypes.create_string_buffer(128)
    called("ptrace", PTRACE_GET_SYSCALL_INFO, subject.pid, 128, buffer)


def rseq_configuration(subject: Subject) -> None:
    """PTRACE_GET_RSEQ_CONFIGURATION."""
    ptrace.get_rseq(subject.pid)


def suspend_seccomp(subject: Subject) -> None:
    """PTRACE_O_SUSPEND_SECCOMP."""
    ptrace.set_options(subject.pid, PTRACE_O_SUSPEND_SECCOMP)
    ptrace.set_options(subject.pid, 0)


def seccomp_filters(_subject: Subject) -> None:
    """PTRACE_SECCOMP_GET_FILTER finds the filter that a child has put on itself."""
    reader, writer = os.pipe()

    def wait_under_a_filter() -> None:
        allow = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, SECCOMP_RET_ALLOW))
        program = ctypes.create_string_buffer(struct.pack("HP", 1, ctypes.addressof(allow)))
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))
        os.write(writer, b"!")
        signal.pause()

    pid = start(wait_under_a_filter)
    try:
        os.close(writer)
        if not os.read(reader, 1):
            raise Absent("a process cannot put a filter on itself")
        ptrace.seize(pid)
        ptrace.interrupt(pid)
        ptrace.wait(pid)
        called("ptrace", PTRACE_SECCOMP_GET_FILTER, pid, 0, None)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, ptrace.WALL)


def children(_subject: Subject) -> None:
    """/proc/PID/task/TID/children."""
    _read(f"/proc/self/task/{os.getpid()}/children")


def map_files(_subject: Subject) -> None:
    """A mapped file opened by its mapping."""
    ranges = os.listdir("/proc/self/map_files")
    if not ranges:
        raise Absent("/proc/self/map_files is empty")
    os.close(os.open(f"/proc/self/map_files/{ranges[0]}", os.O_RDONLY))


def kcmp(_subject: Subject) -> None:
    """kcmp(2) says that a duplicate of a descriptor is the same open file."""
    with open("/proc/self/status", "rb", buffering=0) as file:
        copy = os.dup(file.fileno())
        try:
            if libc.kcmp(os.getpid(), os.getpid(), libc.KCMP_FILE, file.fileno(), copy) != 0:
                raise Absent("kcmp says that a descriptor and its duplicate differ")
        finally:
            os.close(copy)


def pidfd_open(_subject: Subject) -> None:
    """pidfd_open(2)."""
    os.close(os.pidfd_open(os.getpid()))


def pidfd_getfd(subject: Subject) -> None:
    """pidfd_getfd(2) of a descriptor of the child."""
    mine = os.open("/", os.O_RDONLY)
    try:
        with Subject() as own:
            pidfd = os.pidfd_open(own.pid)
            try:
                os.close(libc.pidfd_getfd(pidfd, mine))
            finally:
                os.close(pidfd)
    finally:
        os.close(mine)


def clone3_set_tid(_subject: Subject) -> None:
    """clone3(2) makes a process with the PID that was asked for: one that has just become free."""
    for attempt in range(3):
        free = start(lambda: None)
        os.waitpid(free, 0)
        try:
            if libc.clone3_set_tid(free, flags=0, exit_signal=signal.SIGCHLD) == 0:
                os._exit(0)
        except KernelError as error:
            if error.errno == errno.EEXIST and attempt < 2:  # somebody else took it in between
                continue
            raise
        os.waitpid(free, 0)
        return


def execveat_memfd(_subject: Subject) -> None:
    """execveat(2) tries to run what is in a memfd, and finds that it is no program."""

    def attempt() -> None:
        fd = os.memfd_create("probe", os.MFD_CLOEXEC)
        os.write(fd, b"no program")
        libc.execveat(fd, b"probe")

    try:
        in_child(attempt, "execveat")
    except KernelError as error:
        if error.errno != errno.ENOEXEC:
            raise


def tid_address(_subject: Subject) -> None:
    """prctl(PR_GET_TID_ADDRESS)."""
    address = ctypes.c_uint64(0)
    prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address))


def proc_timers(_subject: Subject) -> None:
    """/proc/PID/timers."""
    _read("/proc/self/timers")


def proc_sys(_subject: Subject) -> None:
    """/proc/sys."""
    os.listdir("/proc/sys/kernel")


def interval_timer(_subject: Subject) -> None:
    """getitimer(2)."""
    signal.getitimer(signal.ITIMER_REAL)


def futex(_subject: Subject) -> None:
    """futex(2), and get_robust_list(2) of another task."""
    word = ctypes.c_uint32(0)
    libc.call("futex", ctypes.addressof(word), 1, 1)  # FUTEX_WAKE: nobody waits
    libc.get_robust_list(os.getpid())


def set_ids(_subject: Subject) -> None:
    """setresuid(2), changing nothing."""
    os.setresuid(-1, -1, -1)


def membarrier(_subject: Subject) -> None:
    """membarrier(2)."""
    libc.call("membarrier", MEMBARRIER_CMD_QUERY)


def namespace(name: str, _subject: Subject) -> None:
    """The namespace's file in /proc/PID/ns."""
    os.stat(f"/proc/self/ns/{name}")


def user_namespace(_subject: Subject) -> None:
    """A child makes a user namespace and says who is who in it."""
    ours = os.getuid()

    def work() -> None:
        with open("/proc/self/uid_map", "w") as file:
            file.write(f"0 {ours} 1")

    apart(CLONE_NEWUSER, work, "uid_map")


def cgroup_namespace(_subject: Subject) -> None:
    """A child makes a cgroup namespace."""
    apart(CLONE_NEWCGROUP, lambda: None, "unshare")


def login_uid(_subject: Subject) -> None:
    """/proc/PID/loginuid is read, and written by a child that keeps what it has."""

    def work() -> None:
        with open("/proc/self/loginuid", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), file.read(), 0)

    in_child(work, "/proc/PID/loginuid")


def apparmor(_subject: Subject) -> None:
    """AppArmor stacks profiles."""
    path = "/sys/kernel/security/apparmor/features/domain/stack"
    if _read(path).strip() != b"yes":
        raise Absent(f"{path} does not say yes")


def external_network(_subject: Subject) -> None:
    """No kernel is asked: `--external net[…]` is for programs that keep network namespaces."""
    raise Absent("pycriu refuses tasks in network namespaces of their own")


def timer_ids(_subject: Subject) -> None:
    """PR_TIMER_CREATE_RESTORE_IDS: the id of a timer can be chosen."""
    if not posix_timers.ids_can_be_asked_for():
        raise Absent("prctl(PR_TIMER_CREATE_RESTORE_IDS): Invalid argument")


def queue_signal(_subject: Subject) -> None:
    """rt_sigqueueinfo(2) of a signal as if the kernel had sent it, by a child to itself."""

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        info = ctypes.create_string_buffer(struct.pack("=iii", signal.SIGUSR1, 0, 1), 128)
        libc.call("rt_sigqueueinfo", os.getpid(), signal.SIGUSR1, ctypes.addressof(info))

    in_child(work, "rt_sigqueueinfo")


def breakpoints(subject: Subject) -> None:
    """The debug registers of a tracee are written: by a set of registers of their own, or in struct user."""
    try:
        room = ctypes.create_string_buffer(0x200)
        iovec = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(room), len(room)))
        called("ptrace", PTRACE_GETREGSET, subject.pid, NT_HW_BREAK, iovec)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        called("ptrace", PTRACE_POKEUSER, subject.pid, USER_DEBUG_REGISTERS, None)


def cgroup(_subject: Subject) -> None:
    """/proc/PID/cgroup."""
    _read("/proc/self/cgroup")


def capability(number: int, _subject: Subject) -> None:
    """An effective capability."""
    effective = int(procfs.parse_status(procfs.text("self", "status"))["CapEff"], 16)
    if not effective >> number & 1:
        raise Absent("not among the effective capabilities of this process")


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
