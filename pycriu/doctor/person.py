# SPDX-License-Identifier: GPL-2.0-only
"""Who we are, and what we may do: user, capabilities, no_new_privs, user namespace, Yama."""

from __future__ import annotations

import os
import pwd

from pycriu.doctor import BAD, GOOD, NOTE, Finding
from pycriu.kernel import procfs

SYS_PTRACE, SYS_ADMIN, CHECKPOINT_RESTORE = 19, 21, 40
# What root may lack in a container, or a user who has only CAP_CHECKPOINT_RESTORE: number, name, for what.
FURTHER = (
    (SYS_PTRACE, "CAP_SYS_PTRACE", "processes of other users, and such as may not be dumped"),
    (SYS_ADMIN, "CAP_SYS_ADMIN", "namespaces, --new-pid, clocks that go on after another boot"),
    (24, "CAP_SYS_RESOURCE", "limits above the present hard ones"),
    (12, "CAP_NET_ADMIN", "TCP connections, network devices"),
    (13, "CAP_NET_RAW", "raw and packet sockets"),
    (7, "CAP_SETUID", "other user ids"),
    (6, "CAP_SETGID", "other group ids"),
    (8, "CAP_SETPCAP", "smaller bounding sets of capabilities"),
    (23, "CAP_SYS_NICE", "real-time policies and lower nice values"),
)
YAMA = "/proc/sys/kernel/yama/ptrace_scope"
ALL_USERS = "0 0 4294967295"


def status() -> dict[str, str]:
    """/proc/self/status."""
    return procfs.parse_status(procfs.text("self", "status"))


def effective() -> int:
    """The capabilities that we have, as bits."""
    return int(status()["CapEff"], 16)


def has(number: int) -> bool:
    """Whether we have a capability."""
    return bool(effective() >> number & 1)


def capable() -> bool:
    """Whether pycriu begins at all."""
    return has(SYS_ADMIN) or has(CHECKPOINT_RESTORE)


def findings() -> list[Finding]:
    """All of it."""
    return [user(), *further(), *privileges(), *user_namespace(), yama()]


def user() -> Finding:
    """Root, or somebody with the one capability that it takes."""
    uid = os.geteuid()
    who = f"{_name(uid)} (uid {uid})"
    if uid == 0 and capable():
        return Finding("user", GOOD, who)
    if capable():
        return Finding("user", GOOD, f"{who}, with CAP_CHECKPOINT_RESTORE: add --unprivileged")
    if uid == 0:
        said = f"{who}, without CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE"
        return Finding(
            "user", BAD, said, ("start the container with --cap-add CHECKPOINT_RESTORE --cap-add SYS_PTRACE",)
        )
    return Finding(
        "user", BAD, f"{who}, without CAP_CHECKPOINT_RESTORE",
        (
            "run pycriu as root (sudo; a fragment for sudoers is in docs/guide.md), or",
            "give the capability to a copy of the interpreter that only your group may run (docs/guide.md), or",
            "for one command: setpriv --ambient-caps +checkpoint_restore --inh-caps +checkpoint_restore, by root",
        ),
    )  # fmt: skip


def further() -> list[Finding]:
    """What only some trees need, for those who have something at all."""
    if not capable():
        return []
    missing = [(name, purpose) for number, name, purpose in FURTHER if not has(number)]
    if not missing:
        return [Finding("capabilities", GOOD, "all that pycriu uses")]
    names = ", ".join(name for name, _ in missing)
    return [Finding("capabilities", NOTE, f"without {names}", tuple(f"{name}: {what}" for name, what in missing))]


def privileges() -> list[Finding]:
    """no_new_privs, for who would have to gain some."""
    if capable() or status().get("NoNewPrivs") != "1":
        return []
    advice = ("log in anew, or look for NoNewPrivileges= in the unit, or no-new-privileges of the container",)
    return [Finding("no_new_privs", BAD, "set: neither sudo nor capabilities of files have an effect", advice)]


def user_namespace() -> list[Finding]:
    """Whether our capabilities are those of the machine."""
    mapped = " ".join(procfs.text("self", "uid_map").split())
    if mapped == ALL_USERS:
        return []
    said = f"we are in one of our own (users {mapped}): capabilities hold only in it"
    advice = ("where something below is refused although the capability is there, try outside (not rootless)",)
    return [Finding("user namespace", NOTE, said, advice)]


def yama() -> Finding:
    """Who may trace whom."""
    try:
        with open(YAMA) as file:
            scope = int(file.read())
    except FileNotFoundError:
        return Finding("yama", GOOD, "not in this kernel: nothing more is forbidden")
    if scope == 3:
        return Finding("yama", BAD, f"{YAMA} is 3: nobody may trace", ("set kernel.yama.ptrace_scope=1, and boot",))
    if scope == 0 or has(SYS_PTRACE):
        return Finding("yama", GOOD, f"{YAMA} is {scope}")
    if scope == 2:
        advice = (
            "sysctl kernel.yama.ptrace_scope=0 (or 1), or add CAP_SYS_PTRACE, with which all of root's can be traced",
        )
        return Finding("yama", BAD, f"{YAMA} is 2: without CAP_SYS_PTRACE nobody can be traced", advice)
    return Finding(
        "yama", NOTE, f"{YAMA} is {scope}: without CAP_SYS_PTRACE only own children can be traced",
        ("sysctl kernel.yama.ptrace_scope=0, or let the program call prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)",),
    )  # fmt: skip


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "nobody knows"
