# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: A002, E501, N801 - generated from the .proto files, whose names are the format's
"""Made by `python -m pycriu.images.compile`; change the .proto files instead."""

from collections.abc import Iterable

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as Messages
from google.protobuf.internal.containers import RepeatedScalarFieldContainer as Scalars
from google.protobuf.message import Message

# fmt: off

class CRIU_Opts(Message):
    hex: bool
    ipadd: bool
    flags: str
    dev: bool
    odev: bool
    dict: str
    conv: str
    def __init__(self, *, hex: bool | None = ..., ipadd: bool | None = ..., flags: str | None = ..., dev: bool | None = ..., odev: bool | None = ..., dict: str | None = ..., conv: str | None = ...) -> None: ...
class aa_namespace(Message):
    name: str
    @property
    def policies(self) -> Messages[aa_policy]: ...
    @property
    def namespaces(self) -> Messages[aa_namespace]: ...
    def __init__(self, *, name: str | None = ..., policies: Iterable[aa_policy] | None = ..., namespaces: Iterable[aa_namespace] | None = ...) -> None: ...
class aa_policy(Message):
    name: str
    blob: bytes
    def __init__(self, *, name: str | None = ..., blob: bytes | None = ...) -> None: ...
class aio_ring_entry(Message):
    id: int
    nr_req: int
    ring_len: int
    def __init__(self, *, id: int | None = ..., nr_req: int | None = ..., ring_len: int | None = ...) -> None: ...
class apparmor_entry(Message):
    @property
    def namespaces(self) -> Messages[aa_namespace]: ...
    def __init__(self, *, namespaces: Iterable[aa_namespace] | None = ...) -> None: ...
class autofs_entry(Message):
    fd: int
    pgrp: int
    timeout: int
    minproto: int
    maxproto: int
    mode: int
    uid: int
    gid: int
    read_fd: int
    def __init__(self, *, fd: int | None = ..., pgrp: int | None = ..., timeout: int | None = ..., minproto: int | None = ..., maxproto: int | None = ..., mode: int | None = ..., uid: int | None = ..., gid: int | None = ..., read_fd: int | None = ...) -> None: ...
class binfmt_misc_entry(Message):
    name: str
    enabled: bool
    interpreter: str
    flags: str
    extension: str
    magic: str
    mask: str
    offset: int
    def __init__(self, *, name: str | None = ..., enabled: bool | None = ..., interpreter: str | None = ..., flags: str | None = ..., extension: str | None = ..., magic: str | None = ..., mask: str | None = ..., offset: int | None = ...) -> None: ...
class bpfmap_data_entry(Message):
    map_id: int
    keys_bytes: int
    values_bytes: int
    count: int
    def __init__(self, *, map_id: int | None = ..., keys_bytes: int | None = ..., values_bytes: int | None = ..., count: int | None = ...) -> None: ...
class bpfmap_file_entry(Message):
    id: int
    flags: int
    pos: int
    @property
    def fown(self) -> fown_entry: ...
    map_type: int
    key_size: int
    value_size: int
    map_id: int
    max_entries: int
    map_flags: int
    memlock: int
    frozen: bool
    map_name: str
    ifindex: int
    mnt_id: int
    map_extra: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., pos: int | None = ..., fown: fown_entry | None = ..., map_type: int | None = ..., key_size: int | None = ..., value_size: int | None = ..., map_id: int | None = ..., max_entries: int | None = ..., map_flags: int | None = ..., memlock: int | None = ..., frozen: bool | None = ..., map_name: str | None = ..., ifindex: int | None = ..., mnt_id: int | None = ..., map_extra: int | None = ...) -> None: ...
class cg_controller_entry(Message):
    @property
    def cnames(self) -> Scalars[str]: ...
    @property
    def dirs(self) -> Messages[cgroup_dir_entry]: ...
    is_threaded: bool
    def __init__(self, *, cnames: Iterable[str] | None = ..., dirs: Iterable[cgroup_dir_entry] | None = ..., is_threaded: bool | None = ...) -> None: ...
class cg_member_entry(Message):
    name: str
    path: str
    cgns_prefix: int
    def __init__(self, *, name: str | None = ..., path: str | None = ..., cgns_prefix: int | None = ...) -> None: ...
class cg_set_entry(Message):
    id: int
    @property
    def ctls(self) -> Messages[cg_member_entry]: ...
    def __init__(self, *, id: int | None = ..., ctls: Iterable[cg_member_entry] | None = ...) -> None: ...
class cgroup_dir_entry(Message):
    dir_name: str
    @property
    def children(self) -> Messages[cgroup_dir_entry]: ...
    @property
    def properties(self) -> Messages[cgroup_prop_entry]: ...
    @property
    def dir_perms(self) -> cgroup_perms: ...
    def __init__(self, *, dir_name: str | None = ..., children: Iterable[cgroup_dir_entry] | None = ..., properties: Iterable[cgroup_prop_entry] | None = ..., dir_perms: cgroup_perms | None = ...) -> None: ...
class cgroup_entry(Message):
    @property
    def sets(self) -> Messages[cg_set_entry]: ...
    @property
    def controllers(self) -> Messages[cg_controller_entry]: ...
    def __init__(self, *, sets: Iterable[cg_set_entry] | None = ..., controllers: Iterable[cg_controller_entry] | None = ...) -> None: ...
class cgroup_perms(Message):
    mode: int
    uid: int
    gid: int
    def __init__(self, *, mode: int | None = ..., uid: int | None = ..., gid: int | None = ...) -> None: ...
class cgroup_prop_entry(Message):
    name: str
    value: str
    @property
    def perms(self) -> cgroup_perms: ...
    def __init__(self, *, name: str | None = ..., value: str | None = ..., perms: cgroup_perms | None = ...) -> None: ...
class cgroup_root(Message):
    ctrl: str
    path: str
    def __init__(self, *, ctrl: str | None = ..., path: str | None = ...) -> None: ...
class core_entry(Message):
    UNKNOWN: int
    X86_64: int
    ARM: int
    AARCH64: int
    PPC64: int
    S390: int
    MIPS: int
    LOONGARCH64: int
    RISCV64: int
    mtype: int
    @property
    def thread_info(self) -> thread_info_x86: ...
    @property
    def ti_arm(self) -> thread_info_arm: ...
    @property
    def ti_aarch64(self) -> thread_info_aarch64: ...
    @property
    def ti_ppc64(self) -> thread_info_ppc64: ...
    @property
    def ti_s390(self) -> thread_info_s390: ...
    @property
    def ti_mips(self) -> thread_info_mips: ...
    @property
    def ti_loongarch64(self) -> thread_info_loongarch64: ...
    @property
    def ti_riscv64(self) -> thread_info_riscv64: ...
    @property
    def tc(self) -> task_core_entry: ...
    @property
    def ids(self) -> task_kobj_ids_entry: ...
    @property
    def thread_core(self) -> thread_core_entry: ...
    def __init__(self, *, mtype: int | None = ..., thread_info: thread_info_x86 | None = ..., ti_arm: thread_info_arm | None = ..., ti_aarch64: thread_info_aarch64 | None = ..., ti_ppc64: thread_info_ppc64 | None = ..., ti_s390: thread_info_s390 | None = ..., ti_mips: thread_info_mips | None = ..., ti_loongarch64: thread_info_loongarch64 | None = ..., ti_riscv64: thread_info_riscv64 | None = ..., tc: task_core_entry | None = ..., ids: task_kobj_ids_entry | None = ..., thread_core: thread_core_entry | None = ...) -> None: ...
class cpuinfo_entry(Message):
    @property
    def x86_entry(self) -> Messages[cpuinfo_x86_entry]: ...
    @property
    def ppc64_entry(self) -> Messages[cpuinfo_ppc64_entry]: ...
    @property
    def s390_entry(self) -> Messages[cpuinfo_s390_entry]: ...
    def __init__(self, *, x86_entry: Iterable[cpuinfo_x86_entry] | None = ..., ppc64_entry: Iterable[cpuinfo_ppc64_entry] | None = ..., s390_entry: Iterable[cpuinfo_s390_entry] | None = ...) -> None: ...
class cpuinfo_ppc64_entry(Message):
    BIGENDIAN: int
    LITTLEENDIAN: int
    endian: int
    @property
    def hwcap(self) -> Scalars[int]: ...
    def __init__(self, *, endian: int | None = ..., hwcap: Iterable[int] | None = ...) -> None: ...
class cpuinfo_s390_entry(Message):
    @property
    def hwcap(self) -> Scalars[int]: ...
    def __init__(self, *, hwcap: Iterable[int] | None = ...) -> None: ...
class cpuinfo_x86_entry(Message):
    UNKNOWN: int
    INTEL: int
    AMD: int
    vendor_id: int
    cpu_family: int
    model: int
    stepping: int
    capability_ver: int
    @property
    def capability(self) -> Scalars[int]: ...
    model_id: str
    xfeatures_mask: int
    xsave_size: int
    xsave_size_max: int
    def __init__(self, *, vendor_id: int | None = ..., cpu_family: int | None = ..., model: int | None = ..., stepping: int | None = ..., capability_ver: int | None = ..., capability: Iterable[int] | None = ..., model_id: str | None = ..., xfeatures_mask: int | None = ..., xsave_size: int | None = ..., xsave_size_max: int | None = ...) -> None: ...
class creds_entry(Message):
    uid: int
    gid: int
    euid: int
    egid: int
    suid: int
    sgid: int
    fsuid: int
    fsgid: int
    @property
    def cap_inh(self) -> Scalars[int]: ...
    @property
    def cap_prm(self) -> Scalars[int]: ...
    @property
    def cap_eff(self) -> Scalars[int]: ...
    @property
    def cap_bnd(self) -> Scalars[int]: ...
    secbits: int
    @property
    def groups(self) -> Scalars[int]: ...
    lsm_profile: str
    lsm_sockcreate: str
    apparmor_data: bytes
    no_new_privs: int
    @property
    def cap_amb(self) -> Scalars[int]: ...
    def __init__(self, *, uid: int | None = ..., gid: int | None = ..., euid: int | None = ..., egid: int | None = ..., suid: int | None = ..., sgid: int | None = ..., fsuid: int | None = ..., fsgid: int | None = ..., cap_inh: Iterable[int] | None = ..., cap_prm: Iterable[int] | None = ..., cap_eff: Iterable[int] | None = ..., cap_bnd: Iterable[int] | None = ..., secbits: int | None = ..., groups: Iterable[int] | None = ..., lsm_profile: str | None = ..., lsm_sockcreate: str | None = ..., apparmor_data: bytes | None = ..., no_new_privs: int | None = ..., cap_amb: Iterable[int] | None = ...) -> None: ...
class criu_dump_resp(Message):
    restored: bool
    def __init__(self, *, restored: bool | None = ...) -> None: ...
class criu_features(Message):
    mem_track: bool
    lazy_pages: bool
    pidfd_store: bool
    def __init__(self, *, mem_track: bool | None = ..., lazy_pages: bool | None = ..., pidfd_store: bool | None = ...) -> None: ...
class criu_notify(Message):
    script: str
    pid: int
    def __init__(self, *, script: str | None = ..., pid: int | None = ...) -> None: ...
