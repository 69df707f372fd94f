# SPDX-License-Identifier: GPL-2.0-only
"""Words on a command line -> one action -> an exit status. Only this and the actions print.

Exit status as CRIU's: 0 done, 1 not done. Everything heavy is imported by the action that needs it.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from pycriu import __version__, log
from pycriu.actions import ALARM, Request, Signals, hear_of_children, say, tell_late
from pycriu.command import arguments
from pycriu.errors import PycriuError, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from pycriu.actions import Outcome
    from pycriu.command.arguments import Action, Values
    from pycriu.log import Log

DEFAULT_CONFIGS = ("/etc/criu/default.conf", "~/.criu/default.conf")

CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40


def main(argv: Sequence[str] | None = None) -> int:
    """The `pycriu` command; the words default to those of this process. Returns the exit status."""
    started = time.monotonic()
    gc.disable()  # lives for one action: what a collection finds ends with the process, the pause it makes is ours
    try:
        values, plain = _read(sys.argv[1:] if argv is None else argv)
        if "help" in values:
            say([_usage(arguments.ACTIONS.get(plain[0]) if plain else None).rstrip("\n")])
            return 0
        if "version" in values:
            say([f"Version: {__version__}"])
            return 0
        action = _action(plain[0]) if plain else None
        command = "exec-cmd" in values and action is arguments.ACTIONS[arguments.RESTORE]  # as many words as it wants
        if action is None or not (action.takes(len(plain) - 1) or command):
            print(_usage(action), end="", file=sys.stderr)
            return 1
        arguments.refuse_dry_run(action.name, values)
        _refuse_encoding()
        return _run(action, values, plain[1:], started)
    except PycriuError as error:  # before there is a log
        print(f"pycriu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # nothing was begun yet, or all of it is undone
        print("pycriu: interrupted", file=sys.stderr)
        return 1


def command() -> NoReturn:
    """The whole life of the `pycriu` process: `main`, and then no more of it than must be.

    An interpreter that takes itself apart needs 3 ms for that, a tenth of a dump.
    """
    status = main()
    try:
        for file in (sys.stdout, sys.stderr):
            if file is not None:  # closed by whoever has started us
                file.flush()
    except OSError:
        sys.exit(status)  # which tries once more, and says what is wrong
    os._exit(status)


def _read(words: Sequence[str]) -> tuple[Values, list[str]]:
    """Configuration files first, so that the command line has the last word."""
    asked, plain = arguments.parse(words)
    files = [] if "no-default-config" in asked else [os.path.expanduser(name) for name in DEFAULT_CONFIGS]
    demanded = [str(name) for name in (os.environ.get("CRIU_CONFIG_FILE"), asked.get("config")) if name]
    found = [name for name in files if os.path.exists(name)] + demanded
    if not found:
        return asked, plain
    from pycriu.command import configuration

    return configuration.parse(found, words)


def _action(word: str) -> Action:
    action = arguments.ACTIONS.get(word)
    if action is not None:
        return action
    if word in arguments.OTHER_ACTIONS:
        reason = arguments.OTHER_ACTIONS[word]
        raise UserError(
            f"the action {word} is not supported by pycriu{': ' if reason else ''}{reason}",
            hint="it has: " + ", ".join(arguments.ACTIONS),
        )
    raise UserError(f"unknown action {word}", hint="pycriu -h shows what there is")


def _refuse_encoding() -> None:
    """UserError where names of files would be other ones in the images: those are UTF-8, and what is not is refused."""
    if sys.getfilesystemencoding() != "utf-8":
        raise UserError(
            f"Python takes the names of files for {sys.getfilesystemencoding()}, the images have UTF-8",
            "set PYTHONUTF8=1",
        )


def _usage(action: Action | None) -> str:
    from pycriu.command import usage

    return usage.usage(action)


def _run(action: Action, values: Values, words: list[str], started: float) -> int:
    for descriptor in arguments.numbers(values, "close"):
        _close(descriptor)
    log.fill_standard_descriptors()
    hear_of_children()
    if action.capability:
        _demand_capability(values)
    with _Made(action, values):
        return _log_and_attempt(action, values, words, started)


def _log_and_attempt(action: Action, values: Values, words: list[str], started: float) -> int:
    images = _directory(values, "images-dir", ".")
    work = _directory(values, "work-dir", images)
    fd = log.open_log(_text(values, "log-file") if action.log else None, work)
    level = int(_text(values, "verbosity") or log.DEFAULT_LEVEL)
    with log.Log(level, fd, started) as lines:
        _first_words(lines, action, values)
        with Signals():
            outcome = _attempt(action, Request(values, words, images, work, lines))
        return outcome if isinstance(outcome, int) else outcome()


def _attempt(action: Action, request: Request) -> Outcome:
    """Do it; whatever goes wrong ends up in the log."""
    lines, status = request.log, 1
    try:
        module: Any = __import__(f"pycriu.actions.{action.name.replace('-', '_')}", fromlist=["run"])
        outcome: Outcome = module.run(request)
    except PycriuError as error:
        lines.error("%s", error, where=log.place_of(error))
        status = getattr(error, "status", status)  # a script's
    except KeyboardInterrupt as signal:
        late = signal.args == (ALARM,)
        what = "the time of --timeout is over" if late else f"interrupted by signal {signal.args[0]}"
        lines.error("%s; what was begun has been undone", what)
    except Exception as bug:  # the one place that may say: our fault
        lines.bug(bug)
    else:
        tell_late(lines)
        lines.info(request.finished or action.finished)
        return outcome
    lines.error(action.failed)
    return status


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        raise UserError(f"--close {descriptor}: {error.strerror}") from None


def _first_words(lines: Log, action: Action, values: Values) -> None:
    system = os.uname()
    lines.info("Version: %s (pycriu)", __version__)
    lines.info("Running on %s Linux %s %s %s", system.nodename, system.release, system.version, system.machine)
    for option in arguments.without_meaning(action.name, values):
        lines.warn("%s means nothing to %s", option, action.name)
    for remark in arguments.without_effect(values):
        lines.warn("%s", remark)


class _Made:
    """A directory for images that is not there: made for the owner alone, and gone again if nothing is in it then."""

    def __init__(self, action: Action, values: Values) -> None:
        path = _text(values, "images-dir") if action.name in arguments.SAVING else None
        self._path = path if path and not os.path.lexists(path) else None

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            os.mkdir(self._path, 0o700)
        except OSError:
            self._path = None  # `_directory` says what is wrong with it

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            try:
                os.rmdir(self._path)
            except OSError:
                return  # it holds a checkpoint, or a log


def _text(values: Values, name: str) -> str | None:
    value = values.get(name)
    return None if value is None else str(value)


def _directory(values: Values, name: str, default: str) -> str:
    path = _absolute(_text(values, name) or default)
    if not os.path.isdir(path):
        raise UserError(f"--{name} {path}: no such directory", hint=f"--{name} DIR: {arguments.LONG[name].help}")
    return path


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return path  # the working directory has been removed: it has no other name


def _demand_capability(values: Values) -> None:
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if not effective & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE):
        raise UserError(
            "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed",
            hint="run pycriu as root; pycriu check tells what is missing",
        )
    if not os.geteuid():
        return
    if not values.get("unprivileged"):
        raise UserError("pycriu is not run as root", hint="--unprivileged says that this is meant so: see pycriu(1)")
    from pycriu.kernel import ambient

    ambient.keep()
