# SPDX-License-Identifier: GPL-2.0-only
"""The story of cr_checkpoint.

scope      who is to be saved; a child does the work where we are among them ourselves
dump       by the engine, into a directory of its own beside the destination
store      the images become the context, at once if the processes go on, else while they still stand
end        they go on, with the signal that was asked for, or are killed
"""

from __future__ import annotations

import errno
import os
import time

from pycriu import __version__
from pycriu.actions import ALARM, Deadline, Signals, settle, tell_late
from pycriu.blcr import archive, codes, consent, context, rights
from pycriu.blcr.codes import Busy, Failure
from pycriu.blcr.options import ERROR, EXE, NONE, PRIVATE, SHARED, SIGKILL, TREE
from pycriu.blcr.scope import Scope
from pycriu.errors import PycriuError
from pycriu.options import DumpOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.blcr.context import Destination
    from pycriu.blcr.messages import Messages
    from pycriu.blcr.options import Values

_FREEZING = 10  # seconds
GHOST_LIMIT = 1 << 40  # bytes: the content of deleted files is saved, however large
KEPT: dict[str, Any] = {
    "file_locks": True,
    "tcp_close": True,
    "skip_in_flight": True,
    "ext_unix_sk": "",
    "shell_job": True,
}
"""Options of the engine, of dump and restore alike: connections come back closed, peers outside by their names."""


def checkpoint(number: int, values: Values, said: Messages) -> int:
    """Save what `number` is, as the options say; the exit code. Failure for what cannot be."""
    scope = Scope(
        str(values.get("scope", TREE)), number, said,
        ptraced=str(values.get("ptraced", ERROR)), ptracer=str(values.get("ptracer", ERROR)),
    )  # fmt: skip
    kinds = values.get("destination", ())
    assert isinstance(kinds, tuple)
    rights.demand("Checkpoint")
    where = context.choose(kinds, values.get("place"), number, dict(values))
    with Refusals():
        ours = scope.has(os.getpid())
    if not ours:
        _in_turn(scope, where, number, values, said)
        return 0
    if not (child := os.fork()):
        return _in_child(scope, where, number, values, said)
    return _await(child)


def _in_child(scope: Scope, where: Destination, number: int, values: Values, said: Messages) -> int:
    """The same by a child, which is not in the checkpoint: its parent is."""
    try:
        _in_turn(scope, where, number, values, said)
    except Failure as failure:
        said.failed(failure)
        os._exit(failure.code)
    said.done()
    os._exit(0)


def _await(child: int) -> int:
    """How the child has ended. In a later life, after a restart, there is none: the checkpoint has been made."""
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        return 0
    if os.WIFSIGNALED(status):
        raise Failure(errno.EPERM, f"Checkpoint failed: the child that made it was killed by signal {status & 0x7F}")
    return os.WEXITSTATUS(status)


def _in_turn(scope: Scope, where: Destination, number: int, values: Values, said: Messages) -> None:
    """Do the work; after whoever does so at this moment, if that does not take too long."""
    deadline = time.monotonic() + (_seconds(values) or _FREEZING)
    while True:
        try:
            return _work(scope, where, number, values, said)
        except Busy:
            if time.monotonic() > deadline:
                raise
        time.sleep(_FREEZING / 200)


def _seconds(values: Values) -> int:
    """Of --time."""
    seconds = values.get("time", 0)
    assert isinstance(seconds, int)
    return seconds


class Refusals:
    """A scope in which what the engine refuses becomes the end of the command."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PycriuError):
            refused = consent.refusal(error)
            if refused is not None:
                raise refused from None
            raise codes.failure("Checkpoint", error)
        if isinstance(error, KeyboardInterrupt):
            if error.args == (ALARM,):
                raise Failure(errno.ETIMEDOUT, "Checkpoint failed: the time of --time is over")
            raise Failure(errno.EINTR, f"Checkpoint cancelled by signal {error.args[0]}")


def _work(scope: Scope, where: Destination, number: int, values: Values, said: Messages) -> None:
    seconds, signal = _seconds(values), values.get("signal", 0)
    assert isinstance(signal, int)
    embedded = saved_kinds(values)
    with Signals(), Refusals(), where, Deadline(seconds):
        first = scope.find()
        meta = {
            "command": "cr_checkpoint", "version": __version__, "scope": values.get("scope", TREE), "id": number,
            "eldest": first.pid, "orphan": first.stat.ppid == 1, "saved": sorted(embedded), "signal": signal,
            "time": int(time.time()), "system": list(os.uname()),
        }  # fmt: skip
        options = DumpOptions(
            pid=first.pid,
            images_dir=where.images,
            work_dir=where.work,
            leave_running=not signal,
            signal=0 if signal == SIGKILL else signal,
            timeout=max(seconds, _FREEZING),
            ghost_limit=GHOST_LIMIT,
            find=scope.find,
            pipes_outside=True,
            embed=frozenset(embedded),
            hook=_store(where, meta, said),
            settled=settle,
            **KEPT,
        )
        from pycriu.dump import dump

        result = dump(options, said)
        tell_late(said)
        said.info("%d threads saved in %s; they stood still for %d us", result.tasks, where.name, result.frozen)


def _store(where: Destination, meta: dict[str, Any], said: Messages) -> Any:
    def stage(name: str, _pid: int) -> None:
        if name == "post-dump":
            said.info("writing %s", where.name)
            archive.write_meta(where.images, meta)
            where.store(lambda out: archive.pack(where.images, out))

    return stage


def saved_kinds(values: Values) -> set[str]:
    """Of which files the pages are to be saved, too: the options add up, from left to right; none begins anew."""
    found: set[str] = set()
    chosen = values.get("save", ())
    assert isinstance(chosen, tuple)
    for what in chosen:
        if what == NONE:
            found.clear()
        else:
            found |= {EXE, PRIVATE, SHARED} if what == "all" else {str(what)}
    return found
