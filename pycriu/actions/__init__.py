# SPDX-License-Identifier: GPL-2.0-only
"""What pycriu can be asked to do, one module for each row of `arguments.ACTIONS`, imported when it is asked for.

Each has `run(request)`: what was asked for -> one call -> words for the user, and the exit status; or a function that
comes by the exit status, once the log says that the work is done.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys
from io import TextIOWrapper

from pycriu import log
from pycriu.command import arguments
from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar, TypeVar

    from pycriu.command.arguments import Values
    from pycriu.command.progress import Progress
    from pycriu.dryrun.report import Report
    from pycriu.log import Log
    from pycriu.options import DumpOptions, Hook, PageServer
    from pycriu.restore import RestoreResult

    Outcome = int | Callable[[], int]
    T = TypeVar("T")


# What must be said at the dump and at the restore.
_OF_FILES = ("file-locks", "link-remap", "tcp-established", "tcp-close", "skip-in-flight")


class Client:
    """Who asks through a service, as far as it concerns a dump or restore."""

    __slots__ = ("hook", "may_dump", "socket")

    def __init__(self, socket: int, may_dump: Callable[[int], None], hook: Hook) -> None:
        self.socket = socket  # inode of our end of the connection
        self.may_dump = may_dump  # called with the id of each task; raises what refuses
        self.hook = hook  # tells it of the stages of the work


class Request:
    """What an action is asked to do. Paths are absolute, and of directories that exist."""

    __slots__ = ("client", "finished", "images", "log", "values", "words", "work")

    def __init__(
        self, values: Values, words: list[str], images: str, work: str, log: Log, client: Client | None = None
    ) -> None:
        self.client = client  # None: the command line
        self.values = values  # of the options
        self.words = words  # behind the name of the action
        self.images, self.work, self.log = images, work, log
        self.finished = ""  # the last line of the log, where it is not the action's

    def flag(self, name: str) -> bool:
        """Whether an option is on."""
        return bool(self.values.get(name))

    def text(self, name: str) -> str | None:
        """The value of an option; None where it was not given."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of an option that may be given more than once."""
        values = self.values.get(name)
        return values if isinstance(values, tuple) else ()

    def hook(self) -> Hook:
        """Tells of the stages of the work: the client of a service, then the action scripts."""
        from pycriu.options import no_hook

        told = self.client.hook if self.client else no_hook
        programs = arguments.texts(self.values, "action-script")
        if not programs:
            return told
        from pycriu.command.scripts import Scripts

        scripts = Scripts(programs, self.images, self.work, self.log)

        def both(stage: str, pid: int) -> None:
            told(stage, pid)
            scripts(stage, pid)

        return both

    def progress(self) -> Progress | None:
        """For somebody who watches at a terminal: not where standard output is the log, and not for a service."""
        if self.client or self.log.fd == log.STDOUT or not os.isatty(log.STDERR):
            return None
        from pycriu.command.progress import Progress

        return Progress(log.STDERR)

    def file_options(self) -> dict[str, Any]:
        """Those fields that `DumpOptions` and `RestoreOptions` share, by name."""
        flags = {name.replace("-", "_"): self.flag(name) for name in _OF_FILES}
        self._refuse_groups()
        from pycriu.options import VALIDATIONS

        how = arguments.choice(self.values, "file-validation", *VALIDATIONS)
        return {**flags, "file_validation": how, "ext_unix_sk": self.text("ext-unix-sk"), "libdir": self._libdir()}

    def dump_options(self) -> DumpOptions:
        """For actions that look at a live tree."""
        from pycriu.options import DumpOptions

        values = self.values
        return DumpOptions(
            pid=arguments.number(values, "tree"),
            images_dir=self.images,
            work_dir=self.work,
            shell_job=self.flag("shell-job"),
            leave_running=self.flag("leave-running"),
            leave_stopped=self.flag("leave-stopped"),
            timeout=arguments.number(values, "timeout", 10),
            ghost_limit=arguments.size(values, "ghost-limit", 1 << 20),
            force_irmap=self.flag("force-irmap"),
            irmap_scan_path=arguments.texts(values, "irmap-scan-path"),
            evasive_devices=self.flag("evasive-devices"),
            network_lock=self._network_lock(),
            service_socket=self.client.socket if self.client else 0,
            may_dump=self.client.may_dump if self.client else None,
            hook=self.hook(),
            settled=settle,
            allow_uprobes=self.flag("allow-uprobes"),
            cpu_cap=self.text("cpu-cap"),
            progress=self.progress(),
            prev_images_dir=self.text("prev-images-dir"),
            track_mem=self.flag("track-mem"),
            page_server=self.page_server(),
            **self.hook_options(),
            **(self.file_options() | self._external()),
        )

    def hook_options(self) -> dict[str, Any]:
        """What --hooks and --hook-timeout say, for `DumpOptions` and `RestoreOptions`."""
        return {
            "hooks": arguments.choice(self.values, "hooks", "ask", "try", "skip"),
            "hook_timeout": arguments.number(self.values, "hook-timeout", 10),
        }

    def page_server(self) -> PageServer | None:
        """Where pages are to be sent."""
        if not self.flag("page-server"):
            return None
        from pycriu.options import PageServer

        socket = self.text("ps-socket")
        return PageServer(
            address=self.text("address"),
            port=0 if socket else arguments.number(self.values, "port"),
            socket=arguments.number(self.values, "ps-socket") if socket else None,
            tls=self.tls(),
        )

    def tls(self) -> Any:
        """The files of our side, where TLS is asked for."""
        if not self.flag("tls"):
            return None
        try:
            from pycriu.pageserver import tls
        except ModuleNotFoundError as error:
            raise UserError(f"--tls: this Python has no module {error.name}", "it was built without OpenSSL") from None
        return tls.Files(
            cacert=self.text("tls-cacert"),
            cacrl=self.text("tls-cacrl"),
            cert=self.text("tls-cert"),
            key=self.text("tls-key"),
            verify_name=not self.flag("tls-no-cn-verify"),
        )

    def ready(self) -> None:
        """For what serves: requests can come."""
        self.hook()("status-ready", 0)
        for descriptor in arguments.numbers(self.values, "status-fd"):
            try:
                os.write(descriptor, b"\0")
                os.close(descriptor)
            except OSError as error:
                raise UserError(f"--status-fd {descriptor}: {error.strerror}") from None

    def deadline(self) -> Deadline:
        """The scope in which --timeout holds."""
        return Deadline(arguments.number(self.values, "timeout") if "timeout" in self.values else 0)

    def _libdir(self) -> str | None:
        """Where plugins are; a client of a service has no say in what runs in it."""
        if self.client:
            return None
        return self.text("libdir") or os.environ.get("CRIU_LIBS_DIR")

    def _network_lock(self) -> str:
        how = arguments.choice(self.values, "network-lock", "nftables", "skip", "none", "iptables")
        if how == "iptables":
            raise UserError(
                "--network-lock iptables: pycriu speaks to nf_tables itself", "leave it out, or say nftables"
            )
        return "skip" if how == "none" else how

    def _external(self) -> dict[str, Any]:
        """What --external says of files and, with --ext-unix-sk, of sockets, for `DumpOptions`."""
        resources = arguments.texts(self.values, "external")
        if not resources:
            return {}
        from pycriu.fds import external

        names, sockets = external.for_dump(resources, self.text("ext-unix-sk"))
        return {"external": names, "ext_unix_sk": sockets}

    def _refuse_groups(self) -> None:
        how = self.text("manage-cgroups")
        if how not in (None, "none", "ignore"):
            raise UserError(
                f"--manage-cgroups{f'={how}' if how else ''}: control groups are neither saved nor restored",
                "--manage-cgroups=ignore says so; tasks come back in the control groups of the restore",
            )


