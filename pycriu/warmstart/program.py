# SPDX-License-Identifier: GPL-2.0-only
"""The side of the program: `pycriu.warm_start`.

    import pycriu
    with pycriu.warm_start():
        import numpy, pandas
    main()

The first start imports, keeps a checkpoint of itself at the end of the block, and goes on. Later starts of the same
command line but for its arguments come no further than the beginning of the block: a process that is restored from
there goes on behind it, with what they were given, and they wait for its end. The block runs only once, so nothing
belongs into it that must happen each time.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
import time

from pycriu.command import streams
from pycriu.hooks import asking
from pycriu.hooks.listener import here
from pycriu.hooks.moment import Moment
from pycriu.warmstart import identity, letter, shelf, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

OFF = "PYCRIU_WARM_START"  # 0: never
# Set by `pycriu snapshot run`: the key under which this start is to be kept, and the interpreter that has pycriu.
PLACE, PYTHON = "PYCRIU_SNAPSHOT", "PYCRIU_PYTHON"
_PR_SET_PDEATHSIG = 1
_LOADED = time.time_ns()
_STREAMS = (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"))


class warm_start:  # noqa: N801  # used as a function is
    """A block of imports that later starts need not run.

    `key` is anything with a `repr` that distinguishes starts, beside what is distinguished anyway (see `identity`);
    `environment` names more variables that do.
    """

    def __init__(self, key: object = None, *, environment: Iterable[str] = ()) -> None:
        self._key = (key, [(name, os.environ.get(name)) for name in sorted(environment)])
        self._plain = key is None and not self._key[1]
        self._place: shelf.Place | None = None
        self._command: identity.Command | None = None
        self._given: list[int] = []  # descriptors
        self._had_children = False

    def __enter__(self) -> None:
        kept_by_runner = _told_by_runner() if self._plain else None
        if os.environ.get(OFF) == "0" or None in (sys.stdin, sys.stdout, sys.stderr):
            return
        try:
            self._command = identity.parsed(_own_words())
            if self._command is None:
                return
            name = kept_by_runner or identity.key(self._command, self._key, os.environ)
            self._place = shelf.Place(shelf.folder(), name)
            usable = kept_by_runner is None and self._place.usable()
        except OSError:  # nowhere to keep it
            self._place = None
            return
        from pycriu.warmstart import runner

        if usable:
            runner.try_to_become(self._place, sys.argv, sys.orig_argv, module=self._command.module)
        self._given, self._had_children = streams.inherited(), _has_children()
        _first.ignored, _first.blocked = runner.ignored(), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Children that a shell has made for it, such as those of <(…), others need not have.
        if kind is None and self._place is not None and self._command is not None and not self._had_children:
            keep(self._place, self._command, self._given)


def _told_by_runner() -> str | None:
    """The key that the runner has computed. Its variables are for this process only, not for what it starts."""
    asking.interpreter = os.environ.pop(PYTHON, asking.interpreter)
    return os.environ.pop(PLACE, None)


def _own_words() -> list[str]:
    """How this process was started, with a program that can be found."""
    return [sys.executable, *sys.orig_argv[1:]]


def keep(place: shelf.Place, command: identity.Command, given: list[int]) -> None:
    """Keep a checkpoint of this process, which goes on, in this life or in another, whatever fails. `given` are
    descriptors that it was given beside the standard ones: they are not kept.
    """
    try:
        if not place.begin():
            return
        why = _made(place, command, given)
        if why:
            place.give_up(why)
    except OSError:
        return  # nobody could be told, and the next start begins anew


def _made(place: shelf.Place, command: identity.Command, given: list[int]) -> str:
    """Why there is no checkpoint; nothing where there is, or this is its life."""
    if _has_children():
        return "there are children, and only a single process can be restored many times"
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _tidy_up()
    here.arrivals.append(_arrive)
    try:
        options = [word for name in streams.external(given) for word in ("--external", name)]
        outcome = asking.checkpoint(place.new, options=options)
        if outcome.continued:
            content = identity.manifest(command)
            if identity.is_older(content, _LOADED):
                place.keep(content, given)
            else:
                place.forget()
    except Exception as error:  # whatever it is: the program is none the worse for it
        return f"{type(error).__name__}: {error}"
    finally:
        here.arrivals.remove(_arrive)
    return outcome.why if outcome.failed else ""


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _tidy_up() -> None:
    """What is garbage now would be read by every start."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


# ------------------------------------------------------------------------------------------------------- in a new life


def _arrive(moment: Moment) -> None:
    """Become what this start was asked to be; who cannot is nobody's, and must not go on."""
    if not moment.message:
        return
    try:
        _become(letter.unpacked(moment.message))
    except BaseException as error:
        os.write(2, f"pycriu: this start cannot go on: {type(error).__name__}: {error}\n".encode(errors="replace"))
        os._exit(1)


def _become(said: letter.Letter) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != said.parent:
        os.kill(os.getpid(), signal.SIGKILL)  # whoever wanted us has been killed
    os.umask(said.umask)
    os.chdir(said.cwd)
    if said.environment.get("LISTEN_PID") == str(said.parent):  # see sd_listen_fds(3)
        said.environment["LISTEN_PID"] = str(os.getpid())
    first = 1 if said.module else 0  # Python has put a path there
    sys.argv[first:] = said.argv[first:]
    sys.orig_argv[:] = said.orig_argv
    _change_environment(said.environment)
    _change_signals(said)
    for name, fd, mode in _STREAMS:
        _renew(name, fd, mode)
    words.show(said.orig_argv, said.environment)


class _First:
    """How the first start was made."""

    ignored: tuple[int, ...] = ()
    blocked: set[int] = set()  # noqa: RUF012  # replaced, never changed


_first = _First()


def _change_signals(said: letter.Letter) -> None:
    """Ignore and block what this start was to, and not what the first start was to."""
    for number in said.ignored:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)
    for number in _first.ignored:
        if number not in said.ignored and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    now = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_SETMASK, (now - _first.blocked) | set(said.blocked))


def _change_environment(new: dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in new]:
        del os.environ[name]
    for name, value in new.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _renew(name: str, fd: int, mode: str) -> None:
    """A stream of Python's over what this start has: an old one believes to know whether that is a terminal."""
    old: Any = getattr(sys, name)
    if not isinstance(old, io.TextIOWrapper):
        return
    unbuffered = old.write_through  # -u
    lines = not unbuffered and (os.isatty(fd) or name == "stderr")
    old.reconfigure(line_buffering=lines)  # some have kept it
    raw: Any = io.FileIO(fd, f"{mode}b", closefd=False)
    raw.name = f"<{name}>"
    buffer = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
    new: Any = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", lines, unbuffered)
    new.mode = mode
    setattr(sys, name, new)
    setattr(sys, f"__{name}__", new)