class criu_opts(Message):
    images_dir_fd: int
    images_dir: str
    pid: int
    leave_running: bool
    ext_unix_sk: bool
    tcp_established: bool
    evasive_devices: bool
    shell_job: bool
    file_locks: bool
    log_level: int
    log_file: str
    @property
    def ps(self) -> criu_page_server_info: ...
    notify_scripts: bool
    root: str
    parent_img: str
    track_mem: bool
    auto_dedup: bool
    work_dir_fd: int
    link_remap: bool
    @property
    def veths(self) -> Messages[criu_veth_pair]: ...
    cpu_cap: int
    force_irmap: bool
    @property
    def exec_cmd(self) -> Scalars[str]: ...
    @property
    def ext_mnt(self) -> Messages[ext_mount_map]: ...
    manage_cgroups: bool
    @property
    def cg_root(self) -> Messages[cgroup_root]: ...
    rst_sibling: bool
    @property
    def inherit_fd(self) -> Messages[_inherit_fd]: ...
    auto_ext_mnt: bool
    ext_sharing: bool
    ext_masters: bool
    @property
    def skip_mnt(self) -> Scalars[str]: ...
    @property
    def enable_fs(self) -> Scalars[str]: ...
    @property
    def unix_sk_ino(self) -> Messages[unix_sk]: ...
    manage_cgroups_mode: int
    ghost_limit: int
    @property
    def irmap_scan_paths(self) -> Scalars[str]: ...
    @property
    def external(self) -> Scalars[str]: ...
    empty_ns: int
    @property
    def join_ns(self) -> Messages[join_namespace]: ...
    cgroup_props: str
    cgroup_props_file: str
    @property
    def cgroup_dump_controller(self) -> Scalars[str]: ...
    freeze_cgroup: str
    timeout: int
    tcp_skip_in_flight: bool
    weak_sysctls: bool
    lazy_pages: bool
    status_fd: int
    orphan_pts_master: bool
    config_file: str
    tcp_close: bool
    lsm_profile: str
    tls_cacert: str
    tls_cacrl: str
    tls_cert: str
    tls_key: str
    tls: bool
    tls_no_cn_verify: bool
    cgroup_yard: str
    pre_dump_mode: int
    pidfd_store_sk: int
    lsm_mount_context: str
    network_lock: int
    mntns_compat_mode: bool
    skip_file_rwx_check: bool
    unprivileged: bool
    leave_stopped: bool
    display_stats: bool
    log_to_stderr: bool
    def __init__(self, *, images_dir_fd: int | None = ..., images_dir: str | None = ..., pid: int | None = ..., leave_running: bool | None = ..., ext_unix_sk: bool | None = ..., tcp_established: bool | None = ..., evasive_devices: bool | None = ..., shell_job: bool | None = ..., file_locks: bool | None = ..., log_level: int | None = ..., log_file: str | None = ..., ps: criu_page_server_info | None = ..., notify_scripts: bool | None = ..., root: str | None = ..., parent_img: str | None = ..., track_mem: bool | None = ..., auto_dedup: bool | None = ..., work_dir_fd: int | None = ..., link_remap: bool | None = ..., veths: Iterable[criu_veth_pair] | None = ..., cpu_cap: int | None = ..., force_irmap: bool | None = ..., exec_cmd: Iterable[str] | None = ..., ext_mnt: Iterable[ext_mount_map] | None = ..., manage_cgroups: bool | None = ..., cg_root: Iterable[cgroup_root] | None = ..., rst_sibling: bool | None = ..., inherit_fd: Iterable[_inherit_fd] | None = ..., auto_ext_mnt: bool | None = ..., ext_sharing: bool | None = ..., ext_masters: bool | None = ..., skip_mnt: Iterable[str] | None = ..., enable_fs: Iterable[str] | None = ..., unix_sk_ino: Iterable[unix_sk] | None = ..., manage_cgroups_mode: int | None = ..., ghost_limit: int | None = ..., irmap_scan_paths: Iterable[str] | None = ..., external: Iterable[str] | None = ..., empty_ns: int | None = ..., join_ns: Iterable[join_namespace] | None = ..., cgroup_props: str | None = ..., cgroup_props_file: str | None = ..., cgroup_dump_controller: Iterable[str] | None = ..., freeze_cgroup: str | None = ..., timeout: int | None = ..., tcp_skip_in_flight: bool | None = ..., weak_sysctls: bool | None = ..., lazy_pages: bool | None = ..., status_fd: int | None = ..., orphan_pts_master: bool | None = ..., config_file: str | None = ..., tcp_close: bool | None = ..., lsm_profile: str | None = ..., tls_cacert: str | None = ..., tls_cacrl: str | None = ..., tls_cert: str | None = ..., tls_key: str | None = ..., tls: bool | None = ..., tls_no_cn_verify: bool | None = ..., cgroup_yard: str | None = ..., pre_dump_mode: int | None = ..., pidfd_store_sk: int | None = ..., lsm_mount_context: str | None = ..., network_lock: int | None = ..., mntns_compat_mode: bool | None = ..., skip_file_rwx_check: bool | None = ..., unprivileged: bool | None = ..., leave_stopped: bool | None = ..., display_stats: bool | None = ..., log_to_stderr: bool | None = ...) -> None: ...
class criu_page_server_info(Message):
    address: str
    port: int
    pid: int
    fd: int
    def __init__(self, *, address: str | None = ..., port: int | None = ..., pid: int | None = ..., fd: int | None = ...) -> None: ...
class criu_req(Message):
    type: int
    @property
    def opts(self) -> criu_opts: ...
    notify_success: bool
    keep_open: bool
    @property
    def features(self) -> criu_features: ...
    pid: int
    def __init__(self, *, type: int | None = ..., opts: criu_opts | None = ..., notify_success: bool | None = ..., keep_open: bool | None = ..., features: criu_features | None = ..., pid: int | None = ...) -> None: ...
class criu_resp(Message):
    type: int
    success: bool
    @property
    def dump(self) -> criu_dump_resp: ...
    @property
    def restore(self) -> criu_restore_resp: ...
    @property
    def notify(self) -> criu_notify: ...
    @property
    def ps(self) -> criu_page_server_info: ...
    cr_errno: int
    @property
    def features(self) -> criu_features: ...
    cr_errmsg: str
    @property
    def version(self) -> criu_version: ...
    status: int
    def __init__(self, *, type: int | None = ..., success: bool | None = ..., dump: criu_dump_resp | None = ..., restore: criu_restore_resp | None = ..., notify: criu_notify | None = ..., ps: criu_page_server_info | None = ..., cr_errno: int | None = ..., features: criu_features | None = ..., cr_errmsg: str | None = ..., version: criu_version | None = ..., status: int | None = ...) -> None: ...
class criu_restore_resp(Message):
    pid: int
    def __init__(self, *, pid: int | None = ...) -> None: ...
class criu_version(Message):
    major_number: int
    minor_number: int
    gitid: str
    sublevel: int
    extra: int
    name: str
    def __init__(self, *, major_number: int | None = ..., minor_number: int | None = ..., gitid: str | None = ..., sublevel: int | None = ..., extra: int | None = ..., name: str | None = ...) -> None: ...
class criu_veth_pair(Message):
    if_in: str
    if_out: str
    def __init__(self, *, if_in: str | None = ..., if_out: str | None = ...) -> None: ...
class dump_stats_entry(Message):
    freezing_time: int
    frozen_time: int
    memdump_time: int
    memwrite_time: int
    pages_scanned: int
    pages_skipped_parent: int
    pages_written: int
    irmap_resolve: int
    pages_lazy: int
    page_pipes: int
    page_pipe_bufs: int
    shpages_scanned: int
    shpages_skipped_parent: int
    shpages_written: int
    def __init__(self, *, freezing_time: int | None = ..., frozen_time: int | None = ..., memdump_time: int | None = ..., memwrite_time: int | None = ..., pages_scanned: int | None = ..., pages_skipped_parent: int | None = ..., pages_written: int | None = ..., irmap_resolve: int | None = ..., pages_lazy: int | None = ..., page_pipes: int | None = ..., page_pipe_bufs: int | None = ..., shpages_scanned: int | None = ..., shpages_skipped_parent: int | None = ..., shpages_written: int | None = ...) -> None: ...
class eventfd_file_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    counter: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., counter: int | None = ...) -> None: ...
class eventpoll_file_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    @property
    def tfd(self) -> Messages[eventpoll_tfd_entry]: ...
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., tfd: Iterable[eventpoll_tfd_entry] | None = ...) -> None: ...
class eventpoll_tfd_entry(Message):
    id: int
    tfd: int
    events: int
    data: int
    dev: int
    inode: int
    pos: int
    def __init__(self, *, id: int | None = ..., tfd: int | None = ..., events: int | None = ..., data: int | None = ..., dev: int | None = ..., inode: int | None = ..., pos: int | None = ...) -> None: ...
class ext_file_entry(Message):
    id: int
    @property
    def fown(self) -> fown_entry: ...
    def __init__(self, *, id: int | None = ..., fown: fown_entry | None = ...) -> None: ...
class ext_mount_map(Message):
    key: str
    val: str
    def __init__(self, *, key: str | None = ..., val: str | None = ...) -> None: ...
class fanotify_file_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    faflags: int
    evflags: int
    @property
    def mark(self) -> Messages[fanotify_mark_entry]: ...
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., faflags: int | None = ..., evflags: int | None = ..., mark: Iterable[fanotify_mark_entry] | None = ...) -> None: ...
class fanotify_inode_mark_entry(Message):
    i_ino: int
    @property
    def f_handle(self) -> fh_entry: ...
    def __init__(self, *, i_ino: int | None = ..., f_handle: fh_entry | None = ...) -> None: ...
class fanotify_mark_entry(Message):
    id: int
    type: int
    mflags: int
    mask: int
    ignored_mask: int
    s_dev: int
    @property
    def ie(self) -> fanotify_inode_mark_entry: ...
    @property
    def me(self) -> fanotify_mount_mark_entry: ...
    def __init__(self, *, id: int | None = ..., type: int | None = ..., mflags: int | None = ..., mask: int | None = ..., ignored_mask: int | None = ..., s_dev: int | None = ..., ie: fanotify_inode_mark_entry | None = ..., me: fanotify_mount_mark_entry | None = ...) -> None: ...
class fanotify_mount_mark_entry(Message):
    mnt_id: int
    path: str
    def __init__(self, *, mnt_id: int | None = ..., path: str | None = ...) -> None: ...
class fdinfo_entry(Message):
    id: int
    flags: int
    type: int
    fd: int
    xattr_security_selinux: str
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., type: int | None = ..., fd: int | None = ..., xattr_security_selinux: str | None = ...) -> None: ...
class fh_entry(Message):
    bytes: int
    type: int
    @property
    def handle(self) -> Scalars[int]: ...
    path: str
    mnt_id: int
    def __init__(self, *, bytes: int | None = ..., type: int | None = ..., handle: Iterable[int] | None = ..., path: str | None = ..., mnt_id: int | None = ...) -> None: ...
class fifo_entry(Message):
    id: int
    pipe_id: int
    regf_id: int
    def __init__(self, *, id: int | None = ..., pipe_id: int | None = ..., regf_id: int | None = ...) -> None: ...
