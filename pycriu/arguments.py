# SPDX-License-Identifier: GPL-2.0-only
"""The words on the command line and in the configuration files: one table of options, one parser, help made of both.

Option names, short forms and defaults are CRIU's. An option of CRIU's that does nothing here is refused by name; one
that means nothing to the action at hand is told to the log. Pure: words in, values out. (argparse would cost 6 ms.)
"""

from __future__ import annotations

from pycriu.errors import UserError
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Values = dict[str, str | bool | int]

DUMP, RESTORE, CHECK = "dump", "restore", "check"
ACTIONS = (DUMP, RESTORE, CHECK)
ALL = ACTIONS
BOTH = (DUMP, RESTORE)

# Actions of CRIU that are not here.
OTHER_ACTIONS = ("pre-dump", "dedup", "page-server", "lazy-pages", "service", "swrk", "cpuinfo", "exec", "show")

FLAG, VALUE, OPTIONAL, LEVEL = "flag", "value", "optional", "level"


@record
class Option:
    """One option: declared here and nowhere else."""

    long: str
    short: str = ""
    kind: str = FLAG
    metavar: str = ""
    help: str = ""
    actions: tuple[str, ...] = ()  # that it means something to; empty: refused
    negatable: bool = False  # has a --no- form


def _refused(long: str, short: str = "", kind: str = FLAG, *, negatable: bool = False) -> Option:
    return Option(long, short, kind, negatable=negatable)


OPTIONS = (
    Option("tree", "t", VALUE, "PID", "root of the tree to dump", (DUMP,)),
    Option("images-dir", "D", VALUE, "DIR", "where the images are (default: here)", BOTH),
    Option("work-dir", "W", VALUE, "DIR", "where log, pidfile and statistics go (default: with the images)", ALL),
    Option("log-file", "o", VALUE, "FILE", "log to FILE in the work directory; - is standard output", ALL),
    Option("verbosity", "v", LEVEL, "N", "1 errors, 2 warnings (default), 3 steps with times, 4 all; -v adds 1", ALL),
    Option("restore-detached", "d", FLAG, "", "return once the tasks run", (RESTORE,), True),
    Option("daemon", "", FLAG, "", "the same as --restore-detached", (RESTORE,), True),
    Option("shell-job", "j", FLAG, "", "session leader or terminal may lie outside the tree", BOTH, True),
    Option("leave-running", "R", FLAG, "", "let the tasks run on after the dump", (DUMP,)),
    Option("leave-stopped", "s", FLAG, "", "leave the tasks stopped", BOTH),
    Option("pidfile", "", VALUE, "FILE", "write the PID of the restored root to FILE, a new file", (RESTORE,)),
    Option("timeout", "", VALUE, "SECONDS", "for finding and freezing all tasks (default: 10)", (DUMP,)),
    Option("file-locks", "l", FLAG, "", "keep file locks and leases", BOTH, True),
    Option("link-remap", "", FLAG, "", "may make hard links for deleted files with other names", BOTH, True),
    Option("ghost-limit", "", VALUE, "SIZE", "largest deleted file to keep (default: 1M)", (DUMP,)),
    Option("file-validation", "", VALUE, "HOW", "what must match: mtime (default), filesize, buildid, checksum", BOTH),
    Option("skip-file-rwx-check", "", FLAG, "", "the mode bits of files may have changed", (RESTORE,), True),
    Option("force-irmap", "", FLAG, "", "find watched files by scanning paths", (DUMP,), True),
    Option("ext-unix-sk", "x", OPTIONAL, "INODES", "UNIX sockets may have peers outside (none named: all)", BOTH),
    Option("tcp-established", "", FLAG, "", "keep TCP connections", BOTH, True),
    Option("tcp-close", "", FLAG, "", "TCP connections come back closed", BOTH, True),
    Option("skip-in-flight", "", FLAG, "", "drop connections that nobody has accepted yet", BOTH, True),
    Option("network-lock", "", VALUE, "HOW", "how packets are held: nftables (default), skip", BOTH),
    Option("config", "", VALUE, "FILE", "read options from FILE too, one per line, without dashes", ALL),
    Option("no-default-config", "", FLAG, "", "do not read /etc/criu/default.conf and ~/.criu/default.conf", ALL),
    Option("feature", "", VALUE, "NAME", "probe only this feature", (CHECK,)),
    Option("extra", "", FLAG, "", "probe what only some tasks need, too", (CHECK,), True),
    Option("all", "", FLAG, "", "the same as --extra", (CHECK,)),
    Option("list", "", FLAG, "", "name all features that can be probed", (CHECK,)),
    Option("help", "h", FLAG, "", "this text", ALL),
    Option("version", "V", FLAG, "", "the version", ALL),
    *(_refused(name, negatable=True) for name in (
        "track-mem", "display-stats", "evasive-devices",
        "page-server", "auto-dedup", "log-pid", "weak-sysctls", "unprivileged",
        "mntns-compat-mode", "stream", "tls", "ghost-fiemap", "allow-uprobes", "deprecated", "experimental",
        "enable-external-sharing", "enable-external-masters",
    )),
    *(_refused(name, kind=VALUE) for name in (
        "prev-images-dir", "external", "inherit-fd", "action-script", "empty-ns",
        "skip-mnt", "enable-fs", "cgroup-root", "cgroup-props", "cgroup-props-file", "cgroup-dump-controller",
        "cgroup-yard", "freeze-cgroup", "lsm-profile", "lsm-mount-context", "irmap-scan-path",
        "address", "port", "ps-socket", "pre-dump-mode", "status-fd", "veth-pair", "tls-cacert", "tls-cacrl",
        "tls-cert", "tls-key", "close",
    )),
    *(_refused(name) for name in ("exec-cmd", "lazy-pages", "tls-no-cn-verify", "ms")),
    _refused("manage-cgroups", kind=OPTIONAL),
    _refused("cpu-cap", kind=OPTIONAL),
    _refused("restore-sibling", "S", negatable=True),
    _refused("root", "r", VALUE),
    _refused("join-ns", "J", VALUE),
    _refused("ext-mount-map", "M", VALUE),
    _refused("libdir", "L", VALUE),
)  # fmt: skip

