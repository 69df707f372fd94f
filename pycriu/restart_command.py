# SPDX-License-Identifier: GPL-2.0-only
"""The `restart` command: a process goes on from a core file. Options and words are those of the tool of that name."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pycriu import log
from pycriu.actions import Signals, hear_of_children, hold, let_come, say
from pycriu.errors import PycriuError, UserError
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycriu.corefile.asked import Imported
    from pycriu.corefile.space import Region

VERSION = "1.0"
_USAGE = """\
Usage: restart [options] <executable> <core file>

  -f, --filedes[=FILE]   restore the descriptors that FILE lists (default: filedescriptors)
  -n, --nostop           let the process run at once, instead of leaving it stopped (SIGSTOP)
  -w, --wait             wait until it ends, and say how
  -b, --breakpoint=ADDR  accepted; no program is run up to a breakpoint
  -s, --select           ask for each writable segment whether it is restored
  -m                     accepted, not implemented
  -V, --verbose          say what is done, and what the core lacks
  -v, --version          the version
  -h, --help             this text
"""
_LONG = {
    "filedes": "f", "nostop": "n", "wait": "w", "breakpoint": "b", "select": "s", "verbose": "V", "version": "v",
    "help": "h",
}  # fmt: skip
_FLAGS = "nwsmVvh"


@record
class Words:
    """A command line."""

    given: dict[str, str]  # letter of an option → its value, or nothing
    plain: tuple[str, ...]

    def has(self, letter: str) -> bool:
        """Whether an option was given."""
        return letter in self.given


def main(words: Sequence[str] | None = None) -> int:
    """Run `restart`; the words default to those of this process. 0: it was restarted."""
    log.fill_standard_descriptors()
    hear_of_children()
    try:
        asked = parse(sys.argv[1:] if words is None else words)
        if asked.has("h"):
            say([_USAGE.rstrip()])
            return 0
        if asked.has("v"):
            say([f"restart {VERSION}"])
            return 0
        if len(asked.plain) != 2:
            _complain(_USAGE.rstrip())
            return 1
        return _restart(asked)
    except PycriuError as error:
        _complain(f"restart: {error}")
    except OSError as error:  # of a question
        _complain(f"restart: {error.strerror}")
    except KeyboardInterrupt:
        _complain("restart: interrupted; what was begun has been undone")
    return 1


def _complain(text: str) -> None:
    with suppress(OSError):  # the exit status says it, too
        print(text, file=sys.stderr)


def parse(words: Sequence[str]) -> Words:
    """Options in any place, as getopt_long(3) reads them: the value of -f and --filedes, if any, is attached."""
    given: dict[str, str] = {}
    plain: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            plain += rest
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            letter = _long(name)
            if equals and letter not in "fb":
                raise UserError(f"option --{name} takes no value")
            given[letter] = value if equals or letter != "b" else _next(word, rest)
        elif word.startswith("-") and word != "-":
            _short(word[1:], rest, given)
        else:
            plain.append(word)
    return Words(given, tuple(plain))


def _short(letters: str, rest: list[str], given: dict[str, str]) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _FLAGS:
            given[letter] = ""
        elif letter == "f":
            given["f"], letters = letters, ""
        elif letter == "b":
            given["b"], letters = letters or _next("-b", rest), ""
        else:
            raise UserError(f"unknown option -{letter}", "restart -h shows what there is")


def _long(name: str) -> str:
    begun = [found for found in _LONG if name and found.startswith(name)]
    if name in _LONG or len(begun) == 1:
        return _LONG[name if name in _LONG else begun[0]]
    raise UserError(f"unknown option --{name}", "restart -h shows what there is")


def _next(option: str, rest: list[str]) -> str:
    if not rest:
        raise UserError(f"{option} needs a value")
    return rest.pop(0)


def _restart(asked: Words) -> int:
    from pycriu.corefile import descriptors, restarting

    program, core = asked.plain
    lines = None
    if asked.has("b"):
        try:
            descriptors.number(asked.given["b"])
        except ValueError:
            raise UserError(f"-b {asked.given['b']}: not an address") from None
    say([f"Restarting {program} using core file {core}"])
    if asked.has("f"):
        name = asked.given["f"] or descriptors.DEFAULT
        lines = tuple(descriptors.read(name))
        say([f"Restoring file descriptors from '{name}'"])
    if asked.has("m"):
        say(["-m is not yet implemented"])
    stays = not asked.has("n")
    wanted = restarting.Restart(
        core=core, executable=_program(program), lines=lines, stopped=stays,
        choose=_choose if asked.has("s") else None, told=lambda made: _tell(made, verbose=asked.has("V")),
        ready=lambda pid: _ready(program, pid if stays else 0, waits=asked.has("w")),
        settled=hold,
    )  # fmt: skip
    with log.Log(log.ERROR) as lines_of_log, Signals():
        result = restarting.run(wanted, lines_of_log)
        let_come()
        lines_of_log.flush()
        return _wait(result.wait) if asked.has("w") else 0  # in here: behind it the keys would be ours again


def _ready(program: str, stays: int, *, waits: bool) -> None:
    """It is complete; what it prints comes behind this. If we wait, the keys that interrupt are for it from here on."""
    if waits:
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
    said = [f"{program} ready to continue from where it left off"]
    if stays:
        said.append(f"Sent SIGSTOP to {stays}. Send it a SIGCONT to resume")
    if waits:
        said.append("Waiting for restarted process to finish")
    say(said)


def _program(name: str) -> str:
    """A path; a bare name that is not here is looked for in PATH."""
    if "/" not in name and not os.path.exists(name):
        return shutil.which(name) or name
    return name


def _tell(made: Imported, *, verbose: bool) -> None:
    """Before anything is started."""
    said = [f"Original command-line (first 80 chars):\n{made.arguments}\n"] if made.arguments else []
    say([*said, f"Process will be restarted with pid        = {made.pid}"])
    for lack in made.lacks if verbose else ():
        _complain(f"not in the core: {lack}")
    if made.lacks and not verbose:
        _complain(f"restart: the core does not tell {len(made.lacks)} things about the process; -V lists them")


def _choose(region: Region) -> bool:
    """Whether to restore a segment; the end of the input means all that are left."""
    rights = "".join(letter if region.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    asked = f"Restore [{region.start:#010x} - {region.end:#010x}] ({rights})? (0=No, 1=Yes) "
    while True:
        print(asked, end="", flush=True)
        answer = sys.stdin.buffer.readline() if sys.stdin is not None else b""
        if not answer or answer.strip() in (b"0", b"1"):
            return answer.strip() != b"0"
        asked = "0 or 1? "


def _wait(wait: object) -> int:
    """Until it ends."""
    status: int = wait()  # type: ignore[operator]
    if os.WIFSIGNALED(status):
        say([f"Restarted process exited because of uncaught signal ({os.WTERMSIG(status)})"])
    else:
        say([f"Restarted process finished, exiting with value {os.WEXITSTATUS(status)}"])
    return 0