class file_entry(Message):
    type: int
    id: int
    @property
    def reg(self) -> reg_file_entry: ...
    @property
    def isk(self) -> inet_sk_entry: ...
    @property
    def nsf(self) -> ns_file_entry: ...
    @property
    def psk(self) -> packet_sock_entry: ...
    @property
    def nlsk(self) -> netlink_sk_entry: ...
    @property
    def efd(self) -> eventfd_file_entry: ...
    @property
    def epfd(self) -> eventpoll_file_entry: ...
    @property
    def sgfd(self) -> signalfd_entry: ...
    @property
    def tunf(self) -> tunfile_entry: ...
    @property
    def tfd(self) -> timerfd_entry: ...
    @property
    def ify(self) -> inotify_file_entry: ...
    @property
    def ffy(self) -> fanotify_file_entry: ...
    @property
    def ext(self) -> ext_file_entry: ...
    @property
    def usk(self) -> unix_sk_entry: ...
    @property
    def fifo(self) -> fifo_entry: ...
    @property
    def pipe(self) -> pipe_entry: ...
    @property
    def tty(self) -> tty_file_entry: ...
    @property
    def memfd(self) -> memfd_file_entry: ...
    @property
    def bpf(self) -> bpfmap_file_entry: ...
    @property
    def pidfd(self) -> pidfd_entry: ...
    def __init__(self, *, type: int | None = ..., id: int | None = ..., reg: reg_file_entry | None = ..., isk: inet_sk_entry | None = ..., nsf: ns_file_entry | None = ..., psk: packet_sock_entry | None = ..., nlsk: netlink_sk_entry | None = ..., efd: eventfd_file_entry | None = ..., epfd: eventpoll_file_entry | None = ..., sgfd: signalfd_entry | None = ..., tunf: tunfile_entry | None = ..., tfd: timerfd_entry | None = ..., ify: inotify_file_entry | None = ..., ffy: fanotify_file_entry | None = ..., ext: ext_file_entry | None = ..., usk: unix_sk_entry | None = ..., fifo: fifo_entry | None = ..., pipe: pipe_entry | None = ..., tty: tty_file_entry | None = ..., memfd: memfd_file_entry | None = ..., bpf: bpfmap_file_entry | None = ..., pidfd: pidfd_entry | None = ...) -> None: ...
class file_lock_entry(Message):
    flag: int
    type: int
    pid: int
    fd: int
    start: int
    len: int
    def __init__(self, *, flag: int | None = ..., type: int | None = ..., pid: int | None = ..., fd: int | None = ..., start: int | None = ..., len: int | None = ...) -> None: ...
class file_perms_entry(Message):
    mode: int
    uid: int
    gid: int
    def __init__(self, *, mode: int | None = ..., uid: int | None = ..., gid: int | None = ...) -> None: ...
class fown_entry(Message):
    uid: int
    euid: int
    signum: int
    pid_type: int
    pid: int
    def __init__(self, *, uid: int | None = ..., euid: int | None = ..., signum: int | None = ..., pid_type: int | None = ..., pid: int | None = ...) -> None: ...
class fs_entry(Message):
    cwd_id: int
    root_id: int
    umask: int
    def __init__(self, *, cwd_id: int | None = ..., root_id: int | None = ..., umask: int | None = ...) -> None: ...
class ghost_chunk_entry(Message):
    len: int
    off: int
    def __init__(self, *, len: int | None = ..., off: int | None = ...) -> None: ...
class ghost_file_entry(Message):
    uid: int
    gid: int
    mode: int
    dev: int
    ino: int
    rdev: int
    @property
    def atim(self) -> timeval: ...
    @property
    def mtim(self) -> timeval: ...
    chunks: bool
    size: int
    symlnk_target: str
    def __init__(self, *, uid: int | None = ..., gid: int | None = ..., mode: int | None = ..., dev: int | None = ..., ino: int | None = ..., rdev: int | None = ..., atim: timeval | None = ..., mtim: timeval | None = ..., chunks: bool | None = ..., size: int | None = ..., symlnk_target: str | None = ...) -> None: ...
class img_streamer_reply_entry(Message):
    exists: bool
    def __init__(self, *, exists: bool | None = ...) -> None: ...
class img_streamer_request_entry(Message):
    filename: str
    def __init__(self, *, filename: str | None = ...) -> None: ...
class inet_sk_entry(Message):
    id: int
    ino: int
    family: int
    type: int
    proto: int
    state: int
    src_port: int
    dst_port: int
    flags: int
    backlog: int
    @property
    def src_addr(self) -> Scalars[int]: ...
    @property
    def dst_addr(self) -> Scalars[int]: ...
    @property
    def fown(self) -> fown_entry: ...
    @property
    def opts(self) -> sk_opts_entry: ...
    v6only: bool
    @property
    def ip_opts(self) -> ip_opts_entry: ...
    ifname: str
    ns_id: int
    shutdown: int
    @property
    def tcp_opts(self) -> tcp_opts_entry: ...
    def __init__(self, *, id: int | None = ..., ino: int | None = ..., family: int | None = ..., type: int | None = ..., proto: int | None = ..., state: int | None = ..., src_port: int | None = ..., dst_port: int | None = ..., flags: int | None = ..., backlog: int | None = ..., src_addr: Iterable[int] | None = ..., dst_addr: Iterable[int] | None = ..., fown: fown_entry | None = ..., opts: sk_opts_entry | None = ..., v6only: bool | None = ..., ip_opts: ip_opts_entry | None = ..., ifname: str | None = ..., ns_id: int | None = ..., shutdown: int | None = ..., tcp_opts: tcp_opts_entry | None = ...) -> None: ...
class inherit_fd(Message):
    key: str
    fd: int
    def __init__(self, *, key: str | None = ..., fd: int | None = ...) -> None: ...
class inotify_file_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    @property
    def wd(self) -> Messages[inotify_wd_entry]: ...
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., wd: Iterable[inotify_wd_entry] | None = ...) -> None: ...
class inotify_wd_entry(Message):
    id: int
    i_ino: int
    mask: int
    ignored_mask: int
    s_dev: int
    wd: int
    @property
    def f_handle(self) -> fh_entry: ...
    def __init__(self, *, id: int | None = ..., i_ino: int | None = ..., mask: int | None = ..., ignored_mask: int | None = ..., s_dev: int | None = ..., wd: int | None = ..., f_handle: fh_entry | None = ...) -> None: ...
class inventory_entry(Message):
    img_version: int
    fdinfo_per_id: bool
    @property
    def root_ids(self) -> task_kobj_ids_entry: ...
    ns_per_id: bool
    root_cg_set: int
    lsmtype: int
    dump_uptime: int
    pre_dump_mode: int
    tcp_close: bool
    network_lock_method: int
    @property
    def plugins_entry(self) -> _plugins_entry: ...
    dump_criu_run_id: str
    allow_uprobes: bool
    def __init__(self, *, img_version: int | None = ..., fdinfo_per_id: bool | None = ..., root_ids: task_kobj_ids_entry | None = ..., ns_per_id: bool | None = ..., root_cg_set: int | None = ..., lsmtype: int | None = ..., dump_uptime: int | None = ..., pre_dump_mode: int | None = ..., tcp_close: bool | None = ..., network_lock_method: int | None = ..., plugins_entry: _plugins_entry | None = ..., dump_criu_run_id: str | None = ..., allow_uprobes: bool | None = ...) -> None: ...
class ip_opts_entry(Message):
    freebind: bool
    @property
    def raw(self) -> ip_opts_raw_entry: ...
    pktinfo: bool
    tos: int
    ttl: int
    def __init__(self, *, freebind: bool | None = ..., raw: ip_opts_raw_entry | None = ..., pktinfo: bool | None = ..., tos: int | None = ..., ttl: int | None = ...) -> None: ...
class ip_opts_raw_entry(Message):
    hdrincl: bool
    nodefrag: bool
    checksum: bool
    @property
    def icmpv_filter(self) -> Scalars[int]: ...
    def __init__(self, *, hdrincl: bool | None = ..., nodefrag: bool | None = ..., checksum: bool | None = ..., icmpv_filter: Iterable[int] | None = ...) -> None: ...
class ipc_desc_entry(Message):
    key: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    mode: int
    id: int
    def __init__(self, *, key: int | None = ..., uid: int | None = ..., gid: int | None = ..., cuid: int | None = ..., cgid: int | None = ..., mode: int | None = ..., id: int | None = ...) -> None: ...
class ipc_msg(Message):
    mtype: int
    msize: int
    def __init__(self, *, mtype: int | None = ..., msize: int | None = ...) -> None: ...
class ipc_msg_entry(Message):
    @property
    def desc(self) -> ipc_desc_entry: ...
    qbytes: int
    qnum: int
    def __init__(self, *, desc: ipc_desc_entry | None = ..., qbytes: int | None = ..., qnum: int | None = ...) -> None: ...
class ipc_sem_entry(Message):
    @property
    def desc(self) -> ipc_desc_entry: ...
    nsems: int
    def __init__(self, *, desc: ipc_desc_entry | None = ..., nsems: int | None = ...) -> None: ...
class ipc_shm_entry(Message):
    @property
    def desc(self) -> ipc_desc_entry: ...
    size: int
    in_pagemaps: bool
    hugetlb_flag: int
    def __init__(self, *, desc: ipc_desc_entry | None = ..., size: int | None = ..., in_pagemaps: bool | None = ..., hugetlb_flag: int | None = ...) -> None: ...
class ipc_var_entry(Message):
    @property
    def sem_ctls(self) -> Scalars[int]: ...
    msg_ctlmax: int
    msg_ctlmnb: int
    msg_ctlmni: int
    auto_msgmni: int
    shm_ctlmax: int
    shm_ctlall: int
    shm_ctlmni: int
    shm_rmid_forced: int
    mq_queues_max: int
    mq_msg_max: int
    mq_msgsize_max: int
    mq_msg_default: int
    mq_msgsize_default: int
    msg_next_id: int
    sem_next_id: int
    shm_next_id: int
    def __init__(self, *, sem_ctls: Iterable[int] | None = ..., msg_ctlmax: int | None = ..., msg_ctlmnb: int | None = ..., msg_ctlmni: int | None = ..., auto_msgmni: int | None = ..., shm_ctlmax: int | None = ..., shm_ctlall: int | None = ..., shm_ctlmni: int | None = ..., shm_rmid_forced: int | None = ..., mq_queues_max: int | None = ..., mq_msg_max: int | None = ..., mq_msgsize_max: int | None = ..., mq_msg_default: int | None = ..., mq_msgsize_default: int | None = ..., msg_next_id: int | None = ..., sem_next_id: int | None = ..., shm_next_id: int | None = ...) -> None: ...
class irmap_cache_entry(Message):
    dev: int
    inode: int
    path: str
    def __init__(self, *, dev: int | None = ..., inode: int | None = ..., path: str | None = ...) -> None: ...
class itimer_entry(Message):
    isec: int
    iusec: int
    vsec: int
    vusec: int
    def __init__(self, *, isec: int | None = ..., iusec: int | None = ..., vsec: int | None = ..., vusec: int | None = ...) -> None: ...
class join_namespace(Message):
    ns: str
    ns_file: str
    extra_opt: str
    def __init__(self, *, ns: str | None = ..., ns_file: str | None = ..., extra_opt: str | None = ...) -> None: ...
class macvlan_link_entry(Message):
    mode: int
    flags: int
    def __init__(self, *, mode: int | None = ..., flags: int | None = ...) -> None: ...