LONG = {option.long: option for option in OPTIONS}
SHORT = {option.short: option for option in OPTIONS if option.short}

DEFAULT_VERBOSITY = 2


def parse(words: Iterable[str]) -> tuple[Values, list[str]]:
    """Options as long name -> value, and the words that are no options. Options and words may stand in any order."""
    values: Values = {}
    plain: list[str] = []
    rest = list(words)[::-1]
    while rest:
        word = rest.pop()
        if word == "--":
            plain += rest[::-1]
            break
        if word.startswith("--"):
            _long(word[2:], rest, values)
        elif word.startswith("-") and word != "-":
            _short(word[1:], rest, values)
        else:
            plain.append(word)
    return values, plain


def config_words(text: str) -> list[str]:
    """A configuration file as words of a command line: an option per line, `#` comments, values in double quotes."""
    words: list[str] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        value = value.strip()
        value = value[1:].partition('"')[0] if value.startswith('"') else value.partition("#")[0].rstrip()
        words.append(f"--{name}={value}" if value else f"--{name}")
    return words


def without_meaning(action: str, values: Mapping[str, object]) -> list[str]:
    """The options given that this action has no use for."""
    return [f"--{name}" for name in values if action not in LONG[name].actions]


def number(values: Mapping[str, object], name: str, default: int | None = None) -> int:
    """The value of an option that counts something; UserError unless it is a positive number."""
    given = values.get(name, default)
    text = str(given)
    if not text.isascii() or not text.isdigit() or int(text) <= 0:
        said = f"--{name} is missing" if given is None else f"--{name} {given}: not a positive number"
        raise UserError(said, hint=f"--{name} {LONG[name].metavar}: {LONG[name].help}")
    return int(text)


