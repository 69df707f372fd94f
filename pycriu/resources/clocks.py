# SPDX-License-Identifier: GPL-2.0-only
"""CLOCK_MONOTONIC and CLOCK_BOOTTIME of a tree: they never go back, also after another boot of the machine.

Under the boot of the dump they have simply gone on. Under another one the tree gets a time namespace of its own
(time_namespaces(7)), in which they go on where they were at the dump. A tree that is in such a namespace already can be
dumped, too, and gets one with the same clocks.
"""

from __future__ import annotations

import os
import time

from pycriu.errors import ImageError
from pycriu.kernel import libc, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.images.own import Numbers

    Times = tuple[int, int]
    """Of the monotonic and the boot-time clock, in ns."""

CLONE_NEWTIME = 0x80
SECOND = 10**9
CLOCKS, BOOT = "clocks", "boot"  # the facts: as the tree has them, then as the machine; the id of the boot
_CAP_SYS_ADMIN, _CAP_SYS_TIME = 21, 25
_LONGEST = 1 << 61  # ns that a clock may show


def boot() -> Numbers:
    """16 bytes that no other boot has; none where the kernel does not tell."""
    return tuple(procfs.boot_id())


def offsets(pid: int | str) -> Times:
    """By how much the clocks of a process are ahead of the machine's."""
    try:
        with open(f"/proc/{pid}/timens_offsets") as file:
            found = {words[0]: int(words[1]) * SECOND + int(words[2]) for words in map(str.split, file)}
    except FileNotFoundError:
        return 0, 0
    return found["monotonic"], found["boottime"]


def _machine(ahead: Times) -> Times:
    """What the clocks show to who is in no time namespace; we are so much ahead."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return now[0] - ahead[0], now[1] - ahead[1]


# ------------------------------------------------------------------------------------------------------------ dump


class _Own:
    """What does not change: our time namespace, its offsets, and the boot."""

    def __init__(self) -> None:
        self.namespace, self.ahead, self.boot = _namespace("self"), offsets("self"), boot()


_ours: list[_Own] = []


def ours() -> _Own:
    """Asked once, before anybody is stopped."""
    if not _ours:
        _ours.append(_Own())
    return _ours[0]


def look(pid: int) -> dict[str, Numbers]:
    """The clocks of the tree with the root `pid`."""
    own = ours()
    ahead = own.ahead if _namespace(pid) == own.namespace else offsets(pid)
    machine = _machine(own.ahead)
    return {CLOCKS: (machine[0] + ahead[0], machine[1] + ahead[1], *machine), BOOT: own.boot}


def _namespace(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/time")
    except FileNotFoundError:
        return ""  # this kernel has none


# --------------------------------------------------------------------------------------------------------- restore


class Plan:
    """What becomes of the clocks of a tree: `ahead` of the machine's by so much; None: those that we have."""

    def __init__(self, facts: dict[str, Numbers], uptime_at_dump: int) -> None:
        self.ahead: Times | None = None
        self.remarks: list[str] = []
        wanted = _wanted(facts)
        if wanted is None or wanted == offsets("self"):
            self._compare(uptime_at_dump if wanted is None else 0)
        elif can_enter():
            self.ahead = wanted
        else:
            self._compare(uptime_at_dump)

    def _compare(self, then: int) -> None:
        """A remark where this machine was booted after the dump; `then` is the uptime of then in microseconds."""
        now = procfs.uptime()
        if then > now:
            self.remarks.append(
                f"this machine was booted after the dump: CLOCK_MONOTONIC goes back by {(then - now) // 10**6} s for "
                "tasks; what waits until an absolute time of it waits so much longer, and differences of it may be "
                "negative"
            )

    def enter(self) -> None:
        """Into a time namespace that has them."""
        assert self.ahead is not None
        enter(self.ahead)


def _wanted(facts: dict[str, Numbers]) -> Times | None:
    """By how much the clocks are to be ahead of the machine's; None where the images do not say."""
    if CLOCKS not in facts or not facts.get(BOOT):
        return None
    clocks = facts[CLOCKS]
    if len(clocks) != 4 or max(clocks) > _LONGEST:
        raise ImageError("the clocks of the checkpoint show an impossible time")
    machine = clocks[2:] if facts[BOOT] == boot() else _machine(offsets("self"))
    return clocks[0] - machine[0], clocks[1] - machine[1]


def can_enter() -> bool:
    """Whether this kernel has time namespaces, and we may make one."""
    if not os.path.lexists("/proc/self/ns/time_for_children"):
        return False
    capable = int(procfs.parse_status(procfs.text("self", "status"))["CapEff"], 16)
    return bool(capable >> _CAP_SYS_ADMIN & capable >> _CAP_SYS_TIME & 1)


def enter(ahead: Times) -> None:
    """Put this process, which has one thread, into a new time namespace."""
    libc.call("unshare", CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w") as file:
        for name, offset in zip(("monotonic", "boottime"), ahead, strict=True):
            file.write(f"{name} {offset // SECOND} {offset % SECOND}\n")
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    libc.call("setns", fd, CLONE_NEWTIME)
    os.close(fd)
