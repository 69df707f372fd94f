# SPDX-License-Identifier: GPL-2.0-only
"""The words on the command line and in the configuration files: a table of actions, one of options, one parser.

Option names, short forms and defaults are CRIU's. An option of CRIU's that is not here is refused, with the reason that
its row gives; one that means nothing to the action at hand is told to the log. Pure: words in, values out. (argparse
would cost 6 ms.)
"""

from __future__ import annotations

from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Values = dict[str, str | bool | int | tuple[str, ...]]

DUMP, RESTORE, CHECK = "dump", "restore", "check"
PRE_DUMP = "pre-dump"
PAGE_SERVER = "page-server"
CORE = "core"
SAVING = (DUMP, PRE_DUMP)
NETWORK = (DUMP, PRE_DUMP, PAGE_SERVER)
BOTH = (DUMP, PRE_DUMP, RESTORE)
FILES = (*BOTH, CORE, "job")
TOLD = (*BOTH, "service", "job")
JOBS, OF_DUMPS = (*BOTH, "job"), (*SAVING, "job")
UNPRIVILEGED = (*BOTH, "service", "cpuinfo", CHECK)
CPUS = (DUMP, RESTORE, "cpuinfo")
WITH_IMAGES = (*BOTH, "job", "dedup", "cpuinfo", PAGE_SERVER, CORE)
STAY = (RESTORE, "service", PAGE_SERVER)


class Action:
    """Something that pycriu can be asked to do: declared here, done by `run` of `pycriu/actions/NAME.py`."""

    __slots__ = ("capability", "failed", "finished", "log", "name", "summary", "words")

    def __init__(
        self,
        name: str,
        summary: str,
        finished: str,
        failed: str,
        words: str = "",
        *,
        capability: bool = True,
        log: bool = True,
    ) -> None:
        self.name = name
        self.summary = summary
        self.finished, self.failed = finished, failed  # the last lines of a log, which scripts look for
        self.words = words  # the words that it takes behind its name, in capitals
        self.capability = capability  # whether it needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE to begin with
        self.log = log  # whether it logs where --log-file says; else each request says where

    def takes(self, words: int) -> bool:
        """Whether so many words may stand behind it."""
        return words <= len(self.words.split()) or self.words.endswith(("...", "...]"))


ACTIONS = {action.name: action for action in (
    Action(DUMP, "save a tree of processes", "Dumping finished successfully", "Dumping FAILED."),
    Action(PRE_DUMP, "save the memory of a tree that runs on, so that its dump has less to do",
           "Pre-dumping finished successfully", "Pre-dumping FAILED."),
    Action(RESTORE, "bring it back", "Restore finished successfully. Tasks resumed.", "Restoring FAILED."),
    Action(PAGE_SERVER, "receive the pages of a dump elsewhere", "Page server finished", "Page server FAILED.",
           capability=False),
    Action("dedup", "free the pages of earlier images that -D has newer", "Deduplication finished",
           "Deduplication FAILED.", capability=False),
    Action(CHECK, "does this kernel have what it takes?", "Check finished", "Check FAILED.", capability=False),
    Action("doctor", "can processes be dumped and restored here, and if not, what is to be done?", "Doctor finished",
           "Doctor FAILED.", capability=False),
    Action("cpuinfo", "write down what the CPU offers, or check it against an image", "CPU info finished",
           "CPU info FAILED.", "dump|check", capability=False),
    Action("core", "restart from an ELF core file, write one with what it lacks, and catch those of programs that end",
           "Core finished", "Core FAILED.", "import|restore|save|handler CORE|PID FILE", capability=False),
    Action("ls", "list the checkpoints below directories", "Listing finished", "Listing FAILED.", "[DIR...]",
           capability=False),
    Action("gc", "remove checkpoints below directories that are not wanted any more", "Collection finished",
           "Collection FAILED.", "DIR...", capability=False),
    Action("service", "do for others what they ask for through a socket", "Service finished", "Service FAILED."),
    Action(
        "job", "run a program; save it at a signal, and go on at the next start", "Job finished", "Job FAILED.",
        "run -- PROGRAM...",
    ),
    Action(
        "snapshot", "start a program in Python where its imports are done", "Snapshot finished", "Snapshot FAILED.",
        "run|clear -- PYTHON...", capability=False,
    ),
    Action(
        "swrk", "the same for one client, on a socket that it has left open", "Worker finished", "Worker FAILED.", "FD",
        capability=False, log=False,
    ),
)}  # fmt: skip
ALL = tuple(ACTIONS)

