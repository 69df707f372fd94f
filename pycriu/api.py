# SPDX-License-Identifier: GPL-2.0-only
"""pycriu from Python, in this process: `pycriu.dump`, `pycriu.pre_dump`, `pycriu.restore`, `pycriu.check`.

    import pycriu

    result = pycriu.dump(4711, "checkpoint", leave_running=True)
    print(result.pages, "pages; stood still for", result.frozen, "us")

    restored = pycriu.restore("checkpoint")
    status = restored.wait()  # its root is a child of this process

What cannot be done raises a PycriuError: `message` names the object, `hint` says what to do. A dump that fails leaves
the tree as it was; of a restore that fails nothing is left. Root is needed, as for the command; this process must not
be in the tree.
"""

from __future__ import annotations

import operator
import os
import resource
import threading
from contextlib import contextmanager
from dataclasses import dataclass

from pycriu.check import probe
from pycriu.dump import DumpResult
from pycriu.dump import dump as run_dump
from pycriu.errors import HookFailed, ImageError, PycriuError, Unsupported, UserError
from pycriu.fds.external import for_dump
from pycriu.log import WARN, Log
from pycriu.options import VALIDATIONS, DumpOptions, PageServer, RestoreOptions, no_hook
from pycriu.predump import PreDumpResult
from pycriu.predump import pre_dump as run_pre_dump
from pycriu.probes.table import FEATURES, REQUIRED
from pycriu.restore import RestoreResult
from pycriu.restore import restore as run_restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pycriu.options import Hook

    StrPath = str | os.PathLike[str]

__all__ = [
    "DumpResult",
    "HookFailed",
    "ImageError",
    "Missing",
    "PageServer",
    "PreDumpResult",
    "PycriuError",
    "RestoreResult",
    "Unsupported",
    "UserError",
    "check",
    "dump",
    "pre_dump",
    "restore",
]


_LONGEST = 1e9  # seconds


@dataclass(frozen=True, slots=True)
class Missing:
    """A feature that this kernel, or this process, does not have."""

    name: str  # as `pycriu check --feature` takes it
    purpose: str
    required: bool  # by every dump and restore; else by some
    said: str  # by the kernel


def dump(
    pid: int,
    images_dir: StrPath,
    *,
    work_dir: StrPath | None = None,
    log_file: StrPath | None = None,
    log_level: int = WARN,
    leave_running: bool = False,
    leave_stopped: bool = False,
    shell_job: bool = False,
    timeout: int = 10,
    file_locks: bool = False,
    link_remap: bool = False,
    ghost_limit: int = 1 << 20,
    file_validation: str = "mtime",
    force_irmap: bool = False,
    irmap_scan_path: tuple[str, ...] = (),
    evasive_devices: bool = False,
    external: tuple[str, ...] = (),
    cpu_cap: str | None = None,
    allow_uprobes: bool = False,
    ext_unix_sk: str | None = None,
    tcp_established: bool = False,
    tcp_close: bool = False,
    skip_in_flight: bool = False,
    network_lock: str = "nftables",
    prev_images_dir: str | None = None,
    page_server: PageServer | None = None,
    track_mem: bool = False,
    libdir: str | None = None,
    hook: Hook | None = no_hook,
    hooks: str = "ask",
    hook_timeout: float = 10,
) -> DumpResult:
    """Save the tree of processes whose root is `pid` into the directory `images_dir`, which exists.

    The keywords are the options of `pycriu dump`. `work_dir` gets the statistics (default: with the images), `log_file`
    the log (default: warnings). `hook` is called with each stage and the PID; if it raises HookFailed, all is off.

        pycriu.dump(4711, "checkpoint", leave_running=True)  # saved, and goes on; else it is ended

    Raises UserError for what the request has wrong, Unsupported for what cannot be saved: all of it at once.
    """
    pid = _checked(pid, timeout)
    _one_of("file_validation", file_validation, VALIDATIONS)
    _one_of("network_lock", network_lock, ("nftables", "skip"))
    _check_dump(hooks, ghost_limit)
    images, work = _directories(images_dir, work_dir)
    names, sockets = for_dump(external, ext_unix_sk)
    options = DumpOptions(
        pid=pid, images_dir=images, work_dir=work, leave_running=leave_running, leave_stopped=leave_stopped,
        shell_job=shell_job, timeout=timeout, file_locks=file_locks, link_remap=link_remap, ghost_limit=ghost_limit,
        file_validation=file_validation, force_irmap=force_irmap, irmap_scan_path=irmap_scan_path,
        evasive_devices=evasive_devices, ext_unix_sk=sockets, tcp_established=tcp_established, tcp_close=tcp_close,
        skip_in_flight=skip_in_flight, network_lock=network_lock, prev_images_dir=prev_images_dir, hooks=hooks,
        page_server=page_server, track_mem=track_mem, external=names, cpu_cap=cpu_cap, allow_uprobes=allow_uprobes,
        hook=hook or no_hook, hook_timeout=hook_timeout, libdir=libdir,
    )  # fmt: skip
    with _surroundings(log_file, log_level) as log:
        return run_dump(options, log)


