# SPDX-License-Identifier: GPL-2.0-only
"""The options of BLCR's commands: a table for each, and one parser, which reads words as getopt_long(3) does.

An option sets a field to a value, and of several for one field the last one counts, unless the field is in LISTS.
"""

from __future__ import annotations

import errno

from pycriu.blcr.codes import ARGS, Failure
from pycriu.errors import UserError
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Value = str | int | bool
    Values = dict[str, Value | tuple[Value, ...]]

FLAG, VALUE, OPTIONAL, NUMBER, SIGNAL = "flag", "value", "optional", "number", "signal"

LISTS = ("destination", "save", "relocate", "verbose")
"""Fields that keep every value, in their order."""

TREE, PROCESS, GROUP, SESSION = "tree", "pid", "pgid", "sid"
ATOMIC, BACKUP, CLOBBER, NOCLOBBER = "atomic", "backup", "clobber", "noclobber"
ERROR, SKIP, ALLOW = "error", "skip", "allow"
NONE, WARNING = "none", "warning"
EXE, PRIVATE, SHARED = "exe", "private", "shared"
MAYBE, ALWAYS, NEVER = "maybe", "always", "never"
SIGABRT, SIGKILL, SIGTERM, SIGCONT, SIGSTOP = 6, 9, 15, 18, 19


@record
class Option:
    """One option. A flag sets `field` to `value`; others to what is given, a pair of it with `value` in a list."""

    long: str
    field: str
    help: str
    value: Value = True
    short: str = ""
    kind: str = FLAG
    metavar: str = ""


@record
class Command:
    """One of the four: `operands` as the usage shows them; where `leading`, options end at the first operand."""

    name: str
    summary: str
    operands: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]
    leading: bool = False

    @property
    def options(self) -> list[Option]:
        """All of them, in the order of the table."""
        return [option for _, options in self.groups for option in options]


_SAME = "the same"  # the help of another spelling of the option before it
_HELP = Option("help", "help", "say how it is used, and end", short="?")


def _help(*shorts: str) -> tuple[Option, ...]:
    return (_HELP, *(Option("help", "help", _SAME, short=letter) for letter in shorts))


def _version(short: str = "") -> Option:
    return Option("version", "version", "say which version it is, and end", short=short)


_QUIET = Option("quiet", "quiet", "say nothing: the exit code tells", short="q")

_KERNEL_MESSAGES = ("Details", (
    Option("kmsg-none", "details", "say what has happened, not why", NONE),
    Option("kmsg-error", "details", "say on failure what is in the way (default)", ERROR),
    Option("kmsg-warning", "details", "say on success, too, what is worth a warning", WARNING),
))  # fmt: skip

_SIGNALS = (
    Option("run", "signal", "none: they go on (default)", 0),
    Option("signal", "signal", "this one, by its number", short="S", kind=SIGNAL, metavar="NUM"),
    Option("stop", "signal", "SIGSTOP", SIGSTOP),
    Option("term", "signal", "SIGTERM", SIGTERM),
    Option("abort", "signal", "SIGABRT", SIGABRT),
    Option("kill", "signal", "SIGKILL", SIGKILL),
    Option("cont", "signal", "SIGCONT", SIGCONT),
    Option("early-stop", "signal", "SIGSTOP, which comes before the program runs an instruction in any case", SIGSTOP),
    Option("early-abrt", "signal", "SIGABRT, likewise", SIGABRT),
)

RUN = Command("cr_run", "run a program, in or out of the reach of later checkpoints", "[PROGRAM [ARGUMENT…]]", (
    ("Options", (
        Option("run", "omit", "it is saved like any other program (default)", False),
        Option("omit", "omit", "it, and what it starts, is left out of every checkpoint"),
        *_help(),
        _version(),
    )),
), leading=True)  # fmt: skip

