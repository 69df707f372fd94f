# SPDX-License-Identifier: GPL-2.0-only
"""Exit codes: the low 8 bits of an errno, of which BLCR has some of its own; and the classes of failed restarts."""

from __future__ import annotations

import errno

from pycriu.errors import (
    KernelError,
    NoProcess,
    OtherCpu,
    OtherVersion,
    PidTaken,
    PycriuError,
    Several,
    TraceeGone,
    Unsupported,
)
from pycriu.restoring.holders import WAYS

USAGE = 255

# BLCR's own errnos, less the 2304 that no exit code holds.
CR_ETEMPFAIL, CR_EPERMFAIL, CR_ENOSUPPORT, CR_EVERSION, CR_EOMITTED, CR_EBADARCH = 50, 51, 52, 53, 54, 55
CR_EPTRACED, CR_EPTRACER, CR_ERSTRTABRT, CR_ERESTARTED, CR_ENOTCB, CR_ENOINIT = 56, 57, 58, 59, 60, 61

ARGS, TEMP, ENVIRONMENT, PERMANENT = "args", "temp", "env", "perm"
_TEMPORARY = (errno.ENOMEM, errno.EBUSY)
_SURROUNDINGS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


class Failure(Exception):
    """What ends a command: the code to exit with, one line for the user, more lines for who wants to know why.

    `kind` is the class of a failed restart.
    """

    def __init__(self, code: int, message: str, details: tuple[str, ...] = (), kind: str = "") -> None:
        super().__init__(message)
        self.code = (code & 0xFF) or USAGE
        self.message, self.details = message, details
        self.kind = kind or classify(code)


class Busy(Failure):
    """Somebody else is just making a checkpoint of the processes: it can be tried again when that is done."""


def failure(what: str, error: PycriuError) -> Failure:
    """The end of a command, such as "Restart", that an error of the engine is."""
    if not isinstance(error, Several):
        return Failure(of(error), f"{what} failed: {error.message}", tuple(_hints(error)))
    lines = [line for one in error.errors[:_SHOWN] for line in (one.message, *_hints(one))]
    if len(error.errors) > _SHOWN:
        lines.append(f"and {len(error.errors) - _SHOWN} more")
    return Failure(of(error), f"{what} failed: {error.message}:", tuple(lines))


_SHOWN = 20  # errors of several
# What the engine advises by options of pycriu's own commands, and how BLCR's are asked for it.
_ADVICE = (
    (WAYS, "or take new PIDs: --no-restore-pid"),
    ("let -D name a directory on another disk", "let -f, or TMPDIR for what is needed meanwhile, name another disk"),
    ("give more time with --timeout", "give more time with --time"),
)

_KNOWN = ("--dir",)  # what cr_restart has, too


def _hints(error: PycriuError) -> list[str]:
    """What to do about it, unless that is something that only pycriu's own commands can."""
    hint = error.hint or ""
    for words, ours in _ADVICE:
        if words in hint:
            return [hint.replace(words, ours)]
    foreign = any(word.strip("();:,").startswith("-") and word not in _KNOWN for word in hint.split())
    return [] if foreign or not hint else [hint]


def classify(code: int) -> str:
    """The class of an errno, for --run-on-fail-*."""
    if code in _TEMPORARY:
        return TEMP
    return ENVIRONMENT if code in _SURROUNDINGS else PERMANENT


def of(error: PycriuError) -> int:
    """The code for an error of the engine."""
    if isinstance(error, Several):
        return of(error.errors[0])
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    return _behind(error) or errno.EINVAL


_KINDS: tuple[tuple[type[PycriuError], int], ...] = (
    (PidTaken, errno.EBUSY),
    (NoProcess, errno.ESRCH),
    (TraceeGone, errno.ESRCH),
    (Unsupported, CR_ENOSUPPORT),
    (OtherVersion, CR_EVERSION),
    (OtherCpu, CR_EBADARCH),
)


def _behind(error: BaseException | None) -> int:
    """What the kernel has said, where an error is about that; 0 where it has said nothing."""
    while error is not None:
        if isinstance(error, KernelError | OSError) and error.errno:
            return int(error.errno)
        error = error.__cause__ or error.__context__
    return 0