def pre_dump(
    pid: int,
    images_dir: StrPath,
    *,
    work_dir: StrPath | None = None,
    log_file: StrPath | None = None,
    log_level: int = WARN,
    shell_job: bool = False,
    timeout: int = 10,
    prev_images_dir: str | None = None,
    page_server: PageServer | None = None,
    track_mem: bool = True,
    hook: Hook | None = no_hook,
) -> PreDumpResult:
    """Save the memory of a tree that runs on, so that the dump which follows has less to do.

    pycriu.pre_dump(4711, "first")
    pycriu.dump(4711, "second", prev_images_dir="../first")
    """
    pid = _checked(pid, timeout)
    images, work = _directories(images_dir, work_dir)
    options = DumpOptions(
        pid=pid, images_dir=images, work_dir=work, shell_job=shell_job, timeout=timeout,
        prev_images_dir=prev_images_dir, page_server=page_server, track_mem=track_mem, hook=hook or no_hook,
    )  # fmt: skip
    with _surroundings(log_file, log_level) as log:
        return run_pre_dump(options, log)


def restore(
    images_dir: StrPath,
    *,
    work_dir: StrPath | None = None,
    log_file: StrPath | None = None,
    log_level: int = WARN,
    leave_stopped: bool = False,
    shell_job: bool = False,
    file_locks: bool = False,
    link_remap: bool = False,
    file_validation: str = "mtime",
    skip_file_rwx_check: bool = False,
    ext_unix_sk: str | None = None,
    tcp_established: bool = False,
    tcp_close: bool = False,
    skip_in_flight: bool = False,
    pidfile: StrPath | None = None,
    sibling: bool = False,
    wait_pid: float = 0,
    new_pid: bool = False,
    edit: Sequence[str] = (),
    edit_script: StrPath | None = None,
    inherit_fd: tuple[str, ...] = (),
    cpu_cap: str | None = None,
    allow_uprobes: bool = False,
    libdir: str | None = None,
    hook: Hook | None = no_hook,
    hooks: str = "ask",
    hook_timeout: float = 10,
) -> RestoreResult:
    """Bring back the tree of `images_dir`; returns when it runs.

    The keywords are the options of `pycriu restore`. The root is a child of this process (with `sibling`, of its
    parent): `wait()` of the result waits for its end and returns its wait status.

        restored = pycriu.restore("checkpoint")
        print("runs with PID", restored.root_pid)

    With `new_pid` the tree gets a PID namespace of its own, and `root_pid` is the one that the root has outside; the
    child of this process is then the init of the namespace, which ends with the last task.

    Raises UserError for what the request or this machine has wrong, ImageError for images that cannot be used.
    """
    _check_restore(file_validation, wait_pid)
    images, work = _directories(images_dir, work_dir)
    options = RestoreOptions(
        images_dir=images, work_dir=work, detached=True, leave_stopped=leave_stopped, shell_job=shell_job,
        file_locks=file_locks, link_remap=link_remap, file_validation=file_validation,
        skip_file_rwx_check=skip_file_rwx_check, ext_unix_sk=ext_unix_sk, tcp_established=tcp_established,
        tcp_close=tcp_close, skip_in_flight=skip_in_flight, sibling=sibling, inherit_fd=inherit_fd,
        wait_pid=wait_pid, cpu_cap=cpu_cap, allow_uprobes=allow_uprobes, hook=hook or no_hook,
        hooks=hooks, hook_timeout=hook_timeout, libdir=libdir,
        pidfile=os.path.abspath(pidfile) if pidfile is not None else None,
        edit=tuple(edit), edit_script=os.fspath(edit_script) if edit_script is not None else None,
    )  # fmt: skip
    if new_pid:
        _refuse_apart(sibling=sibling, wait_pid=wait_pid, hook=hook not in (None, no_hook))
        from pycriu.ownpids import outside
    with _surroundings(log_file, log_level) as log:
        return outside.restore(options, log) if new_pid else run_restore(options, log)


