# SPDX-License-Identifier: GPL-2.0-only
"""What pycriu asks of a kernel: each feature with its probe, its purpose, its symbols, and the release that brought it.

Names are CRIU's where CRIU has the feature. `required`: without it dump or restore of any tree fails. The others matter
to tasks that use the thing, or cost speed. Data only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pycriu.probes import descriptors as d
from pycriu.probes import memory as m
from pycriu.probes import tasks as t
from pycriu.probes.subject import Subject

CR = "CHECKPOINT_RESTORE"


@dataclass(frozen=True, slots=True)
class Feature:
    """One row."""

    name: str
    probe: Callable[[Subject], None]
    purpose: str  # what cannot be done without it
    symbols: tuple[str, ...] = ()  # all needed; `X=n` must be off; none: always there
    since: str = ""  # kernel release; empty: before 3.0
    architectures: tuple[str, ...] = ()  # that can have it; empty: all
    required: bool = True


def _extra(
    name: str,
    probe: Callable[[Subject], None],
    purpose: str,
    symbols: tuple[str, ...] = (),
    since: str = "",
    architectures: tuple[str, ...] = (),
) -> Feature:
    return Feature(name, probe, purpose, symbols, since, architectures, required=False)


FEATURES = (
    Feature("proc_children", t.children, "finding the tree", ("PROC_FS", "PROC_CHILDREN"), "3.5"),
    Feature("proc_sys", t.proc_sys, "reading the kernel's settings", ("PROC_SYSCTL",)),
    Feature("ptrace_seize", t.seize, "stopping tasks", (), "3.4"),
    Feature("ptrace_peeksiginfo", t.peek_siginfo, "saving pending signals", (), "3.10"),
    Feature("ptrace_getsigmask", t.get_sigmask, "saving signal masks", (), "3.11"),
    Feature("get_rseq_conf", t.rseq_configuration, "saving restartable sequences", ("RSEQ",), "5.13"),
    Feature("map_files", t.map_files, "opening mapped files", (), "3.3"),
    Feature("pagemap", m.pagemap, "telling which pages to save", ("PROC_PAGE_MONITOR",)),
    Feature("proc_mem", m.write_memory, "writing the memory of a restored task", (), "2.6.39"),
    Feature("kcmp", t.kcmp, "telling which open files tasks share", ("KCMP",), "3.5"),
    Feature("pidfd_open", t.pidfd_open, "borrowing descriptors", (), "5.3"),
    Feature("pidfd_getfd", t.pidfd_getfd, "borrowing descriptors", (), "5.6"),
    Feature("clone3_set_tid", t.clone3_set_tid, "restoring under the same PIDs", (), "5.5"),
    Feature("execveat_memfd", t.execveat_memfd, "starting an empty task", ("SHMEM", "TMPFS"), "3.19"),
    Feature("set_mm_map", m.set_mm_map, "restoring the layout of memory, command line and exe", (CR,), "3.18"),
    Feature("tid_address", t.tid_address, "saving the address that a thread clears on exit", (CR,), "3.5"),
    Feature("timer", t.interval_timer, "interval timers", ("POSIX_TIMERS",)),
    Feature("proc_timers", t.proc_timers, "saving POSIX timers", (CR, "POSIX_TIMERS"), "3.10"),
    Feature("futex", t.futex, "robust futex lists", ("FUTEX",)),
    Feature("set_ids", t.set_ids, "restoring user ids", ("MULTIUSER",)),
    Feature("madvise", m.madvise, "restoring advice on mappings", ("ADVISE_SYSCALLS",)),
    Feature("owner_uids", d.owner_uids, "saving who is signalled for a descriptor", (CR,), "3.6"),
    Feature("eventfd", d.eventfd, "eventfd descriptors", ("EVENTFD",), "3.8"),
    Feature("epoll", d.epoll, "epoll descriptors", ("EPOLL",), "3.8"),
    Feature("signalfd", d.signalfd, "signalfd descriptors", ("SIGNALFD",), "3.8"),
    Feature("timerfd", d.timerfd, "timerfd descriptors", ("TIMERFD",), "3.17"),
    Feature("timerfd_ticks", d.timerfd_ticks, "timerfd descriptors that have expired", ("TIMERFD", CR), "3.17"),
    Feature("file_lock", d.file_lock, "file locks", ("FILE_LOCKING",)),
    Feature("file_handle", d.file_handle, "deleted files and watches", ("FHANDLE",), "2.6.39"),
    Feature("ptmx", d.pseudo_terminal, "terminals", ("TTY", "UNIX98_PTYS")),
    Feature("system_v", d.system_v, "System V shared memory, messages, semaphores", ("SYSVIPC",)),
    Feature("unix_socket", d.unix_socket, "UNIX sockets", ("NET", "UNIX")),
    Feature("inet_socket", d.inet_socket, "internet sockets", ("NET", "INET")),
    Feature("ns_uts", partial(t.namespace, "uts"), "comparing UTS namespaces", ("NAMESPACES", "UTS_NS"), "3.0"),
    Feature("ns_ipc", partial(t.namespace, "ipc"), "comparing IPC namespaces", ("NAMESPACES", "IPC_NS"), "3.0"),
    Feature("ns_pid", partial(t.namespace, "pid"), "comparing PID namespaces", ("NAMESPACES", "PID_NS"), "3.8"),
    Feature("ns_net", partial(t.namespace, "net"), "comparing network namespaces", ("NAMESPACES", "NET_NS"), "3.0"),
    Feature("cap_sys_ptrace", partial(t.capability, 19), "tracing tasks of others"),
    Feature("cap_sys_admin", partial(t.capability, 21), "asking for PIDs, map_files, namespaces"),
    _extra("cap_checkpoint_restore", partial(t.capability, 40), "all of that without CAP_SYS_ADMIN", (), "5.9"),
    _extra("cap_sys_resource", partial(t.capability, 24), "limits above the present hard limit, old mm fields"),
    _extra("cap_net_admin", partial(t.capability, 12), "network devices, TCP connections"),
    _extra("ptrace_listen", t.listen, "tasks stopped by SIGSTOP", (), "3.4"),
    _extra("ptrace_syscall_info", t.syscall_info, "telling in which call a task is", (), "5.3"),
    _extra("seccomp_suspend", t.suspend_seccomp, "tasks under seccomp", (CR, "SECCOMP", "SECCOMP_FILTER"), "4.3"),
    _extra("seccomp_filters", t.seccomp_filters, "seccomp filters", (CR, "SECCOMP_FILTER"), "4.4"),
    _extra("process_vm_readv", m.read_memory, "fast reading of memory", ("CROSS_MEMORY_ATTACH",), "3.2"),
    _extra("proc_mem_force", m.write_read_only_memory, "fast writing of memory", ("PROC_MEM_NO_FORCE=n",)),
    _extra("pagemap_scan", m.pagemap_scan, "fast finding of pages", ("PROC_PAGE_MONITOR",), "6.7"),
    _extra("mem_dirty_track", m.soft_dirty, "--track-mem by soft-dirty", ("MEM_SOFT_DIRTY",), "3.11", ("x86_64",)),
    _extra("uffd", m.userfaultfd, "lazy restore, tracking by write protection", ("USERFAULTFD",), "4.3"),
    _extra("memfd_hugetlb", m.memfd_hugetlb, "huge-page mappings", ("HUGETLBFS",), "4.14"),
    _extra("membarrier", t.membarrier, "membarrier registrations", ("MEMBARRIER",), "4.3"),
    _extra("inotify", d.inotify, "inotify watches", ("INOTIFY_USER", "FHANDLE"), "3.8"),
    _extra("inotify_numbers", d.inotify_numbers, "inotify watches under their numbers", ("INOTIFY_USER", CR), "4.17"),
    _extra("fanotify", d.fanotify, "fanotify marks", ("FANOTIFY", "FHANDLE"), "3.8"),
    _extra("kcmp_epoll", d.kcmp_epoll, "epoll sets", ("KCMP", "EPOLL"), "4.13"),
    _extra("tun", d.tun, "tun and tap devices", ("NETDEVICES", "NET_CORE", "TUN")),
    _extra("tcp_repair", d.tcp_repair, "TCP connections", ("INET",), "3.5"),
    _extra("unix_diag", d.unix_diag, "connected UNIX sockets", ("UNIX_DIAG",), "3.3"),
    _extra("inet_diag", partial(d.inet_diag, 6), "TCP sockets", ("INET_DIAG",), "3.3"),
    _extra("inet_udp_diag", partial(d.inet_diag, 17), "UDP sockets", ("INET_UDP_DIAG",), "3.3"),
    _extra("net_diag_raw", partial(d.inet_diag, 255), "raw sockets", ("INET_RAW_DIAG",), "4.10"),
    _extra("packet_diag", d.packet_diag, "packet sockets", ("PACKET", "PACKET_DIAG"), "3.7"),
    _extra("netlink_diag", d.netlink_diag, "netlink sockets", ("NETLINK_DIAG",), "3.10"),
    _extra("ns_user", partial(t.namespace, "user"), "user namespaces", ("USER_NS",), "3.8"),
    _extra("timens", partial(t.namespace, "time"), "time namespaces", ("TIME_NS",), "5.6"),
    _extra("cgroup", t.cgroup, "control groups", ("CGROUPS",)),
)
