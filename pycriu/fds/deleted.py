# SPDX-License-Identifier: GPL-2.0-only
"""Make files that are open and deleted: each must have a name for a moment, and must never be left with it.

Whoever is killed in that moment would leave a stray file. So it is spent by a child process in a session of its own,
with all signals blocked: it makes everything, opens it, and removes the names, whatever becomes of us; then we fetch
what it has opened. Nothing that exists is overwritten: where the old path is taken, another name beside it serves.
Files that never had a name (O_TMPFILE) get none here either.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import marshal
import os
import stat

from pycriu.errors import PycriuError, UserError
from pycriu.kernel.lending import Lender
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
_NEVER = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_ASYNC | _TMPFILE
_ALWAYS = os.O_CLOEXEC | os.O_NOCTTY
_NAMES = 100
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOTDIR)


@record
class Plan:
    """One file that is to be made, and who opens it."""

    path: str  # where it was
    kind: int  # S_IFREG, S_IFDIR, S_IFIFO or S_IFLNK; other bits do not matter
    users: tuple[tuple[int, int], ...]  # id in the image and flags of every open file that leads to it
    hard_link: str = ""  # not made but linked: the path of the file that has the content
    symbolic_link: str = ""  # what it leads to
    ghost: int = 0  # its own number, for who fills it


class Made:
    """Our descriptors: `users` by id in the image (FIFOs by O_PATH), `ghosts` by their number, open to be filled."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.ghosts: dict[int, int] = {}

    def close(self) -> None:
        """Close all of them."""
        for fd in (*self.users.values(), *self.ghosts.values()):
            os.close(fd)


def make(plans: list[Plan]) -> Made:
    """Carry the plans out; UserError with the path of what cannot be made, and then nothing is left of any."""
    made = Made()
    try:
        named = [plan for plan in plans if not _make_unnamed(plan, made)]
        if named:
            _in_child(sorted(named, key=lambda plan: plan.path), made)
    except BaseException:
        made.close()
        raise
    return made


class Promise:
    """Names of files that go away if we are killed before `keep`: a child waits for that, which outlives us."""

    def __init__(self, paths: list[str]) -> None:
        waiting, self._end = os.pipe2(os.O_CLOEXEC)
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                os.close(self._end)
                _remove_unless_told(waiting, paths)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
            os.close(waiting)

    def keep(self) -> None:
        """The names may stay."""
        os.write(self._end, b"k")
        self.drop()

    def drop(self) -> None:
        """Remove the names; nothing after `keep`."""
        if self._end >= 0:
            os.close(self._end)
            os.waitpid(self._pid, 0)
            self._end = -1


def _remove_unless_told(waiting: int, paths: list[str]) -> None:
    """Does not return."""
    try:
        os.setsid()
        if not os.read(waiting, 1):
            for path in paths:
                remove(path)
    finally:
        os._exit(0)


