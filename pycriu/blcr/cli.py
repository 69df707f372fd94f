# SPDX-License-Identifier: GPL-2.0-only
"""The four commands: words on a command line -> one story -> an exit code. Only this prints."""

from __future__ import annotations

import errno
import os
import sys

from pycriu import __version__, log
from pycriu.actions import hear_of_children, say
from pycriu.blcr import codes, options
from pycriu.blcr.codes import ARGS, Failure
from pycriu.blcr.messages import Messages
from pycriu.errors import PycriuError, UserError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycriu.blcr.options import Command, Values

_PID_LIMIT, _DIGITS = 1 << 22, 10
_NOT_FOUND, _NOT_RUN, _INTERRUPTED = 127, 126, 130  # exit statuses of a shell


def run(words: Sequence[str] | None = None) -> int:
    """cr_run: become the program, with or without the mark of what checkpoints leave out."""
    values: Values = {}
    try:
        program = _read(options.RUN, words, values)
    except UserError as error:
        return _misused(options.RUN, error.message, values)
    if said := _told(options.RUN, values):
        return said - 1
    if not program:
        return 0
    from pycriu.blcr.scope import OMITTED

    os.environ.pop(OMITTED, None)
    if values.get("omit"):
        os.environ[OMITTED] = "1"
    try:
        if not program[0]:  # of which Python would say something else
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cr_run: {program[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else _NOT_RUN


def checkpoint(words: Sequence[str] | None = None) -> int:
    """cr_checkpoint."""
    values: Values = {}
    try:
        plain = _read(options.CHECKPOINT, words, values)
        if told := _told(options.CHECKPOINT, values):
            return told - 1
        number = _identity(plain)
    except UserError as error:
        return _misused(options.CHECKPOINT, error.message, values)
    except Failure as failure:
        return _failed(_messages(options.CHECKPOINT, values), failure)
    said = _messages(options.CHECKPOINT, values)
    log.fill_standard_descriptors()
    hear_of_children()
    try:
        from pycriu.blcr.checkpoint import checkpoint as work

        code = work(number, values, said)
    except Failure as failure:
        return _failed(said, failure)
    except KeyboardInterrupt:  # before anything has begun
        return _INTERRUPTED
    said.done()
    return code


def _identity(plain: list[str]) -> int:
    """The ID of a process, group or session."""
    if len(plain) == 1 and plain[0].isascii() and plain[0].isdigit() and len(plain[0]) < _DIGITS:
        number = int(plain[0])
        if 0 < number < _PID_LIMIT:
            return number
    raise UserError("exactly one ID is needed, a number")


def restart(words: Sequence[str] | None = None) -> int:
    """cr_restart."""
    values: Values = {}
    said: Messages | None = None
    try:
        plain = _read(options.RESTART, words, values)
        if told := _told(options.RESTART, values):
            return told - 1
        said = _messages(options.RESTART, values)
        log.fill_standard_descriptors()
        hear_of_children()
        from pycriu.blcr.restart import restart as work

        return work(values, plain, said)
    except UserError as error:
        return _failed_restart(values, Failure(codes.USAGE, error.message, kind=ARGS), said)
    except Failure as failure:
        return _failed_restart(values, failure, said)
    except KeyboardInterrupt:  # before anything has begun
        return _INTERRUPTED


def _failed_restart(values: Values, failure: Failure, said: Messages | None) -> int:
    """Run the command for its class; unless that has something to say, the exit code of the failure."""
    from pycriu.blcr.restart import run_hook

    if status := run_hook(str(values.get(f"on-{failure.kind}", ""))):
        return status
    if failure.code == codes.USAGE:
        return _misused(options.RESTART, failure.message, values)
    return _failed(said or _messages(options.RESTART, values), failure)


def info(words: Sequence[str] | None = None) -> int:
    """cr_info."""
    values: Values = {}
    try:
        plain = _read(options.INFO, words, values)
        if said := _told(options.INFO, values):
            return said - 1
        if len(plain) != 1:
            raise UserError("one context file is needed")
    except UserError as error:
        return _misused(options.INFO, error.message, values)
    from pycriu.blcr.info import report

    try:
        say("\t".join(map(printable, line.split("\t"))) for line in report(plain[0], as_json=bool(values.get("json"))))
    except PycriuError as error:
        print(f"cr_info: {error}", file=sys.stderr)
        return codes.of(error)
    return 0


def _read(command: Command, words: Sequence[str] | None, values: Values) -> list[str]:
    return options.parse(command, sys.argv[1:] if words is None else words, values)


def _told(command: Command, values: Values) -> int:
    """Whether help or the version was all that was wanted."""
    if values.get("help"):
        say([options.usage(command).rstrip("\n")])
        return 1
    if values.get("version"):
        say([f"{command.name}{':' if command is options.RUN else ''} version {__version__}"])  # as BLCR's
        return 1
    return 0


def _misused(command: Command, message: str, values: Values) -> int:
    if not values.get("quiet"):
        print(f"{command.name}: {message}\n{options.usage(command)}", end="", file=sys.stderr)
    return codes.USAGE


def _failed(said: Messages, failure: Failure) -> int:
    said.failed(failure)
    return failure.code


def _messages(command: Command, values: Values) -> Messages:
    verbose = values.get("verbose", ())
    assert isinstance(verbose, tuple)
    return Messages(
        command.name, quiet=bool(values.get("quiet")), details=str(values.get("details", options.ERROR)),
        verbose=len(verbose),
    )  # fmt: skip