def free_images(request: Request, *, restored: bool) -> None:
    """--auto-dedup: what the images have in vain, now that the work is done. That this fails, fails nothing."""
    if not request.flag("auto-dedup"):
        return
    from pycriu.errors import PycriuError
    from pycriu.pages import dedup

    try:
        freed = dedup.consume(request.images) if restored else dedup.dedup(request.images)
    except PycriuError as error:
        request.log.warn("--auto-dedup: %s", error)
    else:
        request.log.info("Freed %d KiB of images", freed.size >> 10)


def light_protobuf() -> None:
    """Before anything imports the messages of the images, in a process that lives for one dump or restore."""
    from pycriu.images import schema

    schema.expect_no_well_known_types()


def tell_dry_run(
    request: Request, look: Callable[[Values, Callable[[Values], T], Log], Report], options: Callable[[Request], T]
) -> int:
    """Say what `look` of a module of `dryrun` finds, with `options` of what is asked for and more; the exit status."""

    def build(values: Values) -> T:
        return options(Request(values, request.words, request.images, request.work, request.log))

    request.finished = "Dry run finished"
    report = look(request.values, build, request.log)
    say([report.as_json()] if request.flag("json") else report.lines())
    return 0 if report.passes else 1


ALARM, SIGCHLD = 14, 17