class memfd_file_entry(Message):
    id: int
    flags: int
    pos: int
    @property
    def fown(self) -> fown_entry: ...
    inode_id: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., pos: int | None = ..., fown: fown_entry | None = ..., inode_id: int | None = ...) -> None: ...
class memfd_inode_entry(Message):
    name: str
    uid: int
    gid: int
    size: int
    shmid: int
    seals: int
    inode_id: int
    hugetlb_flag: int
    mode: int
    def __init__(self, *, name: str | None = ..., uid: int | None = ..., gid: int | None = ..., size: int | None = ..., shmid: int | None = ..., seals: int | None = ..., inode_id: int | None = ..., hugetlb_flag: int | None = ..., mode: int | None = ...) -> None: ...
class mm_entry(Message):
    mm_start_code: int
    mm_end_code: int
    mm_start_data: int
    mm_end_data: int
    mm_start_stack: int
    mm_start_brk: int
    mm_brk: int
    mm_arg_start: int
    mm_arg_end: int
    mm_env_start: int
    mm_env_end: int
    exe_file_id: int
    @property
    def mm_saved_auxv(self) -> Scalars[int]: ...
    @property
    def vmas(self) -> Messages[vma_entry]: ...
    dumpable: int
    @property
    def aios(self) -> Messages[aio_ring_entry]: ...
    thp_disabled: bool
    def __init__(self, *, mm_start_code: int | None = ..., mm_end_code: int | None = ..., mm_start_data: int | None = ..., mm_end_data: int | None = ..., mm_start_stack: int | None = ..., mm_start_brk: int | None = ..., mm_brk: int | None = ..., mm_arg_start: int | None = ..., mm_arg_end: int | None = ..., mm_env_start: int | None = ..., mm_env_end: int | None = ..., exe_file_id: int | None = ..., mm_saved_auxv: Iterable[int] | None = ..., vmas: Iterable[vma_entry] | None = ..., dumpable: int | None = ..., aios: Iterable[aio_ring_entry] | None = ..., thp_disabled: bool | None = ...) -> None: ...
class mnt_entry(Message):
    fstype: int
    mnt_id: int
    root_dev: int
    parent_mnt_id: int
    flags: int
    root: str
    mountpoint: str
    source: str
    options: str
    shared_id: int
    master_id: int
    with_plugin: bool
    ext_mount: bool
    fsname: str
    internal_sharing: bool
    deleted: bool
    sb_flags: int
    ext_key: str
    def __init__(self, *, fstype: int | None = ..., mnt_id: int | None = ..., root_dev: int | None = ..., parent_mnt_id: int | None = ..., flags: int | None = ..., root: str | None = ..., mountpoint: str | None = ..., source: str | None = ..., options: str | None = ..., shared_id: int | None = ..., master_id: int | None = ..., with_plugin: bool | None = ..., ext_mount: bool | None = ..., fsname: str | None = ..., internal_sharing: bool | None = ..., deleted: bool | None = ..., sb_flags: int | None = ..., ext_key: str | None = ...) -> None: ...
class net_device_entry(Message):
    type: int
    ifindex: int
    mtu: int
    flags: int
    name: str
    @property
    def tun(self) -> tun_link_entry: ...
    address: bytes
    @property
    def conf(self) -> Scalars[int]: ...
    @property
    def conf4(self) -> Messages[sysctl_entry]: ...
    @property
    def conf6(self) -> Messages[sysctl_entry]: ...
    @property
    def macvlan(self) -> macvlan_link_entry: ...
    peer_ifindex: int
    peer_nsid: int
    master: int
    @property
    def sit(self) -> sit_entry: ...
    def __init__(self, *, type: int | None = ..., ifindex: int | None = ..., mtu: int | None = ..., flags: int | None = ..., name: str | None = ..., tun: tun_link_entry | None = ..., address: bytes | None = ..., conf: Iterable[int] | None = ..., conf4: Iterable[sysctl_entry] | None = ..., conf6: Iterable[sysctl_entry] | None = ..., macvlan: macvlan_link_entry | None = ..., peer_ifindex: int | None = ..., peer_nsid: int | None = ..., master: int | None = ..., sit: sit_entry | None = ...) -> None: ...
class netlink_sk_entry(Message):
    id: int
    ino: int
    protocol: int
    state: int
    flags: int
    portid: int
    @property
    def groups(self) -> Scalars[int]: ...
    dst_portid: int
    dst_group: int
    @property
    def fown(self) -> fown_entry: ...
    @property
    def opts(self) -> sk_opts_entry: ...
    ns_id: int
    def __init__(self, *, id: int | None = ..., ino: int | None = ..., protocol: int | None = ..., state: int | None = ..., flags: int | None = ..., portid: int | None = ..., groups: Iterable[int] | None = ..., dst_portid: int | None = ..., dst_group: int | None = ..., fown: fown_entry | None = ..., opts: sk_opts_entry | None = ..., ns_id: int | None = ...) -> None: ...
class netns_entry(Message):
    @property
    def def_conf(self) -> Scalars[int]: ...
    @property
    def all_conf(self) -> Scalars[int]: ...
    @property
    def def_conf4(self) -> Messages[sysctl_entry]: ...
    @property
    def all_conf4(self) -> Messages[sysctl_entry]: ...
    @property
    def def_conf6(self) -> Messages[sysctl_entry]: ...
    @property
    def all_conf6(self) -> Messages[sysctl_entry]: ...
    @property
    def nsids(self) -> Messages[netns_id]: ...
    ext_key: str
    @property
    def unix_conf(self) -> Messages[sysctl_entry]: ...
    @property
    def ipv4_sysctl(self) -> Messages[sysctl_entry]: ...
    def __init__(self, *, def_conf: Iterable[int] | None = ..., all_conf: Iterable[int] | None = ..., def_conf4: Iterable[sysctl_entry] | None = ..., all_conf4: Iterable[sysctl_entry] | None = ..., def_conf6: Iterable[sysctl_entry] | None = ..., all_conf6: Iterable[sysctl_entry] | None = ..., nsids: Iterable[netns_id] | None = ..., ext_key: str | None = ..., unix_conf: Iterable[sysctl_entry] | None = ..., ipv4_sysctl: Iterable[sysctl_entry] | None = ...) -> None: ...
class netns_id(Message):
    target_ns_id: int
    netnsid_value: int
    def __init__(self, *, target_ns_id: int | None = ..., netnsid_value: int | None = ...) -> None: ...
class ns_file_entry(Message):
    id: int
    ns_id: int
    ns_cflag: int
    flags: int
    def __init__(self, *, id: int | None = ..., ns_id: int | None = ..., ns_cflag: int | None = ..., flags: int | None = ...) -> None: ...
class pac_address_keys(Message):
    apiakey_lo: int
    apiakey_hi: int
    apibkey_lo: int
    apibkey_hi: int
    apdakey_lo: int
    apdakey_hi: int
    apdbkey_lo: int
    apdbkey_hi: int
    pac_enabled_key: int
    def __init__(self, *, apiakey_lo: int | None = ..., apiakey_hi: int | None = ..., apibkey_lo: int | None = ..., apibkey_hi: int | None = ..., apdakey_lo: int | None = ..., apdakey_hi: int | None = ..., apdbkey_lo: int | None = ..., apdbkey_hi: int | None = ..., pac_enabled_key: int | None = ...) -> None: ...
class pac_generic_keys(Message):
    apgakey_lo: int
    apgakey_hi: int
    def __init__(self, *, apgakey_lo: int | None = ..., apgakey_hi: int | None = ...) -> None: ...
class pac_keys(Message):
    @property
    def pac_address_keys(self) -> _pac_address_keys: ...
    @property
    def pac_generic_keys(self) -> _pac_generic_keys: ...
    def __init__(self, *, pac_address_keys: _pac_address_keys | None = ..., pac_generic_keys: _pac_generic_keys | None = ...) -> None: ...
class packet_mclist(Message):
    index: int
    type: int
    addr: bytes
    def __init__(self, *, index: int | None = ..., type: int | None = ..., addr: bytes | None = ...) -> None: ...
class packet_ring(Message):
    block_size: int
    block_nr: int
    frame_size: int
    frame_nr: int
    retire_tmo: int
    sizeof_priv: int
    features: int
    def __init__(self, *, block_size: int | None = ..., block_nr: int | None = ..., frame_size: int | None = ..., frame_nr: int | None = ..., retire_tmo: int | None = ..., sizeof_priv: int | None = ..., features: int | None = ...) -> None: ...
class packet_sock_entry(Message):
    id: int
    type: int
    protocol: int
    flags: int
    ifindex: int
    @property
    def fown(self) -> fown_entry: ...
    @property
    def opts(self) -> sk_opts_entry: ...
    version: int
    reserve: int
    aux_data: bool
    orig_dev: bool
    vnet_hdr: bool
    loss: bool
    timestamp: int
    copy_thresh: int
    @property
    def mclist(self) -> Messages[packet_mclist]: ...
    fanout: int
    @property
    def rx_ring(self) -> packet_ring: ...
    @property
    def tx_ring(self) -> packet_ring: ...
    ns_id: int
    def __init__(self, *, id: int | None = ..., type: int | None = ..., protocol: int | None = ..., flags: int | None = ..., ifindex: int | None = ..., fown: fown_entry | None = ..., opts: sk_opts_entry | None = ..., version: int | None = ..., reserve: int | None = ..., aux_data: bool | None = ..., orig_dev: bool | None = ..., vnet_hdr: bool | None = ..., loss: bool | None = ..., timestamp: int | None = ..., copy_thresh: int | None = ..., mclist: Iterable[packet_mclist] | None = ..., fanout: int | None = ..., rx_ring: packet_ring | None = ..., tx_ring: packet_ring | None = ..., ns_id: int | None = ...) -> None: ...
class pagemap_entry(Message):
    vaddr: int
    compat_nr_pages: int
    in_parent: bool
    flags: int
    nr_pages: int
    def __init__(self, *, vaddr: int | None = ..., compat_nr_pages: int | None = ..., in_parent: bool | None = ..., flags: int | None = ..., nr_pages: int | None = ...) -> None: ...
class pagemap_head(Message):
    pages_id: int
    def __init__(self, *, pages_id: int | None = ...) -> None: ...
class pidfd_entry(Message):
    id: int
    ino: int
    flags: int
    nspid: int
    @property
    def fown(self) -> fown_entry: ...
    def __init__(self, *, id: int | None = ..., ino: int | None = ..., flags: int | None = ..., nspid: int | None = ..., fown: fown_entry | None = ...) -> None: ...
class pidns_entry(Message):
    ext_key: str
    def __init__(self, *, ext_key: str | None = ...) -> None: ...
class pipe_data_entry(Message):
    pipe_id: int
    bytes: int
    size: int
    def __init__(self, *, pipe_id: int | None = ..., bytes: int | None = ..., size: int | None = ...) -> None: ...
class pipe_entry(Message):
    id: int
    pipe_id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    def __init__(self, *, id: int | None = ..., pipe_id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ...) -> None: ...
class plugins_entry(Message):
    @property
    def plugins(self) -> Scalars[str]: ...
    def __init__(self, *, plugins: Iterable[str] | None = ...) -> None: ...
