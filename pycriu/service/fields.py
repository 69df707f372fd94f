# SPDX-License-Identifier: GPL-2.0-only
"""criu_opts -> words of a command line, so that a field means what the option means, and is refused as the option is.

Every field of the message is a row here, or a name in `ELSEWHERE`; a unit test holds that against the message.
"""

from __future__ import annotations

from pycriu.command import arguments
from pycriu.errors import UserError
from pycriu.images import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.images import messages as m

# What is no option: the worker deals with these fields itself.
ELSEWHERE = (
    "images_dir_fd", "images_dir", "work_dir_fd", "pid", "log_file", "log_to_stderr", "log_level", "notify_scripts",
    "config_file", "pidfd_store_sk", "exec_cmd",
)  # fmt: skip

# What users other than root may ask for: nothing that names a file, or that changes one outside of the two directories.
FOR_ANYBODY = (
    "images_dir_fd", "images_dir", "work_dir_fd", "pid", "log_file", "log_to_stderr", "log_level", "notify_scripts",
    "leave_running", "leave_stopped", "shell_job", "timeout", "file_locks", "ghost_limit", "skip_file_rwx_check",
    "ext_unix_sk", "unix_sk_ino", "tcp_established", "tcp_close", "tcp_skip_in_flight", "network_lock", "track_mem",
    "pre_dump_mode", "cpu_cap", "manage_cgroups", "manage_cgroups_mode", "pidfd_store_sk",
)  # fmt: skip

_SWITCHES = {
    "leave_running": "leave-running",
    "leave_stopped": "leave-stopped",
    "tcp_established": "tcp-established",
    "tcp_close": "tcp-close",
    "tcp_skip_in_flight": "skip-in-flight",
    "evasive_devices": "evasive-devices",
    "shell_job": "shell-job",
    "file_locks": "file-locks",
    "track_mem": "track-mem",
    "auto_dedup": "auto-dedup",
    "link_remap": "link-remap",
    "force_irmap": "force-irmap",
    "weak_sysctls": "weak-sysctls",
    "skip_file_rwx_check": "skip-file-rwx-check",
    "mntns_compat_mode": "mntns-compat-mode",
    "unprivileged": "unprivileged",
    "lazy_pages": "lazy-pages",
    "tls": "tls",
    "tls_no_cn_verify": "tls-no-cn-verify",
    "rst_sibling": "restore-sibling",
    "ext_sharing": "enable-external-sharing",
    "ext_masters": "enable-external-masters",
}
_VALUES = {
    "root": "root",
    "parent_img": "prev-images-dir",
    "ghost_limit": "ghost-limit",
    "timeout": "timeout",
    "cgroup_props": "cgroup-props",
    "cgroup_props_file": "cgroup-props-file",
    "cgroup_yard": "cgroup-yard",
    "freeze_cgroup": "freeze-cgroup",
    "lsm_profile": "lsm-profile",
    "lsm_mount_context": "lsm-mount-context",
    "tls_cacert": "tls-cacert",
    "tls_cacrl": "tls-cacrl",
    "tls_cert": "tls-cert",
    "tls_key": "tls-key",
    # repeated
    "skip_mnt": "skip-mnt",
    "enable_fs": "enable-fs",
    "irmap_scan_paths": "irmap-scan-path",
    "external": "external",
    "cgroup_dump_controller": "cgroup-dump-controller",
}

# Only inside `pycriu swrk`, whose descriptors and parent are those of the client.
_OF_SWRK = ("rst_sibling", "inherit_fd")

_CLONE_NEWNET = 0x40000000
_CPU_CAPS = {1: "fpu", 2: "cpu", 4: "ins", 0xFFFFFFFF: "all", 0: "none"}
_NETWORK_LOCKS = {"IPTABLES": "iptables", "NFTABLES": "nftables", "SKIP": "skip"}
_CGROUP_MODES = {
    "IGNORE": "ignore", "CG_NONE": "none", "PROPS": "props", "SOFT": "soft", "FULL": "full", "STRICT": "strict",
    "DEFAULT": "soft",
}  # fmt: skip
_PRE_DUMP_MODES = {"SPLICE": "splice", "VM_READ": "read"}


def words(opts: m.criu_opts, *, swrk: bool) -> list[tuple[str, list[str]]]:
    """The fields of a message, each as words of a command line; UserError for what a service does not do."""
    found: list[tuple[str, list[str]]] = []
    for descriptor, value in opts.ListFields():
        name = descriptor.name
        if (name in _OF_SWRK or (name == "ps" and opts.ps.HasField("fd"))) and not swrk:
            raise UserError(
                f"{name} cannot be asked of a service", "it is for pycriu swrk, started by the client itself"
            )
        if name in _SWITCHES:
            found.append((name, _switch(_SWITCHES[name], on=value)))
        elif name in _VALUES:
            some = value if descriptor.is_repeated else [value]
            found.append((name, [f"--{_VALUES[name]}={one}" for one in some]))
        elif name in _OTHERS:
            found.append((name, _OTHERS[name](opts)))
        elif name not in ELSEWHERE:
            raise UserError(f"the field {name} of criu_opts is not supported by pycriu")
    return found


