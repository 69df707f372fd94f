# SPDX-License-Identifier: GPL-2.0-only
"""Who shares what: open files among descriptors and tasks, and the parts of a task among processes. kcmp(2) decides.

Numbers given here are the ids of the images. They mean nothing outside one checkpoint.
"""

from __future__ import annotations

from pycriu.errors import KernelError, TraceeGone, Unsupported
from pycriu.kernel import libc, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.fds.openfile import OpenFile

ESRCH, ENOSYS = 3, 38
_EQUAL, _LESS = 0, 1


class FileIds:
    """Ids of open files: equal for descriptors that share one, different for all others."""

    def __init__(self) -> None:
        self._last = 0
        self._known: dict[tuple[int, int, int], list[tuple[OpenFile, int]]] = {}

    def fresh(self) -> int:
        """An id that nothing has."""
        self._last += 1
        return self._last

    def of(self, file: OpenFile) -> tuple[int, bool]:
        """The id of this descriptor's open file, and whether it is seen for the first time."""
        like = self._known.setdefault(file.identity, [])  # in the kernel's order of them, so that few need be asked
        low, high = 0, len(like)
        while low < high:
            middle = (low + high) // 2
            other, number = like[middle]
            answer = _ordered(file.pid, other.pid, libc.KCMP_FILE, file.fd, other.fd)
            if answer == _EQUAL:
                return number, False
            low, high = (low, middle) if answer == _LESS else (middle + 1, high)
        number = self.fresh()
        like.insert(low, (file, number))
        return number, True


def _kcmp(pid1: int, pid2: int, kind: int, fd1: int = 0, fd2: int = 0) -> bool:
    return _ordered(pid1, pid2, kind, fd1, fd2) == _EQUAL


def _ordered(pid1: int, pid2: int, kind: int, fd1: int = 0, fd2: int = 0) -> int:
    """0 equal, 1 less, 2 greater."""
    try:
        return libc.kcmp(pid1, pid2, kind, fd1, fd2)
    except KernelError as error:
        if error.errno == ESRCH:
            raise TraceeGone(f"process {pid1} or {pid2} is gone") from None
        if error.errno == ENOSYS:
            error.hint = "this kernel lacks CONFIG_KCMP (selected by CONFIG_CHECKPOINT_RESTORE)"
        raise


def refuse_own_parts(pid: int, tid: int) -> None:
    """Unsupported where a thread does not share with its process what threads share by default."""
    for kind, name, flag in (
        (libc.KCMP_FILES, "descriptor table", "CLONE_FILES"),
        (libc.KCMP_FS, "working directory", "CLONE_FS"),
    ):
        if not _kcmp(pid, tid, kind):
            raise Unsupported(
                f"thread {tid} of process {pid} has a {name} of its own (unshare(2) with {flag}), which cannot be saved"
            )


_PARTS = (
    (libc.KCMP_VM, "address space (CLONE_VM)"),
    (libc.KCMP_FILES, "descriptor table (CLONE_FILES)"),
    (libc.KCMP_FS, "working directory (CLONE_FS)"),
    (libc.KCMP_SIGHAND, "signal handlers (CLONE_SIGHAND)"),
)


def refuse_shared_parts(parent: int, child: int) -> None:
    """Unsupported where a process shares a part with its parent that pycriu would make twice."""
    for kind, name in _PARTS:
        # A parent in vfork(2) waits, uninterruptibly, for the child with which it shares all: that passes by itself.
        # It may pass between two looks, so a child that shares must do so still when its parent is seen not to wait.
        if _kcmp(parent, child, kind) and procfs.stat(parent).state != "D" and _kcmp(parent, child, kind):
            raise Unsupported(f"processes {parent} and {child} share one {name}, which cannot be saved")