class posix_timer_entry(Message):
    it_id: int
    clock_id: int
    si_signo: int
    it_sigev_notify: int
    sival_ptr: int
    overrun: int
    isec: int
    insec: int
    vsec: int
    vnsec: int
    notify_thread_id: int
    def __init__(self, *, it_id: int | None = ..., clock_id: int | None = ..., si_signo: int | None = ..., it_sigev_notify: int | None = ..., sival_ptr: int | None = ..., overrun: int | None = ..., isec: int | None = ..., insec: int | None = ..., vsec: int | None = ..., vnsec: int | None = ..., notify_thread_id: int | None = ...) -> None: ...
class pstree_entry(Message):
    pid: int
    ppid: int
    pgid: int
    sid: int
    @property
    def threads(self) -> Scalars[int]: ...
    def __init__(self, *, pid: int | None = ..., ppid: int | None = ..., pgid: int | None = ..., sid: int | None = ..., threads: Iterable[int] | None = ...) -> None: ...
class pycriu_attribute(Message):
    name: bytes
    value: bytes
    def __init__(self, *, name: bytes | None = ..., value: bytes | None = ...) -> None: ...
class pycriu_cpu_entry(Message):
    mtype: int
    @property
    def capabilities(self) -> Scalars[int]: ...
    def __init__(self, *, mtype: int | None = ..., capabilities: Iterable[int] | None = ...) -> None: ...
class pycriu_epoll_entry(Message):
    id: int
    @property
    def slot(self) -> Messages[pycriu_epoll_slot]: ...
    params: bytes
    def __init__(self, *, id: int | None = ..., slot: Iterable[pycriu_epoll_slot] | None = ..., params: bytes | None = ...) -> None: ...
class pycriu_epoll_slot(Message):
    index: int
    number: int
    target: int
    def __init__(self, *, index: int | None = ..., number: int | None = ..., target: int | None = ...) -> None: ...
class pycriu_eventfd_entry(Message):
    id: int
    semaphore: bool
    def __init__(self, *, id: int | None = ..., semaphore: bool | None = ...) -> None: ...
class pycriu_file_entry(Message):
    id: int
    mtime: int
    sample: int
    digest: bytes
    def __init__(self, *, id: int | None = ..., mtime: int | None = ..., sample: int | None = ..., digest: bytes | None = ...) -> None: ...
class pycriu_ghost_entry(Message):
    id: int
    @property
    def xattr(self) -> Messages[pycriu_attribute]: ...
    def __init__(self, *, id: int | None = ..., xattr: Iterable[pycriu_attribute] | None = ...) -> None: ...
class pycriu_kmsg_entry(Message):
    id: int
    last: int
    def __init__(self, *, id: int | None = ..., last: int | None = ...) -> None: ...
class pycriu_mapping_entry(Message):
    start: int
    locked_on_fault: bool
    branch_targets: bool
    sealed: bool
    name: bytes
    key: int
    @property
    def keys(self) -> Scalars[int]: ...
    def __init__(self, *, start: int | None = ..., locked_on_fault: bool | None = ..., branch_targets: bool | None = ..., sealed: bool | None = ..., name: bytes | None = ..., key: int | None = ..., keys: Iterable[int] | None = ...) -> None: ...
class pycriu_option(Message):
    name: str
    value: bytes
    def __init__(self, *, name: str | None = ..., value: bytes | None = ...) -> None: ...
class pycriu_packets_entry(Message):
    pipe_id: int
    @property
    def bytes(self) -> Scalars[int]: ...
    def __init__(self, *, pipe_id: int | None = ..., bytes: Iterable[int] | None = ...) -> None: ...
class pycriu_pidfd_entry(Message):
    ino: int
    status: int
    def __init__(self, *, ino: int | None = ..., status: int | None = ...) -> None: ...
class pycriu_plugin_entry(Message):
    plugin: str
    file: int
    data: bytes
    def __init__(self, *, plugin: str | None = ..., file: int | None = ..., data: bytes | None = ...) -> None: ...
class pycriu_punched_entry(Message):
    uptime: int
    def __init__(self, *, uptime: int | None = ...) -> None: ...
class pycriu_registers_entry(Message):
    data: bytes
    def __init__(self, *, data: bytes | None = ...) -> None: ...
class pycriu_socket_entry(Message):
    id: int
    @property
    def option(self) -> Messages[pycriu_option]: ...
    def __init__(self, *, id: int | None = ..., option: Iterable[pycriu_option] | None = ...) -> None: ...
class pycriu_task_entry(Message):
    tid: int
    @property
    def affinity(self) -> Scalars[int]: ...
    sched_flags: int
    @property
    def deadline(self) -> Scalars[int]: ...
    slice: int
    @property
    def clamps(self) -> Scalars[int]: ...
    io_priority: int
    timer_slack: int
    @property
    def memory_policy(self) -> Scalars[int]: ...
    tsc: int
    mce_kill: int
    store_bypass: int
    indirect_branch: int
    l1d_flush: int
    tagged_addresses: int
    sve_length: int
    sme_length: int
    no_exec_gain: int
    memory_merge: int
    io_flusher: int
    lock_future: int
    coredump_filter: int
    exit_signal: int
    @property
    def unseen_stops(self) -> Scalars[int]: ...
    @property
    def clocks(self) -> Scalars[int]: ...
    boot: bytes
    def __init__(self, *, tid: int | None = ..., affinity: Iterable[int] | None = ..., sched_flags: int | None = ..., deadline: Iterable[int] | None = ..., slice: int | None = ..., clamps: Iterable[int] | None = ..., io_priority: int | None = ..., timer_slack: int | None = ..., memory_policy: Iterable[int] | None = ..., tsc: int | None = ..., mce_kill: int | None = ..., store_bypass: int | None = ..., indirect_branch: int | None = ..., l1d_flush: int | None = ..., tagged_addresses: int | None = ..., sve_length: int | None = ..., sme_length: int | None = ..., no_exec_gain: int | None = ..., memory_merge: int | None = ..., io_flusher: int | None = ..., lock_future: int | None = ..., coredump_filter: int | None = ..., exit_signal: int | None = ..., unseen_stops: Iterable[int] | None = ..., clocks: Iterable[int] | None = ..., boot: bytes | None = ...) -> None: ...
class pycriu_timerfd_entry(Message):
    id: int
    expiry: int
    boot: bytes
    def __init__(self, *, id: int | None = ..., expiry: int | None = ..., boot: bytes | None = ...) -> None: ...
class pycriu_track_entry(Message):
    token: bytes
    boot: bytes
    started: int
    @property
    def marked(self) -> Scalars[int]: ...
    @property
    def other(self) -> Scalars[int]: ...
    @property
    def start(self) -> Scalars[int]: ...
    @property
    def pages(self) -> Scalars[int]: ...
    entries: bytes
    def __init__(self, *, token: bytes | None = ..., boot: bytes | None = ..., started: int | None = ..., marked: Iterable[int] | None = ..., other: Iterable[int] | None = ..., start: Iterable[int] | None = ..., pages: Iterable[int] | None = ..., entries: bytes | None = ...) -> None: ...
class pycriu_tty_entry(Message):
    index: int
    mode: int
    closed: bool
    @property
    def line(self) -> Scalars[bytes]: ...
    typed: bytes
    behind: bytes
    stopped: int
    status: int
    def __init__(self, *, index: int | None = ..., mode: int | None = ..., closed: bool | None = ..., line: Iterable[bytes] | None = ..., typed: bytes | None = ..., behind: bytes | None = ..., stopped: int | None = ..., status: int | None = ...) -> None: ...
class pycriu_tun_device(Message):
    index: int
    flags: int
    mtu: int
    queue: int
    sndbuf: int
    owner: int
    group: int
    mac: bytes
    master: str
    @property
    def addresses(self) -> Scalars[bytes]: ...
    @property
    def routes(self) -> Scalars[bytes]: ...
    def __init__(self, *, index: int | None = ..., flags: int | None = ..., mtu: int | None = ..., queue: int | None = ..., sndbuf: int | None = ..., owner: int | None = ..., group: int | None = ..., mac: bytes | None = ..., master: str | None = ..., addresses: Iterable[bytes] | None = ..., routes: Iterable[bytes] | None = ...) -> None: ...
class pycriu_tun_entry(Message):
    id: int
    flags: int
    @property
    def device(self) -> pycriu_tun_device: ...
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., device: pycriu_tun_device | None = ...) -> None: ...
class reg_file_entry(Message):
    id: int
    flags: int
    pos: int
    @property
    def fown(self) -> fown_entry: ...
    name: str
    mnt_id: int
    size: int
    ext: bool
    mode: int
    @property
    def build_id(self) -> Scalars[int]: ...
    checksum: int
    checksum_config: int
    checksum_parameter: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., pos: int | None = ..., fown: fown_entry | None = ..., name: str | None = ..., mnt_id: int | None = ..., size: int | None = ..., ext: bool | None = ..., mode: int | None = ..., build_id: Iterable[int] | None = ..., checksum: int | None = ..., checksum_config: int | None = ..., checksum_parameter: int | None = ...) -> None: ...
class remap_file_path_entry(Message):
    orig_id: int
    remap_id: int
    remap_type: int
    def __init__(self, *, orig_id: int | None = ..., remap_id: int | None = ..., remap_type: int | None = ...) -> None: ...
class restore_stats_entry(Message):
    pages_compared: int
    pages_skipped_cow: int
    forking_time: int
    restore_time: int
    pages_restored: int
    def __init__(self, *, pages_compared: int | None = ..., pages_skipped_cow: int | None = ..., forking_time: int | None = ..., restore_time: int | None = ..., pages_restored: int | None = ...) -> None: ...
class rlimit_entry(Message):
    cur: int
    max: int
    def __init__(self, *, cur: int | None = ..., max: int | None = ...) -> None: ...
class rseq_entry(Message):
    rseq_abi_pointer: int
    rseq_abi_size: int
    signature: int
    rseq_cs_pointer: int
    def __init__(self, *, rseq_abi_pointer: int | None = ..., rseq_abi_size: int | None = ..., signature: int | None = ..., rseq_cs_pointer: int | None = ...) -> None: ...
class sa_entry(Message):
    sigaction: int
    flags: int
    restorer: int
    mask: int
    compat_sigaction: bool
    mask_extended: int
    def __init__(self, *, sigaction: int | None = ..., flags: int | None = ..., restorer: int | None = ..., mask: int | None = ..., compat_sigaction: bool | None = ..., mask_extended: int | None = ...) -> None: ...
class scm_entry(Message):
    type: int
    @property
    def rights(self) -> Scalars[int]: ...
    def __init__(self, *, type: int | None = ..., rights: Iterable[int] | None = ...) -> None: ...
class seccomp_entry(Message):
    @property
    def seccomp_filters(self) -> Messages[seccomp_filter]: ...
    def __init__(self, *, seccomp_filters: Iterable[seccomp_filter] | None = ...) -> None: ...
class seccomp_filter(Message):
    filter: bytes
    prev: int
    flags: int
    def __init__(self, *, filter: bytes | None = ..., prev: int | None = ..., flags: int | None = ...) -> None: ...
class siginfo_entry(Message):
    siginfo: bytes
    def __init__(self, *, siginfo: bytes | None = ...) -> None: ...
class signal_queue_entry(Message):
    @property
    def signals(self) -> Messages[siginfo_entry]: ...
    def __init__(self, *, signals: Iterable[siginfo_entry] | None = ...) -> None: ...
