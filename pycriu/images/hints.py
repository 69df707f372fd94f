# SPDX-License-Identifier: GPL-2.0-only
"""How `crit --pretty` shows numbers: which fields are addresses, flags, devices, and the words for them. Data only.

Which field is shown in which way is part of CRIU's format (the options that its .proto files attach to fields), so that
what one tool shows the other reads.
"""

from __future__ import annotations

HEX, ADDRESS, DEVICE, OLD_DEVICE, QUOTED = "hex", "address", "device", "old device", "quoted"

# way of showing → "message: fields; …"; a way that is none of those above is a table of FLAGS or WORDS.
_FIELDS = {
    HEX: (
        "thread_info_aarch64: clear_tid_addr gpregs; thread_info_arm: clear_tid_addr gpregs;"
        "thread_info_loongarch64: clear_tid_addr gpregs fpregs; thread_info_mips: clear_tid_addr gpregs fpregs;"
        "thread_info_ppc64: clear_tid_addr gpregs; thread_info_riscv64: clear_tid_addr gpregs;"
        "thread_info_s390: clear_tid_addr gpregs fpregs vxrs_low vxrs_high gs_cb gs_bc ri_cb;"
        "thread_info_x86: clear_tid_addr gpregs; user_x86_cet_entry: cet ssp;"
        "task_core_entry: blk_sigset blk_sigset_extended membarrier_registration_mask;"
        "inotify_wd_entry: mask ignored_mask; inotify_file_entry: flags; fanotify_mark_entry: mflags mask ignored_mask;"
        "fanotify_file_entry: flags faflags evflags;"
        "mm_entry: mm_start_code mm_end_code mm_start_data mm_end_data mm_start_stack mm_start_brk mm_brk mm_arg_start"
        " mm_arg_end mm_env_start mm_env_end;"
        "mnt_entry: flags sb_flags; net_device_entry: flags; packet_sock_entry: flags; pagemap_entry: vaddr;"
        "pipe_entry: flags; sa_entry: sigaction flags restorer mask mask_extended; signalfd_entry: flags sigmask;"
        "inet_sk_entry: flags; netlink_sk_entry: flags; unix_sk_entry: flags uflags; tcp_stream_entry: opt_mask;"
        "timerfd_entry: flags settime_flags; tty_file_entry: flags; tun_link_entry: flags;"
        "vma_entry: start end madv fdflags; pycriu_mapping_entry: start; pycriu_tun_entry: flags;"
        "pycriu_tun_device: flags; pycriu_file_entry: sample"
    ),
    ADDRESS: "sit_entry: local remote rd_prefix relay_prefix; inet_sk_entry: src_addr dst_addr",
    DEVICE: "inotify_wd_entry: s_dev; fanotify_mark_entry: s_dev; ghost_file_entry: dev; mnt_entry: root_dev",
    OLD_DEVICE: "irmap_cache_entry: dev; ghost_file_entry: rdev",
    QUOTED: "unix_sk_entry: name",
    "open": "bpfmap_file_entry: flags; memfd_file_entry: flags; reg_file_entry: flags",
    "seals": "memfd_inode_entry: seals",
    "pagemap": "pagemap_entry: flags",
    "prot": "vma_entry: prot",
    "mmap": "vma_entry: flags",
    "vma": "vma_entry: status",
    "task_state": "task_core_entry: task_state",
    "family": "inet_sk_entry: family",
    "type": "inet_sk_entry: type; unix_sk_entry: type",
    "protocol": "inet_sk_entry: proto",
    "state": "inet_sk_entry: state; unix_sk_entry: state",
}

FLAGS = {
    "prot": {"PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4},
    "mmap": {"MAP_SHARED": 1, "MAP_PRIVATE": 2, "MAP_ANON": 0x20, "MAP_GROWSDOWN": 0x100},
    "vma": {
        "VMA_AREA_REGULAR": 1 << 0, "VMA_AREA_STACK": 1 << 1, "VMA_AREA_VSYSCALL": 1 << 2, "VMA_AREA_VDSO": 1 << 3,
        "VMA_AREA_HEAP": 1 << 5, "VMA_FILE_PRIVATE": 1 << 6, "VMA_FILE_SHARED": 1 << 7, "VMA_ANON_SHARED": 1 << 8,
        "VMA_ANON_PRIVATE": 1 << 9, "VMA_AREA_SYSVIPC": 1 << 10, "VMA_AREA_SOCKET": 1 << 11,
        "VMA_AREA_VVAR": 1 << 12, "VMA_AREA_AIORING": 1 << 13, "VMA_AREA_MEMFD": 1 << 14, "VMA_AREA_SHSTK": 1 << 15,
        "VMA_UNSUPP": 1 << 31,
    },
    "open": {
        "O_WRONLY": 0o1, "O_RDWR": 0o2, "O_CREAT": 0o100, "O_EXCL": 0o200, "O_NOCTTY": 0o400, "O_TRUNC": 0o1000,
        "O_APPEND": 0o2000, "O_NONBLOCK": 0o4000, "O_DSYNC": 0o10000, "FASYNC": 0o20000, "O_DIRECT": 0o40000,
        "O_LARGEFILE": 0o100000, "O_DIRECTORY": 0o200000, "O_NOFOLLOW": 0o400000, "O_NOATIME": 0o1000000,
        "O_CLOEXEC": 0o2000000,
    },
    "seals": {
        "F_SEAL_SEAL": 1, "F_SEAL_SHRINK": 2, "F_SEAL_GROW": 4, "F_SEAL_WRITE": 8, "F_SEAL_FUTURE_WRITE": 0x10,
    },
    "pagemap": {"PE_PARENT": 1, "PE_LAZY": 2, "PE_PRESENT": 4},
}  # fmt: skip

WORDS = {
    "task_state": {1: "Alive", 2: "Dead", 3: "Stopped", 6: "Zombie"},
    "family": {1: "UNIX", 2: "INET", 10: "INET6", 16: "NETLINK", 17: "PACKET"},
    "type": {1: "STREAM", 2: "DGRAM", 3: "RAW", 5: "SEQPACKET", 10: "PACKET"},
    "protocol": {0: "IP", 6: "TCP", 17: "UDP", 136: "UDPLITE"},
    "state": {
        1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
        8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN",
    },
}  # fmt: skip


def _by_field() -> dict[str, str]:
    found = {}
    for way, listed in _FIELDS.items():
        for part in listed.split(";"):
            message, _, fields = part.partition(":")
            found.update({f"{message.strip()}.{field}": way for field in fields.split()})
    return found


OF = _by_field()
"""`message.field` → the way in which it is shown."""