# Actions of CRIU that are not here, and why.
OTHER_ACTIONS = {
    "lazy-pages": "pycriu puts all pages back before the tasks run",
    "exec": "CRIU has given it up, too",
    "show": "use crit decode",
}

FLAG, VALUE, LIST, OPTIONAL, LEVEL = "flag", "value", "list", "optional", "level"  # a list: given as often as wanted


class Option:
    """One option: declared here and nowhere else."""

    __slots__ = ("actions", "help", "kind", "long", "metavar", "negatable", "reason", "short")

    def __init__(
        self,
        long: str,
        short: str = "",
        kind: str = FLAG,
        metavar: str = "",
        help: str = "",  # noqa: A002  # what argparse calls it
        actions: tuple[str, ...] = (),
        negatable: bool = False,
        reason: str = "",
    ) -> None:
        self.long, self.short, self.kind, self.metavar = long, short, kind, metavar
        self.help = help
        self.actions = actions  # that it means something to; empty: refused
        self.negatable = negatable  # has a --no- form
        self.reason = reason  # why it is refused, or where it is accepted, why it has no effect


def _refused(long: str, reason: str, kind: str = FLAG, short: str = "", *, negatable: bool = False) -> Option:
    return Option(long, short, kind, negatable=negatable, reason=reason)


def _needless(long: str, reason: str, kind: str = FLAG, *, negatable: bool = False) -> Option:
    """What permits or chooses something that does not arise here: accepted, and the log says why it has no effect."""
    return Option(long, "", kind, negatable=negatable, actions=BOTH, reason=reason)