class signalfd_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    sigmask: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., sigmask: int | None = ...) -> None: ...
class sit_entry(Message):
    link: int
    @property
    def local(self) -> Scalars[int]: ...
    @property
    def remote(self) -> Scalars[int]: ...
    ttl: int
    tos: int
    pmtudisc: bool
    proto: int
    flags: int
    encap_type: int
    encap_flags: int
    encap_sport: int
    encap_dport: int
    rd_prefixlen: int
    @property
    def rd_prefix(self) -> Scalars[int]: ...
    relay_prefixlen: int
    @property
    def relay_prefix(self) -> Scalars[int]: ...
    def __init__(self, *, link: int | None = ..., local: Iterable[int] | None = ..., remote: Iterable[int] | None = ..., ttl: int | None = ..., tos: int | None = ..., pmtudisc: bool | None = ..., proto: int | None = ..., flags: int | None = ..., encap_type: int | None = ..., encap_flags: int | None = ..., encap_sport: int | None = ..., encap_dport: int | None = ..., rd_prefixlen: int | None = ..., rd_prefix: Iterable[int] | None = ..., relay_prefixlen: int | None = ..., relay_prefix: Iterable[int] | None = ...) -> None: ...
class sk_opts_entry(Message):
    so_sndbuf: int
    so_rcvbuf: int
    so_snd_tmo_sec: int
    so_snd_tmo_usec: int
    so_rcv_tmo_sec: int
    so_rcv_tmo_usec: int
    reuseaddr: bool
    so_priority: int
    so_rcvlowat: int
    so_mark: int
    so_passcred: bool
    so_passsec: bool
    so_dontroute: bool
    so_no_check: bool
    so_bound_dev: str
    @property
    def so_filter(self) -> Scalars[int]: ...
    so_reuseport: bool
    so_broadcast: bool
    so_keepalive: bool
    tcp_keepcnt: int
    tcp_keepidle: int
    tcp_keepintvl: int
    so_oobinline: int
    so_linger: int
    so_buf_lock: int
    def __init__(self, *, so_sndbuf: int | None = ..., so_rcvbuf: int | None = ..., so_snd_tmo_sec: int | None = ..., so_snd_tmo_usec: int | None = ..., so_rcv_tmo_sec: int | None = ..., so_rcv_tmo_usec: int | None = ..., reuseaddr: bool | None = ..., so_priority: int | None = ..., so_rcvlowat: int | None = ..., so_mark: int | None = ..., so_passcred: bool | None = ..., so_passsec: bool | None = ..., so_dontroute: bool | None = ..., so_no_check: bool | None = ..., so_bound_dev: str | None = ..., so_filter: Iterable[int] | None = ..., so_reuseport: bool | None = ..., so_broadcast: bool | None = ..., so_keepalive: bool | None = ..., tcp_keepcnt: int | None = ..., tcp_keepidle: int | None = ..., tcp_keepintvl: int | None = ..., so_oobinline: int | None = ..., so_linger: int | None = ..., so_buf_lock: int | None = ...) -> None: ...
class sk_packet_entry(Message):
    id_for: int
    length: int
    @property
    def scm(self) -> Messages[scm_entry]: ...
    def __init__(self, *, id_for: int | None = ..., length: int | None = ..., scm: Iterable[scm_entry] | None = ...) -> None: ...
class stats_entry(Message):
    @property
    def dump(self) -> dump_stats_entry: ...
    @property
    def restore(self) -> restore_stats_entry: ...
    def __init__(self, *, dump: dump_stats_entry | None = ..., restore: restore_stats_entry | None = ...) -> None: ...
class sysctl_entry(Message):
    type: int
    iarg: int
    sarg: str
    def __init__(self, *, type: int | None = ..., iarg: int | None = ..., sarg: str | None = ...) -> None: ...
class task_core_entry(Message):
    task_state: int
    exit_code: int
    personality: int
    flags: int
    blk_sigset: int
    comm: str
    @property
    def timers(self) -> task_timers_entry: ...
    @property
    def rlimits(self) -> task_rlimits_entry: ...
    cg_set: int
    @property
    def signals_s(self) -> signal_queue_entry: ...
    old_seccomp_mode: int
    old_seccomp_filter: int
    loginuid: int
    oom_score_adj: int
    @property
    def sigactions(self) -> Messages[sa_entry]: ...
    child_subreaper: bool
    blk_sigset_extended: int
    stop_signo: int
    membarrier_registration_mask: int
    def __init__(self, *, task_state: int | None = ..., exit_code: int | None = ..., personality: int | None = ..., flags: int | None = ..., blk_sigset: int | None = ..., comm: str | None = ..., timers: task_timers_entry | None = ..., rlimits: task_rlimits_entry | None = ..., cg_set: int | None = ..., signals_s: signal_queue_entry | None = ..., old_seccomp_mode: int | None = ..., old_seccomp_filter: int | None = ..., loginuid: int | None = ..., oom_score_adj: int | None = ..., sigactions: Iterable[sa_entry] | None = ..., child_subreaper: bool | None = ..., blk_sigset_extended: int | None = ..., stop_signo: int | None = ..., membarrier_registration_mask: int | None = ...) -> None: ...
class task_kobj_ids_entry(Message):
    vm_id: int
    files_id: int
    fs_id: int
    sighand_id: int
    pid_ns_id: int
    net_ns_id: int
    ipc_ns_id: int
    uts_ns_id: int
    mnt_ns_id: int
    user_ns_id: int
    cgroup_ns_id: int
    time_ns_id: int
    def __init__(self, *, vm_id: int | None = ..., files_id: int | None = ..., fs_id: int | None = ..., sighand_id: int | None = ..., pid_ns_id: int | None = ..., net_ns_id: int | None = ..., ipc_ns_id: int | None = ..., uts_ns_id: int | None = ..., mnt_ns_id: int | None = ..., user_ns_id: int | None = ..., cgroup_ns_id: int | None = ..., time_ns_id: int | None = ...) -> None: ...
class task_rlimits_entry(Message):
    @property
    def rlimits(self) -> Messages[rlimit_entry]: ...
    def __init__(self, *, rlimits: Iterable[rlimit_entry] | None = ...) -> None: ...
class task_timers_entry(Message):
    @property
    def real(self) -> itimer_entry: ...
    @property
    def virt(self) -> itimer_entry: ...
    @property
    def prof(self) -> itimer_entry: ...
    @property
    def posix(self) -> Messages[posix_timer_entry]: ...
    def __init__(self, *, real: itimer_entry | None = ..., virt: itimer_entry | None = ..., prof: itimer_entry | None = ..., posix: Iterable[posix_timer_entry] | None = ...) -> None: ...
class tcp_opts_entry(Message):
    cork: bool
    nodelay: bool
    keepcnt: int
    keepidle: int
    keepintvl: int
    def __init__(self, *, cork: bool | None = ..., nodelay: bool | None = ..., keepcnt: int | None = ..., keepidle: int | None = ..., keepintvl: int | None = ...) -> None: ...
class tcp_stream_entry(Message):
    inq_len: int
    inq_seq: int
    outq_len: int
    outq_seq: int
    opt_mask: int
    snd_wscale: int
    mss_clamp: int
    rcv_wscale: int
    timestamp: int
    cork: bool
    nodelay: bool
    unsq_len: int
    snd_wl1: int
    snd_wnd: int
    max_window: int
    rcv_wnd: int
    rcv_wup: int
    def __init__(self, *, inq_len: int | None = ..., inq_seq: int | None = ..., outq_len: int | None = ..., outq_seq: int | None = ..., opt_mask: int | None = ..., snd_wscale: int | None = ..., mss_clamp: int | None = ..., rcv_wscale: int | None = ..., timestamp: int | None = ..., cork: bool | None = ..., nodelay: bool | None = ..., unsq_len: int | None = ..., snd_wl1: int | None = ..., snd_wnd: int | None = ..., max_window: int | None = ..., rcv_wnd: int | None = ..., rcv_wup: int | None = ...) -> None: ...
class termios_entry(Message):
    c_iflag: int
    c_oflag: int
    c_cflag: int
    c_lflag: int
    c_line: int
    c_ispeed: int
    c_ospeed: int
    @property
    def c_cc(self) -> Scalars[int]: ...
    def __init__(self, *, c_iflag: int | None = ..., c_oflag: int | None = ..., c_cflag: int | None = ..., c_lflag: int | None = ..., c_line: int | None = ..., c_ispeed: int | None = ..., c_ospeed: int | None = ..., c_cc: Iterable[int] | None = ...) -> None: ...
class thread_core_entry(Message):
    futex_rla: int
    futex_rla_len: int
    sched_nice: int
    sched_policy: int
    sched_prio: int
    blk_sigset: int
    @property
    def sas(self) -> thread_sas_entry: ...
    pdeath_sig: int
    @property
    def signals_p(self) -> signal_queue_entry: ...
    @property
    def creds(self) -> creds_entry: ...
    seccomp_mode: int
    seccomp_filter: int
    comm: str
    blk_sigset_extended: int
    @property
    def rseq_entry(self) -> _rseq_entry: ...
    cg_set: int
    def __init__(self, *, futex_rla: int | None = ..., futex_rla_len: int | None = ..., sched_nice: int | None = ..., sched_policy: int | None = ..., sched_prio: int | None = ..., blk_sigset: int | None = ..., sas: thread_sas_entry | None = ..., pdeath_sig: int | None = ..., signals_p: signal_queue_entry | None = ..., creds: creds_entry | None = ..., seccomp_mode: int | None = ..., seccomp_filter: int | None = ..., comm: str | None = ..., blk_sigset_extended: int | None = ..., rseq_entry: _rseq_entry | None = ..., cg_set: int | None = ...) -> None: ...
class thread_info_aarch64(Message):
    clear_tid_addr: int
    tls: int
    @property
    def gpregs(self) -> user_aarch64_regs_entry: ...
    @property
    def fpsimd(self) -> user_aarch64_fpsimd_context_entry: ...
    @property
    def pac_keys(self) -> _pac_keys: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., tls: int | None = ..., gpregs: user_aarch64_regs_entry | None = ..., fpsimd: user_aarch64_fpsimd_context_entry | None = ..., pac_keys: _pac_keys | None = ...) -> None: ...
class thread_info_arm(Message):
    clear_tid_addr: int
    tls: int
    @property
    def gpregs(self) -> user_arm_regs_entry: ...
    @property
    def fpstate(self) -> user_arm_vfpstate_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., tls: int | None = ..., gpregs: user_arm_regs_entry | None = ..., fpstate: user_arm_vfpstate_entry | None = ...) -> None: ...
class thread_info_loongarch64(Message):
    clear_tid_addr: int
    tls: int
    @property
    def gpregs(self) -> user_loongarch64_gpregs_entry: ...
    @property
    def fpregs(self) -> user_loongarch64_fpregs_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., tls: int | None = ..., gpregs: user_loongarch64_gpregs_entry | None = ..., fpregs: user_loongarch64_fpregs_entry | None = ...) -> None: ...
class thread_info_mips(Message):
    clear_tid_addr: int
    tls: int
    @property
    def gpregs(self) -> user_mips_regs_entry: ...
    @property
    def fpregs(self) -> user_mips_fpregs_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., tls: int | None = ..., gpregs: user_mips_regs_entry | None = ..., fpregs: user_mips_fpregs_entry | None = ...) -> None: ...