CHECKPOINT = Command("cr_checkpoint", "save running processes in a context file", "ID", (
    ("General", (
        Option("verbose", "verbose", "say what is being done; more so, given more than once", short="v"),
        _QUIET, *_help("h"), _version(),
    )),
    ("Scope: what ID is", (
        Option("tree", "scope", "a process: it and all below it (default)", TREE, "T"),
        Option("pid", "scope", "a process, which is saved alone, with all its threads", PROCESS, "p"),
        Option("process", "scope", _SAME, PROCESS),
        Option("pgid", "scope", "a process group", GROUP, "g"),
        Option("group", "scope", _SAME, GROUP),
        Option("sid", "scope", "a session", SESSION, "s"),
        Option("session", "scope", _SAME, SESSION),
    )),
    ("Destination: one of these", (
        Option("cwd", "destination", "context.ID in the current directory (default)", "cwd", "c"),
        Option("file", "destination", "this file", "file", "f", VALUE, "FILE"),
        Option("fd", "destination", "an open descriptor; a pipe or socket, too", "fd", "F", NUMBER, "FD"),
        Option("dir", "destination", "the images themselves, as files in this directory, which is made if need be",
               "dir", "d", VALUE, "DIR"),
    )),
    ("A context that is there already", (
        Option("atomic", "replace", "is replaced when the new one is whole (default)", ATOMIC),
        Option("backup", "replace", "likewise, and is kept as NAME, by default as FILE.~1~, FILE.~2~ and so on", BACKUP,
               kind=OPTIONAL, metavar="NAME"),
        Option("clobber", "replace", "is written over", CLOBBER),
        Option("noclobber", "replace", "is a reason to refuse", NOCLOBBER),
        Option("sync", "sync", "the file and its directory are on disk when the command ends (default)", True),
        Option("nosync", "sync", "they come there when the system likes", False),
    )),
    ("Signal to every process, when all of them are saved", _SIGNALS),
    ("Memory beyond what is the processes' alone; these add up", (
        Option("save-exe", "save", "the pages of the program's file, too", EXE),
        Option("save-private", "save", "those of all files that are mapped private, such as libraries", PRIVATE),
        Option("save-shared", "save", "those of files that are mapped shared, if nobody may write to them", SHARED),
        Option("save-all", "save", "all three", "all"),
        Option("save-none", "save", "nothing of what stands before it (default)", NONE),
    )),
    ("Debuggers", (
        Option("ptraced-error", "ptraced", "refuse where a process is being traced (default)", ERROR),
        Option("ptraced-skip", "ptraced", "leave such a process out, and what is below it", SKIP),
        Option("ptraced-allow", "ptraced", "save it even so: refused, since Linux allows one tracer only", ALLOW),
        Option("ptracer-error", "ptracer", "refuse where a process traces others (default)", ERROR),
        Option("ptracer-skip", "ptracer", "leave such a process out", SKIP),
    )),
    _KERNEL_MESSAGES,
    ("Time", (
        Option("time", "time", "give up after so many seconds; what was begun is undone", short="t", kind=NUMBER,
               metavar="SEC"),
    )),
))  # fmt: skip

RESTART = Command("cr_restart", "bring back the processes of a context file, and be their parent", "[FILE]", (
    ("General", (_QUIET, *_help("h"), _version("v"))),
    ("Source: one of these", (
        Option("file", "destination", "this file, as FILE", "file", "f", VALUE, "FILE"),
        Option("fd", "destination", "an open descriptor; a pipe or socket, too", "fd", "F", NUMBER, "FD"),
        Option("dir", "destination", "a directory that cr_checkpoint --dir, or pycriu dump, has filled", "dir", "d",
               VALUE, "DIR"),
    )),
    ("Signal to every process, when all of them are back", (
        *_SIGNALS, Option("freeze", "signal", "as --stop", SIGSTOP),
    )),
    ("This cr_restart, in a later checkpoint of the processes", (
        Option("omit-maybe", "later", "is left out, unless its parent is saved, too (default)", MAYBE),
        Option("omit-always", "later", "is left out", ALWAYS),
        Option("omit-never", "later", "is saved if it is in the scope", NEVER),
    )),
    ("Commands to run, by system(3)", (
        Option("run-on-success", "on-success", "when the processes run", kind=VALUE, metavar="CMD"),
        Option("run-on-fail-args", "on-args", "bad options; the context file is missing or cannot be read", kind=VALUE,
               metavar="CMD"),
        Option("run-on-fail-temp", "on-temp", "a failure that time may cure: no memory, a PID in use", kind=VALUE,
               metavar="CMD"),
        Option("run-on-fail-env", "on-env", "the surroundings: such as a file that is missing, or may not be opened",
               kind=VALUE, metavar="CMD"),
        Option("run-on-fail-perm", "on-perm", "any other failure", kind=VALUE, metavar="CMD"),
        Option("run-on-failure", "on-failure", "each of these four", kind=VALUE, metavar="CMD"),
    )),
    ("Paths", (
        Option("relocate", "relocate", "what was below OLD is below NEW; up to 16 times, the first that fits counts",
               kind=VALUE, metavar="OLD=NEW"),
    )),
    ("Ids", (
        Option("restore-pid", "keep-pid", "processes have the PIDs that they had (default)", True),
        Option("no-restore-pid", "keep-pid", "they get new ones, and see the old ones: a PID namespace of their own",
               False),
        Option("restore-pgid", "keep-pgid", "process groups are what they were", True),
        Option("no-restore-pgid", "keep-pgid", "all are in the group of cr_restart (default)", False),
        Option("restore-sid", "keep-sid", "sessions are what they were", True),
        Option("no-restore-sid", "keep-sid", "all are in the session of cr_restart (default)", False),
    )),
    _KERNEL_MESSAGES,
))  # fmt: skip

INFO = Command("cr_info", "show what a context file holds", "FILE", (
    ("Options", (Option("json", "json", "for programs"), *_help("h"), _version())),
))  # fmt: skip

