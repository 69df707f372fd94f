# SPDX-License-Identifier: GPL-2.0-only
"""What is set by writing to /proc/PID: what goes into a core dump (core(5)), and the user who logged in (proc(5)).

The login uid can be set by the task itself only, and where it is set already, only with CAP_AUDIT_CONTROL; a restore
that would need that and does not have it is refused before any task exists.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError, KernelError, TraceeGone, UserError
from pycriu.images.own import Numbers
from pycriu.kernel import procfs
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOBODY = (1 << 32) - 1  # AUDIT_UID_UNSET
CAP_AUDIT_CONTROL = 30
AT_FDCWD = -100
_DEFAULT_FILTER = 0x33  # MMF_DUMP_FILTER_DEFAULT with CONFIG_CORE_DUMP_DEFAULT_ELF_HEADERS, include/linux/mm_types.h


def login_uid(pid: int) -> int | None:
    """/proc/PID/loginuid; None where the kernel has none (CONFIG_AUDIT)."""
    try:
        return int(procfs.text(pid, "loginuid"))
    except TraceeGone:
        if procfs.exists(pid):
            return None
        raise


def look(pid: int) -> dict[str, Numbers]:
    """The facts of a process."""
    core_filter = _core_filter(pid)
    return {} if core_filter in (None, _DEFAULT_FILTER) else {"coredump_filter": (core_filter,)}


def _core_filter(pid: int) -> int | None:
    try:
        return int(procfs.text(pid, "coredump_filter"), 16)
    except TraceeGone:
        if procfs.exists(pid):
            return None  # the kernel lacks CONFIG_ELF_CORE
        raise


def check(cores: list[Any]) -> None:
    """UserError where a login uid may not be given here."""
    wanted = {core.tc.loginuid for core in cores if core.tc.HasField("loginuid")}
    mine = login_uid(os.getpid())
    if mine is None or not wanted - {mine, NOBODY} | (set() if mine == NOBODY else wanted & {NOBODY}):
        return
    capable = int(procfs.parse_status(procfs.text("self", "status"))["CapEff"], 16) >> CAP_AUDIT_CONTROL & 1
    if mine != NOBODY and not capable:
        raise UserError(
            f"a task had the login uid {_show(max(wanted - {mine}))}, we have {_show(mine)}",
            "changing it needs CAP_AUDIT_CONTROL; or restore from a session that nobody logged in to (a service)",
        )


def _show(uid: int) -> str:
    return "unset" if uid == NOBODY else str(uid)


def restore(pid: int, facts: dict[str, Numbers]) -> None:
    """What can be set from outside on the stopped process."""
    wanted = facts.get("coredump_filter", (_DEFAULT_FILTER,))[0]
    if not 0 <= wanted < 1 << 32:
        raise ImageError(f"the core dump filter {wanted:#x} of process {pid} is out of bounds")
    if _core_filter(pid) not in (None, wanted):
        with open(f"/proc/{pid}/coredump_filter", "w") as file:
            file.write(hex(wanted))


def restore_login_uid(remote: Remote, core: Any) -> None:
    """Let a thread write its login uid, while it is still root and has no descriptors of its own."""
    pid = remote.task.tid
    if not core.tc.HasField("loginuid") or (now := login_uid(pid)) is None or now == core.tc.loginuid:
        return
    what = f"the login uid {_show(core.tc.loginuid)} of process {pid}"
    path, text = remote.data(b"/proc/thread-self/loginuid\0"), str(core.tc.loginuid).encode()
    try:
        fd = remote.call("openat", AT_FDCWD, path, os.O_WRONLY, what=what)
        remote.calls([Row("write", fd, remote.data(text), len(text), what=what), Row("close", fd)])
    except KernelError as error:
        error.hint = "the audit rules of this machine forbid it (loginuid_immutable), or CAP_AUDIT_CONTROL is missing"
        raise
