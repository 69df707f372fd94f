# SPDX-License-Identifier: GPL-2.0-only
"""Words on a command line -> one call -> words for the user and an exit status. Nothing else prints or exits.

Exit status as CRIU's: 0 done, 1 not done. Everything heavy is imported by the action that needs it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys
import time

from pycriu import __version__, arguments, log
from pycriu.errors import PycriuError, UserError
from pycriu.options import CheckOptions, DumpOptions, RestoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pycriu.arguments import Values
    from pycriu.log import Log
    from pycriu.restore import RestoreResult

    Outcome = int | Callable[[], int]  # exit status, or how to come by it once the work is done

DEFAULT_CONFIGS = ("/etc/criu/default.conf", "~/.criu/default.conf")

CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40

# (finished, failed): the last lines of a log, which scripts look for
LAST_WORDS = {
    arguments.DUMP: ("Dumping finished successfully", "Dumping FAILED."),
    arguments.RESTORE: ("Restore finished successfully. Tasks resumed.", "Restoring FAILED."),
    arguments.CHECK: ("Check finished", "Check FAILED."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The `pycriu` command; the words default to those of this process. Returns the exit status."""
    started = time.monotonic()
    gc.disable()  # lives for one action: what a collection finds ends with the process, the pause it makes is ours
    try:
        values, plain = _read(sys.argv[1:] if argv is None else argv)
        if "help" in values:
            print(arguments.usage(), end="")
            return 0
        if "version" in values:
            print(f"Version: {__version__}")
            return 0
        if len(plain) != 1:
            print(arguments.usage(), end="", file=sys.stderr)
            return 1
        return _run(_action(plain[0]), values, started)
    except PycriuError as error:  # before there is a log
        print(f"pycriu: {error}", file=sys.stderr)
        return 1


def _read(words: Sequence[str]) -> tuple[Values, list[str]]:
    """Configuration files first, so that the command line has the last word."""
    asked, plain = arguments.parse(words)
    files = [] if "no-default-config" in asked else [os.path.expanduser(name) for name in DEFAULT_CONFIGS]
    demanded = [str(name) for name in (os.environ.get("CRIU_CONFIG_FILE"), asked.get("config")) if name]
    found = [name for name in files if os.path.exists(name)] + demanded
    if not found:
        return asked, plain
    configured: list[str] = []
    for name in found:
        try:
            with open(name) as file:
                configured += arguments.config_words(file.read())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"configuration file {name}: {error}") from None
    values, strange = arguments.parse([*configured, *words])
    return values, strange


def _action(word: str) -> str:
    if word in arguments.ACTIONS:
        return word
    if word in arguments.OTHER_ACTIONS:
        raise UserError(f"the action {word} is not supported by pycriu", hint="it has: " + ", ".join(arguments.ACTIONS))
    raise UserError(f"unknown action {word}", hint="pycriu -h shows what there is")


def _run(action: str, values: Values, started: float) -> int:
    if action != arguments.CHECK:
        _demand_capability()
    images = _directory(values, "images-dir", ".")
    work = _directory(values, "work-dir", images)
    fd = log.open_log(_text(values, "log-file"), work)
    level = int(values.get("verbosity", log.DEFAULT_LEVEL))
    with log.Log(level, fd, started) as lines:
        _first_words(lines, action, values)
        with _Signals():
            outcome = _attempt(action, values, images, work, lines)
        return outcome if isinstance(outcome, int) else outcome()


def _attempt(action: str, values: Values, images: str, work: str, lines: Log) -> Outcome:
    """Do it; whatever goes wrong ends up in the log."""
    finished, failed = LAST_WORDS[action]
    try:
        outcome = _ACTIONS[action](values, images, work, lines)
    except PycriuError as error:
        lines.error("%s", error, where=log.place_of(error))
    except KeyboardInterrupt as signal:
        lines.error("interrupted by signal %s; what was begun has been undone", *signal.args)
    except Exception as bug:  # the one place that may say: our fault
        _confess(lines, bug)
    else:
        lines.info(finished)
        return outcome
    lines.error(failed)
    return 1


def _first_words(lines: Log, action: str, values: Values) -> None:
    system = os.uname()
    lines.info("Version: %s (pycriu)", __version__)
    lines.info("Running on %s Linux %s %s %s", system.nodename, system.release, system.version, system.machine)
    for option in arguments.without_meaning(action, values):
        lines.warn("%s means nothing to %s", option, action)


def _confess(lines: Log, bug: Exception) -> None:
    lines.error("this is a bug of pycriu: %s: %s", type(bug).__name__, bug, where=log.place_of(bug))
    if lines.level >= log.DEBUG:
        import traceback

        lines.debug("%s", "".join(traceback.format_exception(bug)).rstrip())


