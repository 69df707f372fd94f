# SPDX-License-Identifier: GPL-2.0-only
"""System call numbers: one table, from arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl.

Two numberings: x86_64's own, and the generic one that aarch64 and riscv64 share. None where a numbering lacks a call.
"""

from __future__ import annotations

#        name                x86_64 generic
TABLE: dict[str, tuple[int | None, int | None]] = {
    "brk": (12, 214),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_nanosleep": (230, 115),
    "clone3": (435, 435),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "execveat": (322, 281),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchdir": (81, 50),
    "fcntl": (72, 25),
    "futex": (202, 98),
    "get_mempolicy": (239, 236),
    "get_robust_list": (274, 100),
    "getitimer": (36, 102),
    "getpid": (39, 172),
    "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26),
    "ioctl": (16, 29),
    "ioprio_get": (252, 31),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mlock": (149, 228),
    "mlockall": (151, 230),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "open_by_handle_at": (304, 265),
    "openat": (257, 56),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "prctl": (157, 167),
    "preadv": (295, 69),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigqueueinfo": (129, 138),
    "rt_sigreturn": (15, 139),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_getattr": (315, 275),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "setfsgid": (123, 152),
    "setfsuid": (122, 151),
    "setgroups": (116, 159),
    "setitimer": (38, 103),
    "setpgid": (109, 154),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsid": (112, 157),
    "sigaltstack": (131, 132),
    "signalfd4": (289, 74),
    "sync_file_range": (277, 84),
    "tee": (276, 77),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "timer_delete": (226, 111),
    "timer_getoverrun": (225, 109),
    "timer_gettime": (224, 108),
    "timer_settime": (223, 110),
    "timerfd_create": (283, 85),
    "timerfd_gettime": (287, 87),
    "timerfd_settime": (286, 86),
    "tkill": (200, 130),
    "umask": (95, 166),
    "userfaultfd": (323, 282),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "write": (1, 64),
}

NUMBERINGS = ("x86_64", "generic")


def number(name: str, numbering: str) -> int:
    """The number of `name` in `numbering` ("x86_64" or "generic"); LookupError where there is none."""
    found = TABLE[name][NUMBERINGS.index(numbering)]
    if found is None:
        raise LookupError(f"{name} does not exist in the {numbering} numbering")
    return found
