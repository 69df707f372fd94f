# SPDX-License-Identifier: GPL-2.0-only
"""Who shares what: open files among descriptors and tasks, and the parts of a task among processes. kcmp(2) decides.

Numbers given here are the ids of the images. They mean nothing outside one checkpoint.
"""

from __future__ import annotations

from pycriu.errors import KernelError, TraceeGone, Unsupported
from pycriu.kernel import libc, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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

    def find(self, inode: int, compare: Callable[[OpenFile], int]) -> int | None:
        """The id of a file on that inode to which `compare` answers 0; 1 asks for one that comes later, 2 for earlier.

        kcmp(2) answers so, however it has been told of the file that is looked for.
        """
        for (_, its, _), like in self._known.items():
            low, high = 0, len(like) if its == inode else 0
            while low < high:
                middle = (low + high) // 2
                answer = compare(like[middle][0])
                if answer == _EQUAL:
                    return like[middle][1]
                low, high = (middle + 1, high) if answer == _LESS else (low, middle)
        return None


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
    """Unsupported where a thread does not share with its process what threads share; TraceeGone when it ends.

    One that ends gives these up one after the other, and is there for a while without them.
    """
    for kind, name, flag in (
        (libc.KCMP_FILES, "descriptor table", "CLONE_FILES"),
        (libc.KCMP_FS, "working directory", "CLONE_FS"),
    ):
        if not _kcmp(pid, tid, kind):
            if procfs.is_ending(tid) or procfs.is_ending(pid):
                raise TraceeGone(f"thread {tid} of process {pid} is ending")
            raise Unsupported(
                f"thread {tid} of process {pid} has a {name} of its own (unshare(2) with {flag}), which cannot be saved"
            )


# What a process may share with others, and the flag of clone(2) that makes it so; the order is that of `Shares`.
PARTS = (
    (libc.KCMP_VM, "address space", "CLONE_VM", 0x100),
    (libc.KCMP_FILES, "descriptor table", "CLONE_FILES", 0x400),
    (libc.KCMP_FS, "working directory", "CLONE_FS", 0x200),
    (libc.KCMP_SIGHAND, "signal handlers", "CLONE_SIGHAND", 0x800),
)
VM, FILES, FS, SIGHAND = range(4)

Shares = tuple[int, int, int, int]
"""For each of PARTS a number: equal for processes that share it."""


def shares(pids: list[int]) -> dict[int, Shares]:
    """Who shares what, each part named by the first of `pids` that has it. Few calls: kcmp(2) sorts."""
    found: dict[int, list[int]] = {pid: [] for pid in pids}
    for kind, *_ in PARTS:
        known: list[int] = []  # one process for each object, in the kernel's order
        for pid in pids:
            found[pid].append(_first_with(known, pid, kind))
    return {pid: (numbers[0], numbers[1], numbers[2], numbers[3]) for pid, numbers in found.items()}


def _first_with(known: list[int], pid: int, kind: int) -> int:
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        order = _ordered(pid, known[middle], kind)
        if order == 0:
            return known[middle]
        if order == 1:
            high = middle
        else:
            low = middle + 1
    known.insert(low, pid)
    return pid


def makers(family: list[tuple[int, int | None, Shares]]) -> dict[int, int | None]:
    """Who must make each process, so that it is born with what it shares: PID → its parent's, or an elder sibling's
    (CLONE_PARENT). None for the root, and for a process that neither can make.

    `family` has PID, parent's PID and shares of each process, parents first.
    """
    found: dict[int, int | None] = {}
    of = {pid: mine for pid, _, mine in family}
    elders: dict[int, list[int]] = {}
    seen: list[set[int]] = [set() for _ in PARTS]
    for pid, parent, mine in family:
        wanted = [part for part in range(len(PARTS)) if mine[part] in seen[part]]
        found[pid] = None
        if parent is not None:
            candidates = [parent, *elders.setdefault(parent, [])]
            found[pid] = next((one for one in candidates if all(of[one][k] == mine[k] for k in wanted)), None)
            elders[parent].append(pid)
        for part, number in enumerate(mine):
            seen[part].add(number)
    return found


def clone_flags(maker: Shares, child: Shares) -> int:
    """The flags of clone(2) for what the two share."""
    return sum(flag for part, (*_, flag) in enumerate(PARTS) if maker[part] == child[part])


def apart(family: list[tuple[int, int | None, Shares]]) -> bool:
    """Whether nothing is shared by processes that have not the same root; `family` as above."""
    roots: dict[int, int] = {}
    owners: dict[tuple[int, int], int] = {}
    for pid, parent, mine in family:
        roots[pid] = pid if parent is None else roots[parent]
        if any(owners.setdefault(part, roots[pid]) != roots[pid] for part in enumerate(mine)):
            return False
    return True