COMMANDS = (RUN, CHECKPOINT, RESTART, INFO)
MAX_RELOCATIONS = 16
MAX_SIGNAL = 64


def parse(command: Command, words: Sequence[str], values: Values) -> list[str]:
    """Set the fields that the words say, and return the operands.

    UserError for what is no option of the command, Failure for a value that is none: what stands before it is in
    `values` then, too.
    """
    plain: list[str] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            break
        if word.startswith("--"):
            _long(command, word, rest, values)
        elif word.startswith("-") and word != "-":
            _short(command, word[1:], rest, values)
        else:
            plain.append(word)
            if command.leading:
                break
    return plain + list(reversed(rest))


def _long(command: Command, word: str, rest: list[str], values: Values) -> None:
    name, equals, given = word[2:].partition("=")
    option = _find(command, name)
    if option.kind == FLAG:
        if equals:
            raise UserError(f"option '--{option.long}' doesn't allow an argument")
        _store(option, None, values)
        return
    if not equals and option.kind != OPTIONAL:
        given = _next(f"option '--{option.long}' requires an argument", rest)
    _store(option, given if equals or option.kind != OPTIONAL else None, values)


def _short(command: Command, letters: str, rest: list[str], values: Values) -> None:
    while letters:
        option = next((one for one in command.options if one.short == letters[0]), None)
        if option is None:
            raise UserError(f"invalid option -- '{letters[0]}'")
        letters = letters[1:]
        if option.kind == FLAG:
            _store(option, None, values)
            continue
        _store(option, letters or _next(f"option requires an argument -- '{option.short}'", rest), values)
        return


def _next(missing: str, rest: list[str]) -> str:
    if not rest:
        raise UserError(missing)
    return rest.pop()


def _find(command: Command, name: str) -> Option:
    """The option of that name, or of that beginning if it is the only one."""
    names = {option.long: option for option in reversed(command.options)}
    if name in names:
        return names[name]
    begun = [long for long in names if name and long.startswith(name)]
    if len(begun) == 1:
        return names[begun[0]]
    if begun:
        told = " ".join(f"'--{long}'" for long in sorted(begun))
        raise UserError(f"option '--{name}' is ambiguous; possibilities: {told}")
    raise UserError(f"unrecognized option '--{name}'")


def _store(option: Option, given: str | None, values: Values) -> None:
    value: Value = option.value
    if given is not None:
        value = _number(option, given) if option.kind in (NUMBER, SIGNAL) else given
    if option.field == "replace":
        values["backup"] = given or ""
        value = option.value
    if option.field == "on-failure":
        values |= dict.fromkeys(("on-args", "on-temp", "on-env", "on-perm"), value)
    if option.field not in LISTS:
        values[option.field] = value
        return
    before = values.get(option.field, ())
    assert isinstance(before, tuple)
    if option.field == "destination":
        values["place"] = value
        value = option.value
    values[option.field] = (*before, value)


def _number(option: Option, given: str) -> int:
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise UserError(f"option '--{option.long}' takes a number, not '{given}'")
    number = int(given)
    if option.kind == SIGNAL and not 0 < number <= MAX_SIGNAL:
        raise Failure(errno.EINVAL, f"there is no signal {number}: they are 1 to {MAX_SIGNAL}", kind=ARGS)
    return number


WIDTH = 100
_COLUMN = 34


def usage(command: Command) -> str:
    """The help text."""
    import textwrap

    lines = [
        f"Usage: {command.name} [options] {command.operands}",
        f"{command.summary[0].upper()}{command.summary[1:]}.",
    ]
    for title, options in command.groups:
        lines += ["", f"{title}:"]
        for spelled, text in rows(options):
            head = f"  {spelled}" if spelled.startswith("-") and spelled[1] != "-" else f"      {spelled}"
            begin = f"{head:<{_COLUMN}}" if len(head) + 2 <= _COLUMN else f"{head}\n{'':<{_COLUMN}}"
            folded = textwrap.wrap(text, WIDTH - _COLUMN, break_on_hyphens=False)
            lines.append(begin + f"\n{'':<{_COLUMN}}".join(folded))
    return "\n".join(lines) + "\n"


def rows(options: Sequence[Option]) -> list[tuple[str, str]]:
    """For each thing that can be said: how it is spelled, in all its forms, and what it means."""
    groups: list[list[Option]] = []
    for option in options:
        if option.help == _SAME:
            groups[-1].append(option)
        else:
            groups.append([option])
    return [(_spelling(group), group[0].help) for group in groups]


def _spelling(options: list[Option]) -> str:
    """Short and long forms, and what the value is."""
    first = options[0]
    forms = [f"-{one.short}" for one in options if one.short]
    forms += dict.fromkeys(f"--{one.long}" for one in options)
    value = f"={first.metavar}" if first.metavar else ""
    return ", ".join(forms) + (f"[{value}]" if first.kind == OPTIONAL else value)