class Deadline:
    """A scope that SIGALRM ends after some seconds; 0: none."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)


_SIGCHLD = 17


def hear_of_children() -> None:
    """For commands that have any: under SIGCHLD ignored, which servers leave to what they start, nobody can wait(2)."""
    if _signal.getsignal(_SIGCHLD) == _signal.SIG_IGN:
        _signal.signal(_SIGCHLD, _signal.SIG_DFL)


class Signals:
    """While it lasts, the first signal that would end us becomes an exception, so that what was begun is undone.

    Later ones are ignored: the undoing must not be interrupted. Behind `settle` all are, to our end: what was asked for
    is done, and so our exit status says. (The module `signal` takes 3 ms to import, for names.)

    Who has started us may have SIGCHLD ignored, and so would we: nobody could wait for a child then, see waitpid(2).
    """

    numbers = (1, 2, ALARM, 15)  # SIGHUP, SIGINT, SIGALRM, SIGTERM
    late: ClassVar[list[int]] = []  # those that have come behind `settle`
    held: ClassVar[list[int]] = []  # and behind `hold`

    def __enter__(self) -> None:
        if _signal.getsignal(SIGCHLD) == _signal.SIG_IGN:
            _signal.signal(SIGCHLD, _signal.SIG_DFL)
        self._before = {number: _signal.getsignal(number) for number in self.numbers}
        for number in self.numbers:
            if self._before[number] != _signal.SIG_IGN or number == ALARM:  # nohup(1) means it
                _signal.signal(number, self._first)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if _signal.getsignal(number) not in (_too_late, _held):
                _signal.signal(number, handler)

    def _first(self, number: int, _frame: object) -> None:
        for later in self.numbers:
            _signal.signal(later, _signal.SIG_IGN)
        raise KeyboardInterrupt(number)


def settle() -> None:
    """Nothing is undone from here on: a signal that would end us is only noted."""
    for number in Signals.numbers:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _too_late)


def hold() -> None:
    """`settle` for whoever stays: a signal that would end us does so, but at `let_come`."""
    for number in Signals.numbers:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _held)


def let_come() -> None:
    """The end of `hold`, where that was called."""
    for number in Signals.numbers:
        if _signal.getsignal(number) == _held:
            _signal.signal(number, _signal.SIG_DFL)
    for number in Signals.held:
        os.kill(os.getpid(), number)  # which ends us, unless somebody has it ignored since


def stay(result: RestoreResult, log: Log, *, keys: bool) -> int:
    """Attached restore: here until the root ends. The exit status says how the restore went, as CRIU's does.

    With `keys`, what they send to the foreground of a terminal is for the tree, as a shell leaves it to its jobs.
    """
    log.flush()
    for number in (2, 3):  # SIGINT, SIGQUIT
        _signal.signal(number, _signal.SIG_IGN if keys else _signal.SIG_DFL)
    let_come()
    result.wait()
    return 0


def _too_late(number: int, _frame: object) -> None:
    Signals.late.append(number)


def _held(number: int, _frame: object) -> None:
    Signals.held.append(number)


def tell_late(lines: Log) -> None:
    """What has come behind `settle`."""
    while Signals.late:
        lines.warn(log.TOO_LATE, Signals.late.pop(0))


def say(lines: Iterable[str]) -> None:
    """To the standard output, at once; UserError where that is not possible."""
    try:
        if isinstance(sys.stdout, TextIOWrapper):  # names need not be what the terminal's encoding has
            sys.stdout.reconfigure(errors="backslashreplace")
        print("\n".join(lines), flush=True)
        return
    except BrokenPipeError:  # `| head`: who reads no further has seen enough
        failed = None
    except OSError as error:
        failed = UserError(f"standard output: {error.strerror}")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes once more at its end
    if failed:
        raise failed


def say_stats(request: Request, entry: Any) -> None:
    """--display-stats, once all is done: that nobody can read it fails nothing."""
    from pycriu.command import statistics

    try:
        say(statistics.lines(entry))
    except UserError as error:
        request.log.warn("--display-stats: %s", error)