def size(values: Mapping[str, object], name: str, default: int) -> int:
    """The value of an option that is a number of bytes, with K, M or G behind it or not; UserError otherwise."""
    text = str(values.get(name, default))
    digits = text.rstrip("KMG")
    if not digits.isascii() or not digits.isdigit() or len(text) - len(digits) > 1:
        raise UserError(f"--{name} {text}: not a size", hint=f"--{name} {LONG[name].metavar}: {LONG[name].help}")
    return int(digits) << {"K": 10, "M": 20, "G": 30}.get(text[len(digits) :], 0)


def choice(values: Mapping[str, object], name: str, *allowed: str) -> str:
    """The value of an option that is one of some words, the first by default; UserError for any other."""
    given = str(values.get(name, allowed[0]))
    if given not in allowed:
        raise UserError(f"--{name} {given}: not one of {', '.join(allowed)}")
    return given


def usage() -> str:
    """The help text."""
    width = max(len(_spelling(option)) for option in OPTIONS if option.actions)
    lines = [
        "usage:  pycriu dump -t PID [options]",
        "        pycriu restore [options]",
        "        pycriu check [options]",
        "        pycriu -h | -V",
        "",
        "Options (for: d dump, r restore, c check):",
    ]
    for option in OPTIONS:
        if option.actions:
            marks = "".join(action[0] if action in option.actions else "-" for action in ACTIONS)
            lines.append(f"  {_spelling(option):<{width}}  {marks}  {option.help}")
    refused = sorted(option.long for option in OPTIONS if not option.actions)
    lines += ["", "Options of CRIU that are refused: " + ", ".join(refused) + "."]
    return "\n".join(lines) + "\n"


def _spelling(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    name = f"--[no-]{option.long}" if option.negatable else f"--{option.long}"
    return short + name + (f" {option.metavar}" if option.metavar else "")


def _long(word: str, rest: list[str], values: Values) -> None:
    name, equals, value = word.partition("=")
    option, on = _find(name)
    if option.kind == FLAG:
        if equals:
            raise UserError(f"--{option.long} takes no value")
        _store(option, on, values)
    elif option.kind == VALUE and not equals:
        _store(option, _next(f"--{option.long}", option, rest), values)
    else:
        _store(option, value, values)


def _short(letters: str, rest: list[str], values: Values) -> None:
    while letters:
        option = SHORT.get(letters[0])
        if option is None:
            raise UserError(f"unknown option -{letters[0]}", hint="pycriu -h lists all options")
        letters = letters[1:]
        if option.kind == FLAG:
            _store(option, True, values)
            continue
        if option.kind == LEVEL and letters.startswith("v"):  # -vvv
            _store(option, "", values)
            continue
        if option.kind == VALUE and not letters:
            letters = _next(f"-{option.short}", option, rest)
        _store(option, letters, values)
        return


def _next(spelled: str, option: Option, rest: list[str]) -> str:
    if not rest:
        raise UserError(f"{spelled} needs a value", hint=option.help and f"{spelled} {option.metavar}: {option.help}")
    return rest.pop()


def _find(name: str) -> tuple[Option, bool]:
    """The option of that name or unambiguous beginning, and whether it is switched on."""
    known = {option.long: (option, True) for option in OPTIONS}
    known |= {f"no-{option.long}": (option, False) for option in OPTIONS if option.negatable}
    exact = known.get(name)
    if exact:
        return exact
    begun = [found for spelling, found in known.items() if name and spelling.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UserError(f"--{name} could be " + " or ".join(f"--{option.long}" for option, _ in begun))
    raise UserError(f"unknown option --{name}", hint="pycriu -h lists all options")


def _store(option: Option, value: str | bool, values: Values) -> None:
    if not option.actions:
        if value is False:
            return  # asks for what is so anyway
        raise UserError(f"--{option.long} is not supported by pycriu")
    if option.kind != LEVEL:
        values["restore-detached" if option.long == "daemon" else option.long] = value
        return
    if value == "":
        before = values.get(option.long, DEFAULT_VERBOSITY)
        values[option.long] = int(before) + 1
    elif str(value).isascii() and str(value).isdigit():
        values[option.long] = int(value)
    else:
        raise UserError(f"--{option.long} {value}: not a number")