GROUPS = (
    ("What is saved, and where", (
        Option("tree", "t", VALUE, "PID", "root of the tree to dump", SAVING),
        Option("images-dir", "D", VALUE, "DIR", "where the images are (default: here)", WITH_IMAGES),
        Option("work-dir", "W", VALUE, "DIR", "where log, pidfile and statistics go (default: with the images)", ALL),
        Option("leave-running", "R", FLAG, "", "let the tasks run on after the dump", (DUMP,)),
        Option("leave-stopped", "s", FLAG, "", "leave the tasks stopped", (DUMP, RESTORE, CORE)),
        Option("shell-job", "j", FLAG, "", "session leader or terminal may lie outside the tree", BOTH, True),
        Option("restore-detached", "d", FLAG, "", "return once the tasks run, or the service", (*STAY, CORE), True),
        Option("daemon", "", FLAG, "", "the same as --restore-detached", STAY, True),
        Option("pidfile", "", VALUE, "FILE", "write the PID of the root, or of the service, to FILE, a new file", STAY),
        Option("wait-pid", "", VALUE, "SECONDS", "wait so long for PIDs of the tree that others have", (RESTORE,)),
        Option("new-pid", "", FLAG, "", "restore into a PID namespace of its own, where all PIDs are free",
               (RESTORE,)),
        Option("timeout", "", VALUE, "SECONDS", "for the whole dump (default: 10, for freezing alone)", OF_DUMPS),
        Option("dry-run", "", FLAG, "", "do nothing but say all that stands in the way, and what helps",
               (DUMP, RESTORE, "gc")),
        Option("prev-images-dir", "", VALUE, "DIR", "save only what has changed since the dump in DIR (relative to -D)",
               NETWORK),
        Option("track-mem", "", FLAG, "", "let the kernel note what changes from now on, as pre-dumps do", SAVING,
               True),
        Option("pre-dump-mode", "", VALUE, "HOW", "splice or read: both read tasks that run", (PRE_DUMP,)),
        Option("auto-dedup", "", FLAG, "", "free pages that are newer here, or were restored",
               BOTH, True),
        _refused("stream", "pycriu does not speak to criu-image-streamer", negatable=True),
        _refused("lazy-pages", "pycriu puts all pages back before the tasks run"),
    )),
    ("Files", (
        Option("file-locks", "l", FLAG, "", "keep file locks and leases", FILES, True),
        Option("link-remap", "", FLAG, "", "may make hard links for deleted files with other names", FILES, True),
        Option("ghost-limit", "", VALUE, "SIZE", "largest deleted file to keep (default: 1M)", (*OF_DUMPS, CORE)),
        Option("file-validation", "", VALUE, "HOW", "what must match: mtime (default) filesize buildid checksum",
               FILES),
        Option("skip-file-rwx-check", "", FLAG, "", "the mode bits of files may have changed", (RESTORE,), True),
        Option("force-irmap", "", FLAG, "", "find watched files by scanning paths", SAVING, True),
        Option("irmap-scan-path", "", LIST, "DIR", "look for watched files in DIR, too", SAVING),
        Option("edit", "", LIST, "RULE", "change images while they are read: files:reg:/old/%=/new/%", (RESTORE,)),
        Option("edit-script", "", VALUE, "FILE", "the same by a JSON patch on what crit decode shows", (RESTORE,)),
        Option("external", "", LIST, "NAME", "not saved: file[MNT:INODE] tty[RDEV:DEV] pipe[INODE] unix[INODE]", BOTH),
        Option("inherit-fd", "", LIST, "fd[N]:NAME", "our descriptor N replaces a file of the images", (RESTORE,)),
        Option("evasive-devices", "", FLAG, "", "a device may have changed its path below /dev", SAVING, True),
        _needless("ghost-fiemap", "holes of deleted files are found by lseek(2) on every file system", negatable=True),
        _needless("enable-fs", "file systems are not mounted again, so none is in doubt", LIST),
    )),
    ("Sockets and networks", (
        Option("ext-unix-sk", "x", OPTIONAL, "INODES", "UNIX sockets may have peers outside (none named: all)", FILES),
        Option("tcp-established", "", FLAG, "", "keep TCP connections", FILES, True),
        Option("tcp-close", "", FLAG, "", "TCP connections come back closed", FILES, True),
        Option("skip-in-flight", "", FLAG, "", "drop connections that nobody has accepted yet", FILES, True),
        Option("network-lock", "", VALUE, "HOW", "how packets are held: nftables (default), skip", JOBS),
    )),
    ("Pages over the network", (
        Option("page-server", "", FLAG, "", "send pages to a page server", SAVING, True),
        Option("address", "", VALUE, "ADDR", "of the page server, or socket of the service (criu_service.socket)",
               (*NETWORK, "service")),
        Option("port", "", VALUE, "PORT", "of the page server", NETWORK),
        Option("ps-socket", "", VALUE, "FD", "a connection to the other side that is open already", NETWORK),
        Option("tls", "", FLAG, "", "in secret: both sides show and verify certificates", NETWORK, True),
        Option("tls-cacert", "", VALUE, "FILE", "who is trusted (default: /etc/pki/CA/cacert.pem)", NETWORK),
        Option("tls-cacrl", "", VALUE, "FILE", "who is not any more (default: /etc/pki/CA/cacrl.pem)", NETWORK),
        Option("tls-cert", "", VALUE, "FILE", "our certificate (default: /etc/pki/criu/cert.pem)", NETWORK),
        Option("tls-key", "", VALUE, "FILE", "its key (default: /etc/pki/criu/private/key.pem)", NETWORK),
        Option("tls-no-cn-verify", "", FLAG, "", "whatever name is in the other certificate", NETWORK),
    )),
    ("Core files", (
        Option("executable", "", VALUE, "PROGRAM", "the program of a core, if it has moved", (CORE,)),
        Option("fds", "", VALUE, "FILE", "a list of the descriptors: `fd : filename : offset [: flags]`", (CORE,)),
        Option("side", "", VALUE, "FILE", "what was written beside the core (default: CORE.side, if it is there)",
               (CORE,)),
        Option("strict", "", FLAG, "", "refuse a core that does not tell all", (CORE,)),
        Option("kill", "", FLAG, "", "core save: the process ends with that", (CORE,)),
        Option("install", "", VALUE, "DIR", "core handler: let the kernel hand it every core, for DIR", (CORE,)),
        Option("uninstall", "", FLAG, "", "core handler: as it was before", (CORE,)),
        Option("socket", "", FLAG, "", "core handler: by a socket, which it listens on (Linux 6.16)", (CORE,)),
    )),
    ("Namespaces, mounts and control groups", (
        _refused("root", "tasks come back under the root directory and the mounts that they had", VALUE, "r"),
        _refused("empty-ns", "pycriu makes no namespaces", VALUE),
        _refused("join-ns", "tasks come back in the namespaces of the restore", LIST, "J"),
        _refused("veth-pair", "pycriu makes no network namespaces, so it connects none", LIST),
        _refused("ext-mount-map", "mounts are neither saved nor restored", LIST, "M"),
        _needless("skip-mnt", "mounts are not saved, so none is in the way", LIST),
        _needless("enable-external-sharing", "mounts are not saved, whoever shares them", negatable=True),
        _needless("enable-external-masters", "mounts are not saved, whomever they follow", negatable=True),
        _needless("mntns-compat-mode", "mount namespaces are not restored, by no engine", negatable=True),
        Option("manage-cgroups", "", OPTIONAL, "HOW", "none or ignore, as it is: control groups are left alone", BOTH),
        _refused("cgroup-root", "tasks come back in the control groups of the restore", LIST),
        _refused("cgroup-props", "properties of control groups are not saved", VALUE),
        _refused("cgroup-props-file", "properties of control groups are not saved", VALUE),
        _refused("cgroup-dump-controller", "controllers of control groups are not saved", LIST),
        _refused("cgroup-yard", "pycriu mounts no control groups and needs none", VALUE),
        _refused("freeze-cgroup", "pycriu stops each task by ptrace(2); the freezer is not used", VALUE),
        _refused("lsm-profile", "labels of security modules are not restored: tasks get that of the restore", VALUE),
        _refused("lsm-mount-context", "pycriu mounts nothing that could have a context", VALUE),
    )),
    ("How it is done", (
        Option("action-script", "", LIST, "PROGRAM", "tell PROGRAM of each stage, by CRTOOLS_SCRIPT_ACTION", TOLD),
        Option("on", "", LIST, "SIGNAL", "save the job when this signal comes (default: SIGTERM)", ("job",)),
        Option("key", "", VALUE, "TEXT", "distinguish starts of the same program", ("snapshot",)),
        Option("hooks", "", VALUE, "HOW", "programs with hooks: ask (default), try, skip",
               (DUMP, RESTORE, "job")),
        Option("hook-timeout", "", VALUE, "SECONDS", "for the hooks of programs (default: 10)", (DUMP, RESTORE, "job")),
        Option("exec-cmd", "", FLAG, "", "then run the command behind --, as parent of the root", (RESTORE,)),
        Option("restore-sibling", "S", FLAG, "", "the root becomes a child of our parent (needs -d)", (RESTORE,), True),
        Option("status-fd", "", LIST, "FD", "write a zero byte there when ready to serve, and close it",
               ("service", PAGE_SERVER)),
        Option("close", "", LIST, "FD", "close this descriptor first", BOTH),
        Option("unprivileged", "", FLAG, "", "run by a user who has CAP_CHECKPOINT_RESTORE", UNPRIVILEGED, True),
        Option("cpu-cap", "", OPTIONAL, "WHAT", "the CPU must have: cpu fpu ins all none, ^ takes one away", CPUS),
        _needless("weak-sysctls", "no sysctls are restored, so none can be missing", negatable=True),
        Option("allow-uprobes", "", FLAG, "", "programs may have been under uprobes", JOBS, True),
        Option("libdir", "L", VALUE, "DIR", "plugins are the Python files in DIR, too", BOTH),
        _needless("deprecated", "pycriu has nothing that is deprecated", negatable=True),
        _refused("ms", "CRIU has given it up, too"),
    )),
    ("Log, statistics and configuration", (
        Option("log-file", "o", VALUE, "FILE", "log to FILE in the work directory; - is standard output", ALL),
        Option("verbosity", "v", LEVEL, "N", "1 errors, 2 warnings (default), 3 steps, 4 all; -v adds 1", ALL),
        Option("config", "", VALUE, "FILE", "read options from FILE too, one per line, without dashes", ALL),
        Option("no-default-config", "", FLAG, "", "do not read /etc/criu/default.conf and ~/.criu/default.conf", ALL),
        _needless("log-pid", "the restored tasks write no log: all is done from outside", negatable=True),
        Option("display-stats", "", FLAG, "", "print the figures that stats-dump and stats-restore have", BOTH, True),
    )),
    ("What a check probes", (
        Option("feature", "", VALUE, "NAME", "probe only this feature", (CHECK,)),
        Option("extra", "", FLAG, "", "probe what only some tasks need, too", (CHECK,), True),
        Option("experimental", "", FLAG, "", "probe what CRIU calls experimental, too", (CHECK,), True),
        Option("all", "", FLAG, "", "both of that", (CHECK,)),
        Option("list", "", FLAG, "", "name all features that can be probed", (CHECK,)),
        Option("json", "", FLAG, "", "what is found, as JSON",
               (DUMP, RESTORE, CHECK, "doctor", "ls", "gc")),
    )),
    ("Which checkpoints go", (
        Option("keep", "", VALUE, "N", "the N newest below each directory stay", ("gc",)),
        Option("older-than", "", VALUE, "AGE", "only older ones go: 90m, 12h, 7d, 2w", ("gc",)),
    )),
    ("Help", (
        Option("help", "h", FLAG, "", "this text", ALL),
        Option("version", "V", FLAG, "", "the version", ALL),
    )),
)  # fmt: skip
OPTIONS = tuple(option for _, options in GROUPS for option in options)