class thread_info_ppc64(Message):
    clear_tid_addr: int
    @property
    def gpregs(self) -> user_ppc64_regs_entry: ...
    @property
    def fpstate(self) -> user_ppc64_fpstate_entry: ...
    @property
    def vrstate(self) -> user_ppc64_vrstate_entry: ...
    @property
    def vsxstate(self) -> user_ppc64_vsxstate_entry: ...
    @property
    def tmstate(self) -> user_ppc64_tm_regs_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., gpregs: user_ppc64_regs_entry | None = ..., fpstate: user_ppc64_fpstate_entry | None = ..., vrstate: user_ppc64_vrstate_entry | None = ..., vsxstate: user_ppc64_vsxstate_entry | None = ..., tmstate: user_ppc64_tm_regs_entry | None = ...) -> None: ...
class thread_info_riscv64(Message):
    clear_tid_addr: int
    tls: int
    @property
    def gpregs(self) -> user_riscv64_regs_entry: ...
    @property
    def fpsimd(self) -> user_riscv64_d_ext_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., tls: int | None = ..., gpregs: user_riscv64_regs_entry | None = ..., fpsimd: user_riscv64_d_ext_entry | None = ...) -> None: ...
class thread_info_s390(Message):
    clear_tid_addr: int
    @property
    def gpregs(self) -> user_s390_regs_entry: ...
    @property
    def fpregs(self) -> user_s390_fpregs_entry: ...
    @property
    def vxrs_low(self) -> user_s390_vxrs_low_entry: ...
    @property
    def vxrs_high(self) -> user_s390_vxrs_high_entry: ...
    @property
    def gs_cb(self) -> user_s390_gs_cb_entry: ...
    @property
    def gs_bc(self) -> user_s390_gs_cb_entry: ...
    @property
    def ri_cb(self) -> user_s390_ri_entry: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., gpregs: user_s390_regs_entry | None = ..., fpregs: user_s390_fpregs_entry | None = ..., vxrs_low: user_s390_vxrs_low_entry | None = ..., vxrs_high: user_s390_vxrs_high_entry | None = ..., gs_cb: user_s390_gs_cb_entry | None = ..., gs_bc: user_s390_gs_cb_entry | None = ..., ri_cb: user_s390_ri_entry | None = ...) -> None: ...
class thread_info_x86(Message):
    clear_tid_addr: int
    @property
    def gpregs(self) -> user_x86_regs_entry: ...
    @property
    def fpregs(self) -> user_x86_fpregs_entry: ...
    @property
    def tls(self) -> Messages[user_desc_t]: ...
    def __init__(self, *, clear_tid_addr: int | None = ..., gpregs: user_x86_regs_entry | None = ..., fpregs: user_x86_fpregs_entry | None = ..., tls: Iterable[user_desc_t] | None = ...) -> None: ...
class thread_sas_entry(Message):
    ss_sp: int
    ss_size: int
    ss_flags: int
    def __init__(self, *, ss_sp: int | None = ..., ss_size: int | None = ..., ss_flags: int | None = ...) -> None: ...
class timens_entry(Message):
    @property
    def monotonic(self) -> timespec: ...
    @property
    def boottime(self) -> timespec: ...
    def __init__(self, *, monotonic: timespec | None = ..., boottime: timespec | None = ...) -> None: ...
class timerfd_entry(Message):
    id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    clockid: int
    ticks: int
    settime_flags: int
    vsec: int
    vnsec: int
    isec: int
    insec: int
    def __init__(self, *, id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., clockid: int | None = ..., ticks: int | None = ..., settime_flags: int | None = ..., vsec: int | None = ..., vnsec: int | None = ..., isec: int | None = ..., insec: int | None = ...) -> None: ...
class timespec(Message):
    tv_sec: int
    tv_nsec: int
    def __init__(self, *, tv_sec: int | None = ..., tv_nsec: int | None = ...) -> None: ...
class timeval(Message):
    tv_sec: int
    tv_usec: int
    def __init__(self, *, tv_sec: int | None = ..., tv_usec: int | None = ...) -> None: ...
class tty_data_entry(Message):
    tty_id: int
    data: bytes
    def __init__(self, *, tty_id: int | None = ..., data: bytes | None = ...) -> None: ...
class tty_file_entry(Message):
    id: int
    tty_info_id: int
    flags: int
    @property
    def fown(self) -> fown_entry: ...
    regf_id: int
    def __init__(self, *, id: int | None = ..., tty_info_id: int | None = ..., flags: int | None = ..., fown: fown_entry | None = ..., regf_id: int | None = ...) -> None: ...
class tty_info_entry(Message):
    id: int
    type: int
    locked: bool
    exclusive: bool
    packet_mode: bool
    sid: int
    pgrp: int
    rdev: int
    @property
    def termios(self) -> termios_entry: ...
    @property
    def termios_locked(self) -> termios_entry: ...
    @property
    def winsize(self) -> winsize_entry: ...
    @property
    def pty(self) -> tty_pty_entry: ...
    dev: int
    uid: int
    gid: int
    def __init__(self, *, id: int | None = ..., type: int | None = ..., locked: bool | None = ..., exclusive: bool | None = ..., packet_mode: bool | None = ..., sid: int | None = ..., pgrp: int | None = ..., rdev: int | None = ..., termios: termios_entry | None = ..., termios_locked: termios_entry | None = ..., winsize: winsize_entry | None = ..., pty: tty_pty_entry | None = ..., dev: int | None = ..., uid: int | None = ..., gid: int | None = ...) -> None: ...
class tty_pty_entry(Message):
    index: int
    def __init__(self, *, index: int | None = ...) -> None: ...
class tun_link_entry(Message):
    flags: int
    owner: int
    group: int
    vnethdr: int
    sndbuf: int
    def __init__(self, *, flags: int | None = ..., owner: int | None = ..., group: int | None = ..., vnethdr: int | None = ..., sndbuf: int | None = ...) -> None: ...
class tunfile_entry(Message):
    id: int
    netdev: str
    detached: bool
    ns_id: int
    def __init__(self, *, id: int | None = ..., netdev: str | None = ..., detached: bool | None = ..., ns_id: int | None = ...) -> None: ...
class uid_gid_extent(Message):
    first: int
    lower_first: int
    count: int
    def __init__(self, *, first: int | None = ..., lower_first: int | None = ..., count: int | None = ...) -> None: ...
class unix_sk(Message):
    inode: int
    def __init__(self, *, inode: int | None = ...) -> None: ...
class unix_sk_entry(Message):
    id: int
    ino: int
    type: int
    state: int
    flags: int
    uflags: int
    backlog: int
    peer: int
    @property
    def fown(self) -> fown_entry: ...
    @property
    def opts(self) -> sk_opts_entry: ...
    name: bytes
    shutdown: int
    @property
    def file_perms(self) -> file_perms_entry: ...
    name_dir: str
    deleted: bool
    ns_id: int
    mnt_id: int
    def __init__(self, *, id: int | None = ..., ino: int | None = ..., type: int | None = ..., state: int | None = ..., flags: int | None = ..., uflags: int | None = ..., backlog: int | None = ..., peer: int | None = ..., fown: fown_entry | None = ..., opts: sk_opts_entry | None = ..., name: bytes | None = ..., shutdown: int | None = ..., file_perms: file_perms_entry | None = ..., name_dir: str | None = ..., deleted: bool | None = ..., ns_id: int | None = ..., mnt_id: int | None = ...) -> None: ...
class user_aarch64_fpsimd_context_entry(Message):
    @property
    def vregs(self) -> Scalars[int]: ...
    fpsr: int
    fpcr: int
    def __init__(self, *, vregs: Iterable[int] | None = ..., fpsr: int | None = ..., fpcr: int | None = ...) -> None: ...
class user_aarch64_regs_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    sp: int
    pc: int
    pstate: int
    def __init__(self, *, regs: Iterable[int] | None = ..., sp: int | None = ..., pc: int | None = ..., pstate: int | None = ...) -> None: ...
class user_arm_regs_entry(Message):
    r0: int
    r1: int
    r2: int
    r3: int
    r4: int
    r5: int
    r6: int
    r7: int
    r8: int
    r9: int
    r10: int
    fp: int
    ip: int
    sp: int
    lr: int
    pc: int
    cpsr: int
    orig_r0: int
    def __init__(self, *, r0: int | None = ..., r1: int | None = ..., r2: int | None = ..., r3: int | None = ..., r4: int | None = ..., r5: int | None = ..., r6: int | None = ..., r7: int | None = ..., r8: int | None = ..., r9: int | None = ..., r10: int | None = ..., fp: int | None = ..., ip: int | None = ..., sp: int | None = ..., lr: int | None = ..., pc: int | None = ..., cpsr: int | None = ..., orig_r0: int | None = ...) -> None: ...
class user_arm_vfpstate_entry(Message):
    @property
    def vfp_regs(self) -> Scalars[int]: ...
    fpscr: int
    fpexc: int
    fpinst: int
    fpinst2: int
    def __init__(self, *, vfp_regs: Iterable[int] | None = ..., fpscr: int | None = ..., fpexc: int | None = ..., fpinst: int | None = ..., fpinst2: int | None = ...) -> None: ...
class user_desc_t(Message):
    entry_number: int
    base_addr: int
    limit: int
    seg_32bit: bool
    contents_h: bool
    contents_l: bool
    read_exec_only: bool
    limit_in_pages: bool
    seg_not_present: bool
    usable: bool
    def __init__(self, *, entry_number: int | None = ..., base_addr: int | None = ..., limit: int | None = ..., seg_32bit: bool | None = ..., contents_h: bool | None = ..., contents_l: bool | None = ..., read_exec_only: bool | None = ..., limit_in_pages: bool | None = ..., seg_not_present: bool | None = ..., usable: bool | None = ...) -> None: ...
class user_loongarch64_fpregs_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    fcc: int
    fcsr: int
    def __init__(self, *, regs: Iterable[int] | None = ..., fcc: int | None = ..., fcsr: int | None = ...) -> None: ...
class user_loongarch64_gpregs_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    pc: int
    def __init__(self, *, regs: Iterable[int] | None = ..., pc: int | None = ...) -> None: ...
class user_mips_fpregs_entry(Message):
    r0: int
    r1: int
    r2: int
    r3: int
    r4: int
    r5: int
    r6: int
    r7: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    r16: int
    r17: int
    r18: int
    r19: int
    r20: int
    r21: int
    r22: int
    r23: int
    r24: int
    r25: int
    r26: int
    r27: int
    r28: int
    r29: int
    r30: int
    r31: int
    lo: int
    hi: int
    fpu_fcr31: int
    fpu_id: int
    def __init__(self, *, r0: int | None = ..., r1: int | None = ..., r2: int | None = ..., r3: int | None = ..., r4: int | None = ..., r5: int | None = ..., r6: int | None = ..., r7: int | None = ..., r8: int | None = ..., r9: int | None = ..., r10: int | None = ..., r11: int | None = ..., r12: int | None = ..., r13: int | None = ..., r14: int | None = ..., r15: int | None = ..., r16: int | None = ..., r17: int | None = ..., r18: int | None = ..., r19: int | None = ..., r20: int | None = ..., r21: int | None = ..., r22: int | None = ..., r23: int | None = ..., r24: int | None = ..., r25: int | None = ..., r26: int | None = ..., r27: int | None = ..., r28: int | None = ..., r29: int | None = ..., r30: int | None = ..., r31: int | None = ..., lo: int | None = ..., hi: int | None = ..., fpu_fcr31: int | None = ..., fpu_id: int | None = ...) -> None: ...