def _dump(values: Values, images: str, work: str, lines: Log) -> int:
    options = DumpOptions(
        pid=arguments.number(values, "tree"),
        images_dir=images,
        work_dir=work,
        shell_job=bool(values.get("shell-job")),
        leave_running=bool(values.get("leave-running")),
        leave_stopped=bool(values.get("leave-stopped")),
        timeout=arguments.number(values, "timeout", 10),
        ghost_limit=arguments.size(values, "ghost-limit", 1 << 20),
        force_irmap=bool(values.get("force-irmap")),
        network_lock=arguments.choice(values, "network-lock", "nftables", "skip"),
        **_file_options(values),
    )
    _light_protobuf()
    from pycriu import dump

    dump.dump(options, lines)
    return 0


def _restore(values: Values, images: str, work: str, lines: Log) -> Outcome:
    pidfile = _text(values, "pidfile")
    options = RestoreOptions(
        images_dir=images,
        work_dir=work,
        detached=bool(values.get("restore-detached")),
        shell_job=bool(values.get("shell-job")),
        pidfile=os.path.join(work, pidfile) if pidfile else None,
        leave_stopped=bool(values.get("leave-stopped")),
        skip_file_rwx_check=bool(values.get("skip-file-rwx-check")),
        **_file_options(values),
    )
    _light_protobuf()
    from pycriu import restore

    result = restore.restore(options, lines)
    return 0 if options.detached else lambda: _stay(result, lines, keys=options.shell_job)


def _file_options(values: Values) -> dict[str, Any]:
    """What must be said at the dump and at the restore."""
    names = ("file-locks", "link-remap", "tcp-established", "tcp-close", "skip-in-flight")
    flags = {name.replace("-", "_"): bool(values.get(name)) for name in names}
    how = arguments.choice(values, "file-validation", "mtime", "filesize", "buildid", "checksum")
    return {**flags, "file_validation": how, "ext_unix_sk": _text(values, "ext-unix-sk")}


def _stay(result: RestoreResult, lines: Log, *, keys: bool) -> int:
    """Attached restore: here until the root ends. The exit status says how the restore went, as CRIU's does.

    With `keys`, what they send to the foreground of a terminal is for the tree, as a shell leaves it to its jobs.
    """
    lines.flush()
    for number in (2, 3):  # SIGINT, SIGQUIT
        _signal.signal(number, _signal.SIG_IGN if keys else _signal.SIG_DFL)
    result.wait()
    return 0


def _check(values: Values, images: str, work: str, lines: Log) -> int:
    from pycriu import check

    options = CheckOptions(
        extra=bool(values.get("extra") or values.get("all")),
        feature=_text(values, "feature"),
        list_features=bool(values.get("list")),
    )
    report = check.check(options)
    try:
        print("\n".join(report.lines), flush=True)
    except BrokenPipeError:  # `| head`: who reads no further has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), log.STDOUT)  # the interpreter flushes once more at its end
    return report.status


_ACTIONS = {arguments.DUMP: _dump, arguments.RESTORE: _restore, arguments.CHECK: _check}


def _light_protobuf() -> None:
    from pycriu.images import schema

    schema.expect_no_well_known_types()


def _text(values: Values, name: str) -> str | None:
    value = values.get(name)
    return None if value is None else str(value)


def _directory(values: Values, name: str, default: str) -> str:
    path = os.path.abspath(_text(values, name) or default)
    if not os.path.isdir(path):
        raise UserError(f"--{name} {path}: no such directory", hint=f"--{name} DIR: {arguments.LONG[name].help}")
    return path


def _demand_capability() -> None:
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if not effective & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE):
        raise UserError(
            "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed",
            hint="run pycriu as root; pycriu check tells what is missing",
        )


class _Signals:
    """While it lasts, the first SIGINT, SIGTERM or SIGHUP becomes an exception, so that what was begun is undone.

    Later ones are ignored: the undoing must not be interrupted. (The module `signal` takes 3 ms to import, for names.)
    """

    _numbers = (1, 2, 15)

    def __enter__(self) -> None:
        self._before = {number: _signal.getsignal(number) for number in self._numbers}
        for number in self._numbers:
            if self._before[number] != _signal.SIG_IGN:  # nohup(1) means it
                _signal.signal(number, self._first)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            _signal.signal(number, handler)

    def _first(self, number: int, _frame: object) -> None:
        for later in self._numbers:
            _signal.signal(later, _signal.SIG_IGN)
        raise KeyboardInterrupt(number)