LONG = {option.long: option for option in OPTIONS}
SHORT = {option.short: option for option in OPTIONS if option.short}

DEFAULT_VERBOSITY = 2
_OVERRULED = {"leave-running": "leave-stopped", "leave-stopped": "leave-running"}  # the last one says what is meant


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


def refuse_dry_run(action: str, values: Mapping[str, object]) -> None:
    """UserError where an action would be done that was only to be talked about."""
    if values.get("dry-run") and action not in LONG["dry-run"].actions:
        raise UserError(
            f"--dry-run is not to be had with {action}", "it is for " + " and ".join(LONG["dry-run"].actions)
        )


def without_meaning(action: str, values: Mapping[str, object]) -> list[str]:
    """The options given that this action has no use for."""
    return [f"--{name}" for name in values if action not in LONG[name].actions]


def without_effect(values: Mapping[str, object]) -> list[str]:
    """The options given that permit or choose what does not arise here, each with the reason."""
    given = [LONG[name] for name, value in values.items() if value is not False]
    return [f"--{option.long} has no effect: {option.reason}" for option in given if option.actions and option.reason]


_DIGITS = 9  # of numbers that count something; seconds for thirty years


def number(values: Mapping[str, object], name: str, default: int | None = None) -> int:
    """The value of an option that counts something; UserError unless it is a positive number."""
    given = values.get(name, default)
    text = str(given)
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or int(text) <= 0:
        said = f"--{name} is missing" if given is None else f"--{name} {given}: not a positive number"
        if text.isascii() and text.isdigit() and len(text) > _DIGITS:
            said = f"--{name} {text[:_DIGITS]}...: too large a number"
        raise UserError(said, hint=f"--{name} {LONG[name].metavar}: {LONG[name].help}")
    return int(text)


