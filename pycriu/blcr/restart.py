# SPDX-License-Identifier: GPL-2.0-only
"""The story of cr_restart.

source     the images, unpacked where they come as one file or stream
changes    what is to be another than it was: see there
restore    by the engine; the signal that was asked for waits for the processes before they run
hooks      the command for success, or that for this class of failure
wait       as the parent of the eldest process: see `parent`
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time

from pycriu.actions import Signals, light_protobuf
from pycriu.blcr import archive, codes, parent, rights
from pycriu.blcr.checkpoint import KEPT
from pycriu.blcr.codes import ARGS, Failure
from pycriu.blcr.options import MAX_RELOCATIONS, MAYBE, SIGKILL, SIGSTOP
from pycriu.blcr.scope import WAITING
from pycriu.blcr.workplace import Workplace, temporary
from pycriu.errors import KernelError, PycriuError, UserError
from pycriu.options import RestoreOptions
from pycriu.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from pycriu.blcr.changes import Changes, Facts
    from pycriu.blcr.messages import Messages
    from pycriu.blcr.options import Values


_ENDING = 2  # seconds that processes may take to end


def restart(values: Values, words: list[str], said: Messages) -> int:
    """Restart; the exit code when everything is over. Failure, with its class, for what cannot be."""
    values = values | {"relocate": _relocations(values)}
    try:
        with Signals(), Source(values, words) as source:  # the processes run with all signals blocked here: see `wait`
            rights.demand("Restart")
            if not values.get("keep-pid", True):
                from pycriu.blcr import pidspace

                return pidspace.run(lambda ready: _live(source, values, said, ready), lambda: _succeeded(values, said))
            return _live(source, values, said, lambda _root: _succeeded(values, said), end=True)
    except KeyboardInterrupt as interruption:
        raise _cancelled(interruption) from None


def _relocations(values: Values) -> tuple[str, ...]:
    """What --relocate says, as rules of `edits`; Failure for what makes no sense."""
    given = values.get("relocate", ())
    assert isinstance(given, tuple)
    if not given:
        return ()
    from pycriu.blcr.changes import rules

    try:
        found = [rules(str(one)) for one in given]
    except UserError as error:
        raise Failure(errno.EINVAL, error.message, kind=ARGS) from None
    if len([one for one in found if one]) > MAX_RELOCATIONS:
        raise Failure(errno.EINVAL, f"--relocate can be given {MAX_RELOCATIONS} times", kind=ARGS)
    return tuple(rule for one in found for rule in one)


def _live(source: Source, values: Values, said: Messages, ready: Callable[[int], int], *, end: bool = False) -> int:
    """Restore, tell that it is `ready`, and wait: the wait status of the eldest or, to the `end`, the exit code."""
    meta = source.meta
    root = _restore_in_time(source, values, said)
    source.close()
    if status := ready(root):
        return status if end else status << 8
    if meta.get("orphan") is True and end:
        return 0
    status = parent.wait(root)
    return parent.end_as(status) if end else status


def _restore_in_time(source: Source, values: Values, said: Messages) -> int:
    """The same; whoever has sent a stream may just be ending the processes, which have the PIDs until then."""
    deadline = time.monotonic() + (_ENDING if source.is_stream else 0)
    while True:
        try:
            return restore(source, values, said)
        except Failure as failure:
            if failure.code != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(_ENDING / 100)


def _succeeded(values: Values, said: Messages) -> int:
    """The processes run: say so, and run the command for that; its exit status."""
    said.done()
    return run_hook(str(values.get("on-success", "")))


def run_hook(command: str) -> int:
    """What system(3) does, with all signals let through: the exit status, above 128 for a signal, 0 for no command."""
    if not command:
        return 0
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    ours = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    try:
        child = os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ, setsigmask=[], setsigdef=ours)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


class Source:
    """Where the images are, with what is beside them. A scope: what was unpacked is removed at its end."""

    def __init__(self, values: Values, words: list[str]) -> None:
        kinds = values.get("destination", ())
        assert isinstance(kinds, tuple)
        if len(kinds) > 1:
            raise Failure(errno.EINVAL, "conflicting sources: one file, descriptor or directory", kind=ARGS)
        if len(words) + len(kinds) != 1:
            raise Failure(codes.USAGE, "exactly one context is needed: a file, descriptor or directory", kind=ARGS)
        self._kind = str(kinds[0]) if kinds else "file"
        self._place = words[0] if words else values["place"]
        self.name = f"descriptor {self._place}" if self._kind == "fd" else str(self._place)
        try:
            self._folder = Workplace(temporary(), "cr_restart-")
        except OSError as error:
            raise Failure(error.errno or 0, f"Restart failed: {temporary()}: {error.strerror}") from None
        self.work, self.images = self._folder.path, self._folder.images
        self.meta: dict[str, object] = {}
        self.is_stream = False

    def __enter__(self) -> Source:
        try:
            self._open()
            self.meta = archive.meta(self.images)
        except PycriuError as error:
            self.close()
            raise codes.failure("Restart", error) from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The images are not needed any more."""
        self._folder.close()

    def _open(self) -> None:
        if self._kind == "dir":
            if not os.path.isdir(self.name):
                raise Failure(errno.ENOENT, f"Restart failed: {self.name}: no such directory", kind=ARGS)
            self.images = os.path.abspath(self.name)
            return
        try:
            with self._file() as file:
                mode = os.fstat(file.fileno()).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                    raise Failure(errno.EINVAL, f"Restart failed: {self.name}: not a file, pipe or socket")
                self.is_stream = not stat.S_ISREG(mode)
                archive.unpack(self.name, file, self.images)
        except OSError as error:
            raise Failure(error.errno or 0, f"Restart failed: {self.name}: {error.strerror}") from None

    def _file(self) -> IO[bytes]:
        """The source; what is not there, or may not be read, is a wrong argument, what is wrong in it is not."""
        try:
            if self._kind == "fd":
                assert isinstance(self._place, int)
                return open(self._place, "rb", buffering=0, closefd=self._place > 2)
            fd = os.open(self.name, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(error.errno or 0, f"Restart failed: {self.name}: {error.strerror}", kind=ARGS) from None
        try:
            return open(fd, "rb", buffering=0)
        except OSError:
            os.close(fd)  # a directory
            raise


def restore(source: Source, values: Values, said: Messages) -> int:
    """From images to running processes; the PID of the eldest, which is our child. All signals are blocked then."""
    light_protobuf()
    from pycriu.restore import restore as run

    terminal = _terminal()
    try:
        options = replace(_options(source, values, said), terminal=terminal)
        with Signals():
            return run(options, said).root_pid
    except PycriuError as error:
        raise codes.failure("Restart", error) from None
    except KeyboardInterrupt as interruption:
        raise _cancelled(interruption) from None
    finally:
        if terminal >= 0:
            os.close(terminal)


def _cancelled(interruption: KeyboardInterrupt) -> Failure:
    return Failure(errno.EINTR, f"Restart cancelled by signal {interruption.args[0]}")


def _terminal() -> int:
    """A descriptor for our controlling terminal; -1 where we have none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1


def _options(source: Source, values: Values, said: Messages) -> RestoreOptions:
    """What the engine is asked to do."""
    from pycriu.blcr.changes import Changes, Facts
    from pycriu.images import store

    relocations, saved, number = values.get("relocate", ()), source.meta.get("saved"), values.get("signal", 0)
    assert isinstance(relocations, tuple)
    assert isinstance(number, int)
    groups, sessions = bool(values.get("keep-pgid", False)), bool(values.get("keep-sid", False))
    with store.ImagesDir(source.images) as images:
        images.inventory()
        facts = Facts(images, saved if isinstance(saved, list) else ())
    changes = Changes(facts, [str(rule) for rule in relocations], keep_groups=groups, keep_sessions=sessions)
    for remark in changes.remarks:
        said.warn("%s", remark)
    return RestoreOptions(
        images_dir=source.images,
        work_dir=source.work,
        detached=True,
        leave_stopped=number == SIGSTOP,
        inherit_fd=tuple(f"fd[{fd}]:{name}" for name, fd in facts.pipes().items()),
        edits=changes,
        outer_group=os.getpgrp() if groups else None,
        hook=_hook(facts, changes, number, WAITING[str(values.get("later", MAYBE))]),
        **(KEPT | ({"shell_job": _stays(facts)} if sessions else {})),
    )


def _hook(facts: Facts, changes: Changes, number: int, name_of_ours: str) -> Callable[[str, int], None]:
    def stage(name: str, _pid: int) -> None:
        if name == "post-restore":  # complete, and none runs yet
            parent.block()
            parent.name(name_of_ours)
            changes.cut_back()
            if number not in (SIGSTOP, SIGKILL):
                _send(facts, number)
        elif name == "post-resume" and number == SIGKILL:
            _send(facts, number)

    return stage


def _send(facts: Facts, number: int) -> None:
    for pid in facts.pids if number else ():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it was a zombie, which somebody has read, or has been killed with its parent
        except OSError as error:
            raise KernelError("kill", error.errno or 0, f"signal {number}") from None


def _stays(facts: Facts) -> bool:
    """Whether the eldest comes back into a session that is there: its own, or ours. Failure where it is another's."""
    members, ours = set(facts.pids), os.getsid(0)
    outside = {one.sid for one in facts.processes if one.sid not in members} - {ours}
    alive = sorted(sid for sid in outside if os.path.exists(f"/proc/{sid}"))
    if alive:
        raise Failure(
            errno.EPERM,
            f"Restart failed: session {alive[0]} is not that of cr_restart, and nobody can enter another one",
            ("leave --restore-sid out, or run cr_restart in that session",),
        )  # fmt: skip
    return not outside
