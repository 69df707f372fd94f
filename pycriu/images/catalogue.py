# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of image: its file name, magic, messages, and what follows each message; flags in some. Data only.

File names are `<stem>[-<id>].img`; the id is a pid, an object's number or an inode in hex. Service files have no suffix
and lie in the work directory.
"""

from __future__ import annotations

from pycriu.record import record

INVENTORY, COMMON, SERVICE, RAW = "inventory", "common", "service", "raw"  # framings, see `framing`

IMG_COMMON_MAGIC = 0x54564319
IMG_SERVICE_MAGIC = 0x55105940

PRESENT, LAZY, PARENT = 4, 2, 1  # pagemap_entry.flags; LAZY says that a page could be fetched late
PUNCHED = "pycriu-punched.img"  # these images have given up pages to later ones, see `dedup`

MAP_GROWSDOWN = 0x100  # vma_entry.flags are those of mmap(2)

# vma_entry.status
REGULAR, STACK, VSYSCALL, VDSO, HEAP = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
FILE_PRIVATE, FILE_SHARED, ANON_SHARED, ANON_PRIVATE, SYSVIPC = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10
VVAR, AIORING, MEMFD = 1 << 12, 1 << 13, 1 << 14
KERNEL_MADE = VSYSCALL | VDSO | VVAR | AIORING
KNOWN_STATUS = (
    REGULAR | STACK | HEAP | FILE_PRIVATE | FILE_SHARED | ANON_PRIVATE | KERNEL_MADE | MEMFD | SYSVIPC | ANON_SHARED
)


@record
class Kind:
    """One kind of image."""

    stem: str  # file name up to the id
    magic: int  # 0: raw bytes
    message: str = ""  # class of the entries
    many: bool = False  # entries repeat until the end of the file
    framing: str = COMMON
    head: str = ""  # class of the first entry where it differs from the others
    payload: str = ""  # rule of `payloads` for the bytes after each entry
    own: bool = False  # not CRIU's: read strictly
    old: bool = False  # read for compatibility; written inside another image nowadays


KINDS = (
    Kind("inventory", 0x58313116, "inventory_entry", framing=INVENTORY),
    Kind("pstree", 0x50273030, "pstree_entry", many=True),
    Kind("core", 0x55053847, "core_entry"),
    Kind("ids", 0x54432030, "task_kobj_ids_entry"),
    Kind("mm", 0x57492820, "mm_entry"),
    Kind("vmas", 0x54123737, "vma_entry", many=True, old=True),
    Kind("pagemap", 0x56084025, "pagemap_entry", many=True, head="pagemap_head"),
    Kind("pagemap-shmem", 0x56084025, "pagemap_entry", many=True, head="pagemap_head"),
    Kind("pages", 0, framing=RAW),
    Kind("fdinfo", 0x56213732, "fdinfo_entry", many=True),
    Kind("files", 0x56303138, "file_entry", many=True),
    Kind("reg-files", 0x50363636, "reg_file_entry", many=True, old=True),
    Kind("ext-files", 0x59255641, "ext_file_entry", many=True, old=True),
    Kind("ns-files", 0x61394011, "ns_file_entry", many=True, old=True),
    Kind("eventfd", 0x44523722, "eventfd_file_entry", many=True, old=True),
    Kind("eventpoll", 0x45023858, "eventpoll_file_entry", many=True, old=True),
    Kind("eventpoll-tfd", 0x44433746, "eventpoll_tfd_entry", many=True, old=True),
    Kind("signalfd", 0x57323820, "signalfd_entry", many=True, old=True),
    Kind("timerfd", 0x50493712, "timerfd_entry", many=True, old=True),
    Kind("inotify", 0x48424431, "inotify_file_entry", many=True, old=True),
    Kind("inotify-wd", 0x54562009, "inotify_wd_entry", many=True, old=True),
    Kind("fanotify", 0x55096122, "fanotify_file_entry", many=True, old=True),
    Kind("fanotify-mark", 0x56506035, "fanotify_mark_entry", many=True, old=True),
    Kind("pidfd", 0x54435556, "pidfd_entry", many=True, old=True),
    Kind("memfd", 0x48453499, "memfd_inode_entry", many=True),
    Kind("bpfmap-file", 0x57506142, "bpfmap_file_entry", many=True, old=True),
    Kind("bpfmap-data", 0x64324033, "bpfmap_data_entry", many=True, payload="bpfmap"),
    Kind("pipes", 0x56513555, "pipe_entry", many=True, old=True),
    Kind("pipes-data", 0x56453709, "pipe_data_entry", many=True, payload="pipe"),
    Kind("fifo", 0x58364939, "fifo_entry", many=True, old=True),
    Kind("fifo-data", 0x59333054, "pipe_data_entry", many=True, payload="pipe"),
    Kind("unixsk", 0x54373943, "unix_sk_entry", many=True, old=True),
    Kind("inetsk", 0x56443851, "inet_sk_entry", many=True, old=True),
    Kind("packetsk", 0x60454618, "packet_sock_entry", many=True, old=True),
    Kind("netlinksk", 0x58005614, "netlink_sk_entry", many=True, old=True),
    Kind("sk-queues", 0x56264026, "sk_packet_entry", many=True, payload="packet"),
    Kind("tcp-stream", 0x51465506, "tcp_stream_entry", payload="tcp"),
    Kind("tty", 0x59433025, "tty_file_entry", many=True, old=True),
    Kind("tty-info", 0x59453036, "tty_info_entry", many=True),
    Kind("tty-data", 0x59413026, "tty_data_entry", many=True),
    Kind("tunfile", 0x57143751, "tunfile_entry", many=True, old=True),
    Kind("remap-fpath", 0x59133954, "remap_file_path_entry", many=True),
    Kind("ghost-file", 0x52583605, "ghost_file_entry", payload="ghost"),
    Kind("filelocks", 0x54323616, "file_lock_entry", many=True),
    Kind("fs", 0x51403912, "fs_entry"),
    Kind("creds", 0x54023547, "creds_entry", old=True),
    Kind("sigacts", 0x55344201, "sa_entry", many=True, old=True),
    Kind("signal-s", 0x59255647, "siginfo_entry", many=True, old=True),
    Kind("signal-p", 0x59255647, "siginfo_entry", many=True, old=True),
    Kind("itimers", 0x57464056, "itimer_entry", many=True, old=True),
    Kind("posix-timers", 0x52603957, "posix_timer_entry", many=True, old=True),
    Kind("rlimit", 0x57113925, "rlimit_entry", many=True, old=True),
    Kind("seccomp", 0x64413049, "seccomp_entry"),
    Kind("apparmor", 0x59423047, "apparmor_entry"),
    Kind("cgroup", 0x59383330, "cgroup_entry"),
    Kind("cpuinfo", 0x61404013, "cpuinfo_entry"),
    Kind("utsns", 0x54473203, "utsns_entry"),
    Kind("timens", 0x43114433, "timens_entry"),
    Kind("pidns", 0x61157326, "pidns_entry"),
    Kind("userns", 0x55474906, "userns_entry"),
    Kind("ipcns-var", 0x53115007, "ipc_var_entry"),
    Kind("ipcns-shm", 0x46283044, "ipc_shm_entry", many=True, payload="ipc-shm"),
    Kind("ipcns-sem", 0x59573019, "ipc_sem_entry", many=True, payload="ipc-sem"),
    Kind("ipcns-msg", 0x55453737, "ipc_msg_entry", many=True, payload="ipc-msg"),
    Kind("mountpoints", 0x55563928, "mnt_entry", many=True),
    Kind("netns", 0x55933752, "netns_entry"),
    Kind("netdev", 0x57373951, "net_device_entry", many=True),
    Kind("ifaddr", 0, framing=RAW),
    Kind("route", 0, framing=RAW),
    Kind("route6", 0, framing=RAW),
    Kind("rule", 0, framing=RAW),
    Kind("iptables", 0, framing=RAW),
    Kind("ip6tables", 0, framing=RAW),
    Kind("nftables", 0, framing=RAW),
    Kind("netns-ct", 0, framing=RAW),
    Kind("netns-exp", 0, framing=RAW),
    Kind("tmpfs", 0, framing=RAW),
    Kind("tmpfs-dev", 0, framing=RAW),
    Kind("autofs", 0x49353943, "autofs_entry", many=True),
    Kind("binfmt-misc", 0x67343323, "binfmt_misc_entry", many=True),
    # pycriu's own, which CRIU ignores: what CRIU's messages have no fields for (`pycriu.proto`)
    Kind("pycriu-task", 0x50595441, "pycriu_task_entry", many=True, own=True),
    Kind("pycriu-memory", 0x50594D45, "pycriu_mapping_entry", many=True, own=True),
    Kind("pycriu-xstate", 0x50595853, "pycriu_registers_entry", own=True),
    Kind("pycriu-sve", 0x50595356, "pycriu_registers_entry", own=True),
    Kind("pycriu-files", 0x50594649, "pycriu_file_entry", many=True, own=True),
    Kind("pycriu-ghosts", 0x50594748, "pycriu_ghost_entry", many=True, own=True),
    Kind("pycriu-plugins", 0x5059504C, "pycriu_plugin_entry", many=True, own=True),
    Kind("pycriu-packets", 0x5059504B, "pycriu_packets_entry", many=True, own=True),
    Kind("pycriu-fifo-packets", 0x50594650, "pycriu_packets_entry", many=True, own=True),
    Kind("pycriu-kmsg", 0x50594B4D, "pycriu_kmsg_entry", many=True, own=True),
    Kind("pycriu-eventfd", 0x50594556, "pycriu_eventfd_entry", many=True, own=True),
    Kind("pycriu-timerfd", 0x50595446, "pycriu_timerfd_entry", many=True, own=True),
    Kind("pycriu-epoll", 0x50594550, "pycriu_epoll_entry", many=True, own=True),
    Kind("pycriu-fanotify", 0x50594641, "fanotify_mark_entry", many=True, own=True),
    Kind("pycriu-pidfd", 0x50595046, "pycriu_pidfd_entry", many=True, own=True),
    Kind("pycriu-tun", 0x50595455, "pycriu_tun_entry", many=True, own=True),
    Kind("pycriu-sockets", 0x5059534F, "pycriu_socket_entry", many=True, own=True),  # one per family, -unix and so on
    Kind("pycriu-tty", 0x50544559, "pycriu_tty_entry", many=True, own=True),
    Kind("pycriu-punched", 0x50595055, "pycriu_punched_entry", own=True),
    Kind("pycriu-track", 0x50595452, "pycriu_track_entry", own=True),
    Kind("pycriu-cpu", 0x50594350, "pycriu_cpu_entry", own=True),
    Kind("stats-dump", 0x57093306, "stats_entry", framing=SERVICE),
    Kind("stats-restore", 0x57093306, "stats_entry", framing=SERVICE),
    Kind("irmap-cache", 0x57004059, "irmap_cache_entry", many=True, framing=SERVICE),
)

BY_STEM = {kind.stem: kind for kind in KINDS}


def lookup(file: str) -> Kind | None:
    """The kind of a file name such as `core-12.img`, `inventory.img`, `tmpfs-3.tar.gz.img`, `stats-dump`; else None."""
    stem = file.removesuffix(".img").removesuffix(".tar.gz")
    kind = BY_STEM.get(stem) or BY_STEM.get(stem.rpartition("-")[0])
    if kind is None or (kind.framing == SERVICE) == file.endswith(".img") or "/" in file:
        return None
    return kind