def numbers(values: Mapping[str, object], name: str) -> list[int]:
    """The values of an option that takes numbers of descriptors, as often as it was given; UserError for others."""
    found = texts(values, name)
    for text in found:
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise UserError(f"--{name} {text}: not the number of a descriptor")
    return [int(text) for text in found]


def texts(values: Mapping[str, object], name: str) -> tuple[str, ...]:
    """All values of an option that can be given several times."""
    given = values.get(name, ())
    return given if isinstance(given, tuple) else ()


def size(values: Mapping[str, object], name: str, default: int) -> int:
    """The value of an option that is a number of bytes, with K, M or G behind it or not; UserError otherwise."""
    text = str(values.get(name, default))
    digits = text.rstrip("KMG")
    if not digits.isascii() or not digits.isdigit() or len(text) - len(digits) > 1 or len(digits) > 2 * _DIGITS:
        raise UserError(f"--{name} {text}: not a size", hint=f"--{name} {LONG[name].metavar}: {LONG[name].help}")
    return int(digits) << {"K": 10, "M": 20, "G": 30}.get(text[len(digits) :], 0)


def choice(values: Mapping[str, object], name: str, *allowed: str) -> str:
    """The value of an option that is one of some words, the first by default; UserError for any other."""
    given = str(values.get(name, allowed[0]))
    if given not in allowed:
        raise UserError(f"--{name} {given}: not one of {', '.join(allowed)}")
    return given


def _long(word: str, rest: list[str], values: Values) -> None:
    name, equals, value = word.partition("=")
    option, on = _find(name)
    if option.kind == FLAG:
        if equals:
            raise UserError(f"--{option.long} takes no value")
        _store(option, on, values)
    elif option.kind in (VALUE, LIST) and not equals:
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
        if option.kind in (VALUE, LIST) and not letters:
            letters = _next(f"-{option.short}", option, rest)
        elif letters[:1].isspace():  # nobody means that; and sudo cannot tell it from two words
            raise UserError(f"-{option.short}{letters}: a blank in front of the value", "give it as a word of its own")
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
        raise UserError(f"--{option.long} is not supported by pycriu{': ' if option.reason else ''}{option.reason}")
    if option.kind == LIST:
        before = values.get(option.long, ())
        values[option.long] = (*before, str(value)) if isinstance(before, tuple) else (str(value),)
        return
    if option.kind != LEVEL:
        values.pop(_OVERRULED.get(option.long, ""), None)
        values["restore-detached" if option.long == "daemon" else option.long] = value
        return
    if value == "":
        so_far = values.get(option.long, DEFAULT_VERBOSITY)
        values[option.long] = so_far + 1 if isinstance(so_far, int) else DEFAULT_VERBOSITY
    elif str(value).isascii() and str(value).isdigit():
        values[option.long] = int(value)
    else:
        raise UserError(f"--{option.long} {value}: not a number")