def known() -> set[str]:
    """All fields that are dealt with."""
    return {*_SWITCHES, *_VALUES, *_OTHERS, *ELSEWHERE}


def _switch(option: str, *, on: bool) -> list[str]:
    if on:
        return [f"--{option}"]
    return [f"--no-{option}"] if arguments.LONG[option].negatable else []


def _enumerator(enum: str, number: int) -> str:
    return next(name for name, value in schema.enum(enum).items() if value == number)


def _page_server(opts: m.criu_opts) -> list[str]:
    found = [] if opts.lazy_pages else ["--page-server"]
    if opts.ps.HasField("address"):
        found.append(f"--address={opts.ps.address}")
    if opts.ps.HasField("port"):
        found.append(f"--port={opts.ps.port}")
    if opts.ps.HasField("fd"):
        found.append(f"--ps-socket={opts.ps.fd}")
    return found


def _cpu_cap(opts: m.criu_opts) -> list[str]:
    if opts.cpu_cap in _CPU_CAPS:
        return [f"--cpu-cap={_CPU_CAPS[opts.cpu_cap]}"]
    names = [name for bit, name in _CPU_CAPS.items() if bit in (1, 2, 4) and opts.cpu_cap & bit]
    return [f"--cpu-cap={','.join(names) or 'none'}"]


def _empty_ns(opts: m.criu_opts) -> list[str]:
    if opts.empty_ns & ~_CLONE_NEWNET:
        raise UserError(f"empty_ns {opts.empty_ns:#x}: only a network namespace (CLONE_NEWNET) can be left empty")
    return ["--empty-ns=net"] if opts.empty_ns else []


def _unix_sockets(opts: m.criu_opts) -> list[str]:
    inodes = ",".join(str(one.inode) for one in opts.unix_sk_ino)
    if not opts.ext_unix_sk:
        return []
    return [f"--ext-unix-sk={inodes}" if inodes else "--ext-unix-sk"]


def _cgroups(opts: m.criu_opts) -> list[str]:
    if opts.HasField("manage_cgroups_mode"):
        mode = _CGROUP_MODES[_enumerator("criu_cg_mode", opts.manage_cgroups_mode)]
    else:
        mode = "soft" if opts.manage_cgroups else "ignore"
    return [f"--manage-cgroups={mode}"]


def _join_ns(opts: m.criu_opts) -> list[str]:
    return [
        f"--join-ns={one.ns}:{one.ns_file}" + (f",{one.extra_opt}" if one.extra_opt else "") for one in opts.join_ns
    ]


def _orphan_pts_master(opts: m.criu_opts) -> list[str]:
    if opts.orphan_pts_master:
        raise UserError(
            "orphan_pts_master is not supported by pycriu: a terminal whose other end lies outside is refused"
        )
    return []


def _status_fd(opts: m.criu_opts) -> list[str]:
    raise UserError("status_fd is not supported by pycriu", "notify_scripts tells of every stage")


def _display_stats(opts: m.criu_opts) -> list[str]:
    if opts.display_stats:
        raise UserError("display_stats is for a terminal", "the figures are in stats-dump and stats-restore")
    return []


_OTHERS: dict[str, Callable[[Any], list[str]]] = {
    "ps": _page_server,
    "cpu_cap": _cpu_cap,
    "empty_ns": _empty_ns,
    "ext_unix_sk": _unix_sockets,
    "unix_sk_ino": lambda opts: [],  # with ext_unix_sk, as in CRIU
    "manage_cgroups": lambda opts: [] if opts.HasField("manage_cgroups_mode") else _cgroups(opts),
    "manage_cgroups_mode": _cgroups,
    "join_ns": _join_ns,
    "orphan_pts_master": _orphan_pts_master,
    "status_fd": _status_fd,
    "display_stats": _display_stats,
    "veths": lambda opts: [f"--veth-pair={one.if_in}={one.if_out}" for one in opts.veths],
    "ext_mnt": lambda opts: [f"--ext-mount-map={one.key}:{one.val}" for one in opts.ext_mnt],
    "auto_ext_mnt": lambda opts: ["--ext-mount-map=auto"] if opts.auto_ext_mnt else [],
    "cg_root": lambda opts: [
        f"--cgroup-root={one.ctrl + ':' if one.HasField('ctrl') else ''}{one.path}" for one in opts.cg_root
    ],
    "inherit_fd": lambda opts: [f"--inherit-fd=fd[{one.fd}]:{one.key}" for one in opts.inherit_fd],
    "network_lock": lambda opts: [
        f"--network-lock={_NETWORK_LOCKS[_enumerator('criu_network_lock_method', opts.network_lock)]}"
    ],
    "pre_dump_mode": lambda opts: [
        f"--pre-dump-mode={_PRE_DUMP_MODES[_enumerator('criu_pre_dump_mode', opts.pre_dump_mode)]}"
    ],
}