def check(*, extra: bool = False) -> tuple[Missing, ...]:
    """The features of the kernel that a dump or restore needs and that are not to be had here; none: looks good.

    With `extra` also those that only some tasks need. Each is tried by doing it.

        for missing in pycriu.check():
            print(missing.name, "is missing, for", missing.purpose)
    """
    chosen = tuple(feature for feature in FEATURES if extra or feature.weight == REQUIRED)
    return tuple(
        Missing(miss.feature.name, miss.feature.purpose, miss.feature.weight == REQUIRED, miss.said)
        for miss in probe(chosen)
    )


def _checked(pid: int, timeout: float) -> int:
    """The PID; UserError for a number that makes no sense, TypeError for what is none."""
    pid = operator.index(pid)
    if pid <= 0:
        raise UserError(f"pid {pid}: not a positive number")
    if not timeout > 0:
        raise UserError(f"timeout {timeout}: not a positive number of seconds")
    return pid


def _check_dump(hooks: str, ghost_limit: object) -> None:
    _one_of("hooks", hooks, ("ask", "try", "skip"))
    if not isinstance(ghost_limit, int) or ghost_limit < 0:
        raise UserError(f"ghost_limit {ghost_limit!r}: not a number of bytes")


def _check_restore(file_validation: str, wait_pid: float) -> None:
    _one_of("file_validation", file_validation, VALIDATIONS)
    if not 0 <= wait_pid < _LONGEST:
        raise UserError(f"wait_pid {wait_pid}: not a number of seconds")


def _refuse_apart(**asked: object) -> None:
    """UserError for what cannot be had together with `new_pid`, by the keyword."""
    from pycriu.ownpids import NOT_TOGETHER

    options = {"sibling": "restore-sibling", "wait_pid": "wait-pid", "hook": "action-script"}
    for name, option in options.items():
        if asked[name]:
            raise UserError(f"new_pid and {name}", f"{NOT_TOGETHER[option]}: leave one of them out")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} {value!r}: not one of {', '.join(allowed)}")


def _directories(images_dir: StrPath, work_dir: StrPath | None) -> tuple[str, str]:
    images = os.path.abspath(os.fsdecode(images_dir))
    work = images if work_dir is None else os.path.abspath(os.fsdecode(work_dir))
    for path in (images, work):
        if not os.path.isdir(path):
            raise UserError(f"{path}: no such directory", "it must exist: os.makedirs")
    return images, work


class _DescriptorLimit:
    """A scope for each dump or restore of this process, which takes as many descriptors as it may have: when the last
    of those that go on at the same time has ended, the limit is as it was before the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = (0, 0)

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._before)


_descriptor_limit = _DescriptorLimit()


@contextmanager
def _surroundings(log_file: StrPath | None, log_level: int) -> Iterator[Log]:
    """A log, and the limit of descriptors as it was."""
    fd = None
    if log_file is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(log_file, flags, 0o600)
    try:
        with _descriptor_limit, Log(log_level, echo=False) if fd is None else Log(log_level, fd, echo=False) as log:
            yield log
    finally:
        if fd is not None:
            os.close(fd)