def remove(path: str) -> None:
    """unlink(2), unless somebody was quicker."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _flags(flags: int, kind: int) -> int:
    # A FIFO is opened for good by those who have both its ends in view.
    return os.O_PATH | _ALWAYS if stat.S_ISFIFO(kind) else flags & ~_NEVER | _ALWAYS


def _make_unnamed(plan: Plan, made: Made) -> bool:
    """A file that never had a name; False where this is none, or the file system has no such files."""
    folder, _, name = plan.path.rpartition("/")
    first = next((user for user in plan.users if user[1] & _TMPFILE), None)
    if (
        not stat.S_ISREG(plan.kind)
        or plan.hard_link
        or (first is None and not (name[:1] == "#" and name[1:].isdigit()))
    ):
        return False
    flags = os.O_TMPFILE | os.O_RDWR if first is None else first[1]
    try:
        fd = os.open(folder or "/", flags & ~(_NEVER & ~_TMPFILE) | _ALWAYS, 0o600)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return False
        raise _refusal(error.errno or 0, plan.path) from None
    if first is not None:
        made.users[first[0]] = fd
        fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    made.ghosts[plan.ghost] = fd
    for number, wanted in plan.users:
        if number not in made.users:
            made.users[number] = os.open(f"/proc/self/fd/{fd}", wanted & ~(_NEVER | os.O_NOFOLLOW) | _ALWAYS)
    return True


def _refusal(code: int, path: str) -> UserError:
    return UserError(
        f"the deleted file {path} cannot be made again: {os.strerror(code)}", "its directory must be as it was"
    )


def _in_child(plans: list[Plan], made: Made) -> None:
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        child = Lender(os.fork, lambda: _make_alone(plans))
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    with child:
        if not child.answer:
            raise PycriuError(
                "the child that makes deleted files was killed", "look for its names in their directories"
            )
        code, path, users, ghosts = marshal.loads(child.answer)
        if code:
            raise _refusal(code, path)
        for ours, theirs in ((made.users, users), (made.ghosts, ghosts)):
            ours.update(zip(theirs, child.fetch(theirs.values()), strict=True))


def _make_alone(plans: list[Plan]) -> bytes:
    os.setsid()
    return marshal.dumps(_make_all(plans))


def _make_all(plans: list[Plan]) -> tuple[int, str, dict[int, int], dict[int, int]]:
    """errno and path of the first failure, or 0; then what was opened."""
    made, undo = Made(), _Undo()
    code, path = 0, ""
    try:
        for plan in plans:
            path = plan.path
            _make_one(plan, made, undo)
    except OSError as error:
        code = error.errno or errno.EIO
        made.close()
        made = Made()
    finally:
        undo.run()
    return code, path, made.users, made.ghosts


class _Undo:
    """What takes back, in reverse order, what has been made; and the directories that it happens in."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], object]] = []
        self._folders: dict[str, int] = {}

    def folder(self, path: str) -> int:
        """A descriptor for a directory, which is made if it is not there."""
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            if path and not os.path.lexists(path):
                parent = self.folder(above)
                os.mkdir(name, 0o700, dir_fd=parent)
                self.steps.append(lambda: os.rmdir(name, dir_fd=parent))
            self._folders[path] = os.open(path or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._folders[path]

    def run(self) -> None:
        """Take everything back."""
        for step in reversed(self.steps):
            try:
                step()
            except OSError:  # somebody has moved it, or put something into a directory: it is his now
                continue
        for fd in self._folders.values():
            os.close(fd)


def _make_one(plan: Plan, made: Made, undo: _Undo) -> None:
    folder, _, name = plan.path.rpartition("/")
    parent = undo.folder(folder)
    for number in range(_NAMES):
        try:
            fd = _create(plan, name, parent)
            break
        except FileExistsError:
            name = f".pycriu-deleted-{os.getpid()}-{number}"
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    remove = os.rmdir if stat.S_ISDIR(plan.kind) else os.unlink
    undo.steps.append(lambda: remove(name, dir_fd=parent))
    if fd >= 0:
        made.ghosts[plan.ghost] = fd
    for user, flags in plan.users:
        made.users[user] = os.open(name, _flags(flags, plan.kind), dir_fd=parent)


def _create(plan: Plan, name: str, parent: int) -> int:
    """Make it; a descriptor to fill it, -1 for a hard link, which is full. FileExistsError where the name is taken."""
    flags = os.O_PATH
    if plan.hard_link:
        os.link(plan.hard_link, name, dst_dir_fd=parent, follow_symlinks=False)
        return -1
    if stat.S_ISDIR(plan.kind):
        os.mkdir(name, 0o700, dir_fd=parent)
        flags = os.O_RDONLY | os.O_DIRECTORY
    elif stat.S_ISFIFO(plan.kind):
        os.mkfifo(name, 0o600, dir_fd=parent)
    elif stat.S_ISLNK(plan.kind):
        os.symlink(plan.symbolic_link, name, dir_fd=parent)
    else:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
