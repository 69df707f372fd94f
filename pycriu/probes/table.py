# SPDX-License-Identifier: GPL-2.0-only
"""What pycriu asks of a kernel: each feature with its probe, its purpose, its symbols, and the release that brought it.

Names are CRIU's where CRIU has the feature, and every name of CRIU 4.2 is here. Data only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pycriu.probes import descriptors as d
from pycriu.probes import memory as m
from pycriu.probes import mounts
from pycriu.probes import network as n
from pycriu.probes import tasks as t
from pycriu.probes.subject import Subject

CR = "CHECKPOINT_RESTORE"

# How much a feature matters.
REQUIRED = "required"  # without it dump or restore of any tree fails
EXTRA = "extra"  # matters to tasks that use the thing, or costs speed
EXPERIMENTAL = "experimental"  # probed when asked for, as by CRIU
NAMED = "named"  # probed by name only: pycriu has no use for what CRIU has there, or a driver has to have it
# Symbols of what only CRIU uses, or only the tests: they are in the fragment `check`, not in those of feature/criu.
BESIDE = frozenset((
    "ANON_VMA_NAME", "AUDIT", "AUTOFS_FS", "IA32_EMULATION", "IPV6", "OVERLAY_FS", "PERF_EVENTS", "PTE_MARKER_UFFD_WP",
    "SECURITY_APPARMOR",
))  # fmt: skip
WEIGHTS = (REQUIRED, EXTRA, EXPERIMENTAL, NAMED)


@dataclass(frozen=True, slots=True)
class Feature:
    """One row."""

    name: str
    probe: Callable[[Subject], None]
    purpose: str  # what cannot be done without it
    symbols: tuple[str, ...] = ()  # all needed; `X=n` must be off; none: always there
    since: str = ""  # kernel release; empty: before 3.0
    architectures: tuple[str, ...] = ()  # that can have it; empty: all
    weight: str = REQUIRED


def _extra(
    name: str,
    probe: Callable[[Subject], None],
    purpose: str,
    symbols: tuple[str, ...] = (),
    since: str = "",
    architectures: tuple[str, ...] = (),
) -> Feature:
    return Feature(name, probe, purpose, symbols, since, architectures, EXTRA)


_SOFT_DIRTY = ("x86_64", "s390x", "ppc64le", "ppc64")
_WRITE_PROTECT = ("x86_64", "aarch64")
_TIME_NAMESPACES = ("x86_64", "aarch64", "riscv64", "s390x", "ppc64le", "ppc64", "loongarch64")
_MAP_VDSO = ("x86_64", "i686")


def _named(
    name: str, probe: Callable[[Subject], None], purpose: str, symbols: tuple[str, ...] = (), since: str = ""
) -> Feature:
    return Feature(name, probe, f"CRIU: {purpose}", symbols, since, (), NAMED)


_NFTABLES = ("NETFILTER", "NF_TABLES", "NF_TABLES_INET")

_MARKERS = ("USERFAULTFD", "PTE_MARKER_UFFD_WP")

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
    Feature("sigqueueinfo", t.queue_signal, "restoring pending signals", (), "3.9"),
    Feature("vdso_remap", m.move_vdso, "moving the vDSO of a new task to where it was", (), "4.8"),
    Feature("mnt_id", d.mount_in_fdinfo, "telling the mount of an open file", (), "3.15"),
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
    _extra("pagemap_scan_guard_pages", m.guard_pages, "guard pages", ("PROC_PAGE_MONITOR",), "6.15"),
    _extra("mem_dirty_track", m.soft_dirty, "tracking by soft-dirty", ("MEM_SOFT_DIRTY",), "3.11", _SOFT_DIRTY),
    _extra("uffd", m.userfaultfd, "lazy restore, tracking by write protection", ("USERFAULTFD",), "4.3"),
    _extra("uffd-noncoop", m.userfaultfd_events, "lazy restore of tasks that unmap and fork", ("USERFAULTFD",), "4.11"),
    _extra("uffd_wp_async", m.write_tracking, "tracking by write protection", _MARKERS, "6.7", _WRITE_PROTECT),
    _extra("anon_vma_name", m.name_mapping, "names of mappings", ("ANON_VMA_NAME",), "5.17"),
    _extra("aio_remap", m.move_ring, "rings of asynchronous I/O", ("AIO",), "3.19"),
    _extra("memfd_hugetlb", m.memfd_hugetlb, "huge-page mappings", ("HUGETLBFS",), "4.14"),
    _extra("membarrier", t.membarrier, "membarrier registrations", ("MEMBARRIER",), "4.3"),
    _extra("timer_cr_ids", t.timer_ids, "POSIX timers with large ids, at once", ("POSIX_TIMERS",), "6.15"),
    _extra("fdinfo_lock", d.lock_in_fdinfo, "telling who holds a file lock", ("FILE_LOCKING",), "4.1"),
    _extra("ipc_next_id", d.next_ids, "System V segments under their ids", ("SYSVIPC", CR), "3.8"),
    _extra("inotify", d.inotify, "inotify watches", ("INOTIFY_USER", "FHANDLE"), "3.8"),
    _extra("inotify_numbers", d.inotify_numbers, "inotify watches under their numbers", ("INOTIFY_USER", CR), "4.17"),
    _extra("fanotify", d.fanotify, "fanotify marks", ("FANOTIFY", "FHANDLE"), "3.8"),
    _extra("kcmp_epoll", d.kcmp_epoll, "epoll sets", ("KCMP", "EPOLL"), "4.13"),
    _extra("tun", d.tun, "tun and tap devices", ("NETDEVICES", "NET_CORE", "TUN")),
    _extra("tcp_half_closed", n.half_closed, "TCP connections of which one side is finished", ("INET",), "4.10"),
    _extra("tcp_window", n.window, "the windows of TCP connections", ("INET",), "4.8"),
    _extra("network_lock_nftables", n.lock_by_nftables, "holding TCP connections", _NFTABLES, "5.6"),
    _extra("sock_peek_off", n.peek_offset, "messages in flight in sockets", ("UNIX",), "3.4"),
    _extra("so_get_filter", n.options_readable, "filters and devices of sockets", ("NET",), "3.8"),
    _extra("sockopt_buf_lock", n.buffer_lock, "buffers of sockets that have been set", ("NET",), "5.14"),
    _extra("sk_unix_file", n.file_of_unix_socket, "UNIX sockets whose file has moved", ("UNIX",), "4.11"),
    _extra("sk_ns", n.namespace_of_socket, "telling the network namespace of a socket", ("NET_NS",), "4.10"),
    _extra("tcp_repair", d.tcp_repair, "TCP connections", ("INET",), "3.5"),
    _extra("unix_diag", d.unix_diag, "connected UNIX sockets", ("UNIX_DIAG",), "3.3"),
    _extra("inet_diag", partial(d.inet_diag, 6), "TCP sockets", ("INET_DIAG",), "3.3"),
    _extra("inet_udp_diag", partial(d.inet_diag, 17), "UDP sockets", ("INET_UDP_DIAG",), "3.3"),
    _extra("net_diag_raw", partial(d.inet_diag, 255), "raw sockets", ("INET_RAW_DIAG",), "4.10"),
    _extra("packet_diag", d.packet_diag, "packet sockets", ("PACKET", "PACKET_DIAG"), "3.7"),
    _extra("netlink_diag", d.netlink_diag, "netlink sockets", ("NETLINK_DIAG",), "3.10"),
    _extra("userns", t.user_namespace, "user namespaces", ("USER_NS",), "3.8"),
    _extra("timens", partial(t.namespace, "time"), "time namespaces", ("TIME_NS",), "5.6", _TIME_NAMESPACES),
    _extra("cgroup", t.cgroup, "control groups", ("CGROUPS",)),
    _extra("cgroupns", t.cgroup_namespace, "cgroup namespaces", ("CGROUPS",), "4.6"),
    _extra("loginuid", t.login_uid, "the user id of a login", ("AUDIT",), "2.6.11"),
    _extra("pidfd_store", t.pidfd_getfd, "CRIU: whether a PID is still the same task's", (), "5.6"),
    _extra("openat2", d.openat2, "CRIU: opening files below a root", (), "5.6"),
    _extra("ipv6_freebind", n.ipv6_freebind, "CRIU: IPv6 addresses that are not there yet", ("IPV6",), "4.15"),
    _extra("newifindex", n.new_index, "CRIU: links that move to another namespace", ("NET_NS",), "5.13"),
    _extra("move_mount_set_group", mounts.set_group, "CRIU: shared mounts", (), "5.15"),
    _extra("overlayfs_maps", mounts.overlay_in_maps, "files mapped from an overlay", ("OVERLAY_FS",), "6.8"),
    _extra("can_map_vdso", partial(m.map_vdso, m.ARCH_MAP_VDSO_64), "CRIU: mapping a vDSO", (CR,), "4.9", _MAP_VDSO),
    Feature("autofs", mounts.autofs, "CRIU: automounts", ("AUTOFS_FS", CR), "4.6", (), EXPERIMENTAL),
    Feature(
        "compat_cr",
        partial(m.map_vdso, m.ARCH_MAP_VDSO_32),
        "CRIU: programs of 32 bits",
        ("IA32_EMULATION", CR),
        "4.9",
        _MAP_VDSO,
        EXPERIMENTAL,
    ),
    _named("tun_ns", n.namespace_of_tun, "the network namespace of a TUN device", ("TUN", "NET_NS"), "4.16"),
    _named("nsid", n.nsid, "numbers of network namespaces", ("NET_NS",), "4.0"),
    _named("link_nsid", n.link_nsid, "links of other network namespaces", ("NET_NS",), "4.15"),
    _named("external_net_ns", t.external_network, "trees whose network namespace stays outside"),
    _named("nftables", n.nftables_answers, "the rules of nf_tables", ("NF_TABLES",), "3.13"),
    _named("has_ipt_legacy", n.legacy_iptables, "a lock by the old iptables: pycriu speaks to nf_tables itself"),
    _named("apparmor_stacking", t.apparmor, "AppArmor's namespaces", ("SECURITY_APPARMOR",), "4.13"),
    _named("breakpoints", t.breakpoints, "stopping a restored task by a breakpoint", ("PERF_EVENTS",), "2.6.33"),
    Feature("cuda_checkpoint", d.cuda_checkpoint, "processes that use CUDA", weight=NAMED),
)