class user_mips_regs_entry(Message):
    r0: int
    r1: int
    r2: int
    r3: int
    r4: int
    r5: int
    r6: int
    r7: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    r16: int
    r17: int
    r18: int
    r19: int
    r20: int
    r21: int
    r22: int
    r23: int
    r24: int
    r25: int
    r26: int
    r27: int
    r28: int
    r29: int
    r30: int
    r31: int
    lo: int
    hi: int
    cp0_epc: int
    cp0_badvaddr: int
    cp0_status: int
    cp0_cause: int
    def __init__(self, *, r0: int | None = ..., r1: int | None = ..., r2: int | None = ..., r3: int | None = ..., r4: int | None = ..., r5: int | None = ..., r6: int | None = ..., r7: int | None = ..., r8: int | None = ..., r9: int | None = ..., r10: int | None = ..., r11: int | None = ..., r12: int | None = ..., r13: int | None = ..., r14: int | None = ..., r15: int | None = ..., r16: int | None = ..., r17: int | None = ..., r18: int | None = ..., r19: int | None = ..., r20: int | None = ..., r21: int | None = ..., r22: int | None = ..., r23: int | None = ..., r24: int | None = ..., r25: int | None = ..., r26: int | None = ..., r27: int | None = ..., r28: int | None = ..., r29: int | None = ..., r30: int | None = ..., r31: int | None = ..., lo: int | None = ..., hi: int | None = ..., cp0_epc: int | None = ..., cp0_badvaddr: int | None = ..., cp0_status: int | None = ..., cp0_cause: int | None = ...) -> None: ...
class user_ppc64_fpstate_entry(Message):
    @property
    def fpregs(self) -> Scalars[int]: ...
    def __init__(self, *, fpregs: Iterable[int] | None = ...) -> None: ...
class user_ppc64_regs_entry(Message):
    @property
    def gpr(self) -> Scalars[int]: ...
    nip: int
    msr: int
    orig_gpr3: int
    ctr: int
    link: int
    xer: int
    ccr: int
    trap: int
    texasr: int
    tfhar: int
    tfiar: int
    def __init__(self, *, gpr: Iterable[int] | None = ..., nip: int | None = ..., msr: int | None = ..., orig_gpr3: int | None = ..., ctr: int | None = ..., link: int | None = ..., xer: int | None = ..., ccr: int | None = ..., trap: int | None = ..., texasr: int | None = ..., tfhar: int | None = ..., tfiar: int | None = ...) -> None: ...
class user_ppc64_tm_regs_entry(Message):
    @property
    def gpregs(self) -> user_ppc64_regs_entry: ...
    @property
    def fpstate(self) -> user_ppc64_fpstate_entry: ...
    @property
    def vrstate(self) -> user_ppc64_vrstate_entry: ...
    @property
    def vsxstate(self) -> user_ppc64_vsxstate_entry: ...
    def __init__(self, *, gpregs: user_ppc64_regs_entry | None = ..., fpstate: user_ppc64_fpstate_entry | None = ..., vrstate: user_ppc64_vrstate_entry | None = ..., vsxstate: user_ppc64_vsxstate_entry | None = ...) -> None: ...
class user_ppc64_vrstate_entry(Message):
    @property
    def vrregs(self) -> Scalars[int]: ...
    vrsave: int
    def __init__(self, *, vrregs: Iterable[int] | None = ..., vrsave: int | None = ...) -> None: ...
class user_ppc64_vsxstate_entry(Message):
    @property
    def vsxregs(self) -> Scalars[int]: ...
    def __init__(self, *, vsxregs: Iterable[int] | None = ...) -> None: ...
class user_riscv64_d_ext_entry(Message):
    @property
    def f(self) -> Scalars[int]: ...
    fcsr: int
    def __init__(self, *, f: Iterable[int] | None = ..., fcsr: int | None = ...) -> None: ...
class user_riscv64_regs_entry(Message):
    pc: int
    ra: int
    sp: int
    gp: int
    tp: int
    t0: int
    t1: int
    t2: int
    s0: int
    s1: int
    a0: int
    a1: int
    a2: int
    a3: int
    a4: int
    a5: int
    a6: int
    a7: int
    s2: int
    s3: int
    s4: int
    s5: int
    s6: int
    s7: int
    s8: int
    s9: int
    s10: int
    s11: int
    t3: int
    t4: int
    t5: int
    t6: int
    def __init__(self, *, pc: int | None = ..., ra: int | None = ..., sp: int | None = ..., gp: int | None = ..., tp: int | None = ..., t0: int | None = ..., t1: int | None = ..., t2: int | None = ..., s0: int | None = ..., s1: int | None = ..., a0: int | None = ..., a1: int | None = ..., a2: int | None = ..., a3: int | None = ..., a4: int | None = ..., a5: int | None = ..., a6: int | None = ..., a7: int | None = ..., s2: int | None = ..., s3: int | None = ..., s4: int | None = ..., s5: int | None = ..., s6: int | None = ..., s7: int | None = ..., s8: int | None = ..., s9: int | None = ..., s10: int | None = ..., s11: int | None = ..., t3: int | None = ..., t4: int | None = ..., t5: int | None = ..., t6: int | None = ...) -> None: ...
class user_s390_fpregs_entry(Message):
    fpc: int
    @property
    def fprs(self) -> Scalars[int]: ...
    def __init__(self, *, fpc: int | None = ..., fprs: Iterable[int] | None = ...) -> None: ...
class user_s390_gs_cb_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    def __init__(self, *, regs: Iterable[int] | None = ...) -> None: ...
class user_s390_regs_entry(Message):
    psw_mask: int
    psw_addr: int
    @property
    def gprs(self) -> Scalars[int]: ...
    @property
    def acrs(self) -> Scalars[int]: ...
    orig_gpr2: int
    system_call: int
    def __init__(self, *, psw_mask: int | None = ..., psw_addr: int | None = ..., gprs: Iterable[int] | None = ..., acrs: Iterable[int] | None = ..., orig_gpr2: int | None = ..., system_call: int | None = ...) -> None: ...
class user_s390_ri_entry(Message):
    ri_on: int
    @property
    def regs(self) -> Scalars[int]: ...
    def __init__(self, *, ri_on: int | None = ..., regs: Iterable[int] | None = ...) -> None: ...
class user_s390_vxrs_high_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    def __init__(self, *, regs: Iterable[int] | None = ...) -> None: ...
class user_s390_vxrs_low_entry(Message):
    @property
    def regs(self) -> Scalars[int]: ...
    def __init__(self, *, regs: Iterable[int] | None = ...) -> None: ...
class user_x86_cet_entry(Message):
    cet: int
    ssp: int
    def __init__(self, *, cet: int | None = ..., ssp: int | None = ...) -> None: ...
class user_x86_fpregs_entry(Message):
    cwd: int
    swd: int
    twd: int
    fop: int
    rip: int
    rdp: int
    mxcsr: int
    mxcsr_mask: int
    @property
    def st_space(self) -> Scalars[int]: ...
    @property
    def xmm_space(self) -> Scalars[int]: ...
    @property
    def padding(self) -> Scalars[int]: ...
    @property
    def xsave(self) -> user_x86_xsave_entry: ...
    def __init__(self, *, cwd: int | None = ..., swd: int | None = ..., twd: int | None = ..., fop: int | None = ..., rip: int | None = ..., rdp: int | None = ..., mxcsr: int | None = ..., mxcsr_mask: int | None = ..., st_space: Iterable[int] | None = ..., xmm_space: Iterable[int] | None = ..., padding: Iterable[int] | None = ..., xsave: user_x86_xsave_entry | None = ...) -> None: ...
class user_x86_regs_entry(Message):
    r15: int
    r14: int
    r13: int
    r12: int
    bp: int
    bx: int
    r11: int
    r10: int
    r9: int
    r8: int
    ax: int
    cx: int
    dx: int
    si: int
    di: int
    orig_ax: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int
    mode: int
    def __init__(self, *, r15: int | None = ..., r14: int | None = ..., r13: int | None = ..., r12: int | None = ..., bp: int | None = ..., bx: int | None = ..., r11: int | None = ..., r10: int | None = ..., r9: int | None = ..., r8: int | None = ..., ax: int | None = ..., cx: int | None = ..., dx: int | None = ..., si: int | None = ..., di: int | None = ..., orig_ax: int | None = ..., ip: int | None = ..., cs: int | None = ..., flags: int | None = ..., sp: int | None = ..., ss: int | None = ..., fs_base: int | None = ..., gs_base: int | None = ..., ds: int | None = ..., es: int | None = ..., fs: int | None = ..., gs: int | None = ..., mode: int | None = ...) -> None: ...
class user_x86_xsave_entry(Message):
    xstate_bv: int
    @property
    def ymmh_space(self) -> Scalars[int]: ...
    @property
    def bndreg_state(self) -> Scalars[int]: ...
    @property
    def bndcsr_state(self) -> Scalars[int]: ...
    @property
    def opmask_reg(self) -> Scalars[int]: ...
    @property
    def zmm_upper(self) -> Scalars[int]: ...
    @property
    def hi16_zmm(self) -> Scalars[int]: ...
    @property
    def pkru(self) -> Scalars[int]: ...
    @property
    def cet(self) -> user_x86_cet_entry: ...
    def __init__(self, *, xstate_bv: int | None = ..., ymmh_space: Iterable[int] | None = ..., bndreg_state: Iterable[int] | None = ..., bndcsr_state: Iterable[int] | None = ..., opmask_reg: Iterable[int] | None = ..., zmm_upper: Iterable[int] | None = ..., hi16_zmm: Iterable[int] | None = ..., pkru: Iterable[int] | None = ..., cet: user_x86_cet_entry | None = ...) -> None: ...
class userns_entry(Message):
    @property
    def uid_map(self) -> Messages[uid_gid_extent]: ...
    @property
    def gid_map(self) -> Messages[uid_gid_extent]: ...
    def __init__(self, *, uid_map: Iterable[uid_gid_extent] | None = ..., gid_map: Iterable[uid_gid_extent] | None = ...) -> None: ...
class utsns_entry(Message):
    nodename: str
    domainname: str
    def __init__(self, *, nodename: str | None = ..., domainname: str | None = ...) -> None: ...
class vma_entry(Message):
    start: int
    end: int
    pgoff: int
    shmid: int
    prot: int
    flags: int
    status: int
    fd: int
    madv: int
    fdflags: int
    def __init__(self, *, start: int | None = ..., end: int | None = ..., pgoff: int | None = ..., shmid: int | None = ..., prot: int | None = ..., flags: int | None = ..., status: int | None = ..., fd: int | None = ..., madv: int | None = ..., fdflags: int | None = ...) -> None: ...
class winsize_entry(Message):
    ws_row: int
    ws_col: int
    ws_xpixel: int
    ws_ypixel: int
    def __init__(self, *, ws_row: int | None = ..., ws_col: int | None = ..., ws_xpixel: int | None = ..., ws_ypixel: int | None = ...) -> None: ...
_inherit_fd = inherit_fd
_pac_address_keys = pac_address_keys
_pac_generic_keys = pac_generic_keys
_pac_keys = pac_keys
_plugins_entry = plugins_entry
_rseq_entry = rseq_entry
