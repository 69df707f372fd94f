# SPDX-License-Identifier: GPL-2.0-only
"""A program that has itself dumped: `checkpoint` starts the pycriu command outside of its own tree, which then asks
the program for its hooks as any other would, and says how it ended – three ways, like fork(2).

    outcome = pycriu.checkpoint("checkpoint")
    if outcome.restored: …      # another life: so many times as it is restored
    elif outcome.continued: …   # this one goes on, and the checkpoint is there
    else: print(outcome.why)    # failed: this one goes on without
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

from pycriu.hooks import channel
from pycriu.hooks.listener import here, running_loop
from pycriu.hooks.registry import Refusal, in_hook
from pycriu.hooks.standing import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycriu.hooks.moment import Moment
    from pycriu.hooks.page import Page
    from pycriu.hooks.registry import Errors

    StrPath = str | os.PathLike[str]

LOG = "checkpoint.log"
_PR_GET_CHILD_SUBREAPER = 37
_LOOK = 0.005  # seconds
# A shell's job in the background ends up outside of our tree as soon as the shell has ended, which it waits for.
_START = 'log=$1; shift; PYCRIU_SHELL=$$ "$@" </dev/null >"$log" 2>&1 & echo $!'
_BECOME = """
import os, time
os.setsid()
shell = int(os.environ.pop("PYCRIU_SHELL"))
while os.getppid() == shell: time.sleep(0.001)
from pycriu.cli import command
command()
"""

interpreter = ""  # that runs pycriu, where it is not the one of this program


class Outcome:
    """How a checkpoint ended: `continued`, `restored` or `failed`. It is true but for the last.

    `why` is a sentence, `refusal` what hooks of this very program have raised (`errors`); `away` and `changed` are
    those of `pycriu.moment()`.
    """

    __slots__ = ("away", "changed", "errors", "refusal", "what", "why")

    def __init__(self, what: str, why: str = "") -> None:
        self.what, self.why = what, why
        self.refusal: Refusal | None = None
        self.errors: Errors = []  # of hooks that were called afterwards
        self.away = 0.0
        self.changed: frozenset[str] = frozenset()

    @property
    def continued(self) -> bool:
        """This process has been dumped, and is the one that was."""
        return self.what == "continued"

    @property
    def restored(self) -> bool:
        """This process is a copy that has been restored."""
        return self.what == "restored"

    @property
    def failed(self) -> bool:
        """There is no checkpoint."""
        return self.what == "failed"

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


def checkpoint(images_dir: StrPath, *, leave_running: bool = True, options: Sequence[str] = ()) -> Outcome:
    """Have this process and all below it dumped into `images_dir`, which is made if need be.

    `options` are words for the command line of `pycriu dump`. Without `leave_running` the tree ends when the
    checkpoint is there, and this call returns in a restored process, or not at all. The log is `checkpoint.log` beside
    the images.

    In any thread; the hooks are called in the main thread. In a callback of an event loop use `checkpoint_async`.
    """
    here.listen()
    page = here.page
    assert page is not None
    in_loop = here.is_main() and running_loop() is not None
    if in_loop:  # else it is not for us to say
        here.asking_in_loop = True
    try:
        asking = _Asking(page, os.fspath(images_dir), _words(leave_running, options))
        while not asking.over():
            time.sleep(_LOOK)
        return asking.outcome()
    finally:
        if in_loop:
            here.asking_in_loop = False


async def checkpoint_async(images_dir: StrPath, *, leave_running: bool = True, options: Sequence[str] = ()) -> Outcome:
    """The same where an event loop runs in the main thread: hooks, coroutines among them, are called by it."""
    import asyncio

    here.listen()
    assert here.page is not None
    asking = _Asking(here.page, os.fspath(images_dir), _words(leave_running, options))
    while not asking.over():
        await asyncio.sleep(_LOOK)
    return asking.outcome()


def _words(leave_running: bool, options: Sequence[str]) -> list[str]:
    return [*(["--leave-running"] if leave_running else []), *options]


class _Asking:
    """One request for a dump of ourselves."""

    def __init__(self, page: Page, images: str, words: list[str]) -> None:
        _refuse_entangled(words)
        _refuse_reapers()
        os.makedirs(images, exist_ok=True)
        self._log = os.path.join(images, LOG)
        self._page = page
        self._served = here.served
        self._dumper = _start(
            ["dump", "-t", str(os.getpid()), "-D", images, "-v4", "-o", "-", "--shell-job", *words], self._log
        )

    def over(self) -> bool:
        """Whether it is known how it ended. Our dumper writes on when it has told us: its statistics, its log."""
        moment = self._told()
        if moment is not None and moment.outcome == "restored":
            return True
        return not is_alive(self._dumper) and not self._is_being_told()

    def _told(self) -> Moment | None:
        """What we have been told since: by our dumper, or by whoever has restored us from the dump of somebody else."""
        moment = here.moment if here.served > self._served else None
        ours = here.asker == self._dumper or (moment is not None and moment.outcome == "restored")
        return moment if ours else None

    def _is_being_told(self) -> bool:
        """Whether words of our dumper's, or of whoever has restored us, are on their way through the hooks.

        They are to come to their end, also when our dumper has ended. In another life it has: there is nobody of that
        PID, and in the page is that of the restore.
        """
        page = self._page
        restored = page.get(channel.WHAT) == channel.RESTORED
        if page.get(channel.STATE) in (channel.BUSY, channel.STANDING):
            return restored or page.get(channel.ASKER) == self._dumper
        return restored and page.asked and is_alive(page.get(channel.ASKER))

    def outcome(self) -> Outcome:
        """How it ended."""
        moment = self._told()
        final = self._page.get(channel.FINAL)
        if moment is not None and moment.outcome == "restored":
            outcome = Outcome("restored")
        elif moment is not None and moment.outcome == "continued" and final == channel.WRITTEN:
            outcome = Outcome("continued")
        else:
            outcome = Outcome("failed", (moment.why if moment is not None else "") or _errors(self._log))
            if moment is not None and not moment.why.startswith("whoever"):
                outcome.refusal = Refusal(moment.errors) if moment.errors else None
        if moment is not None:
            outcome.errors, outcome.away, outcome.changed = moment.errors, moment.away, moment.changed
        return outcome


def _refuse_entangled(words: Sequence[str]) -> None:
    """RuntimeError where we would wait for what waits for us; ValueError where we would never hear of it."""
    if in_hook.get():
        raise RuntimeError("a hook is called because of a checkpoint, and cannot ask for another")
    if here.in_section:
        raise RuntimeError("a checkpoint waits for the end of all critical sections, and this is in one")
    if "skip" in words or "--hooks=skip" in words:
        raise ValueError("--hooks=skip: it is by its hooks that a program hears of its checkpoint")


def _refuse_reapers() -> None:
    """RuntimeError where whoever is to dump us could only be our child, and so in the tree."""
    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    if os.getpid() == 1 or flag.value:
        raise RuntimeError(
            "this process is the reaper of all that it starts, so nobody outside of its tree can be started from here: "
            "run `pycriu dump` from outside"
        )


def _start(words: list[str], log: str) -> int:
    """Start pycriu outside of our tree, with a file for all that it says; its PID."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = ["/bin/sh", "-c", _START, "pycriu", log, interpreter or sys.executable, "-c", _BECOME, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return int(done.stdout)


def _errors(log: str) -> str:
    """What a log says of why there is no checkpoint."""
    try:
        with open(log, errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return "the dump could not be started"
    said = [line.partition("): ")[2] for line in lines if ") Error (" in line]
    said = said or [line.removeprefix("pycriu: ") for line in lines if line.startswith("pycriu: ")]  # before the log
    said = said or lines[-1:]  # of a shell that finds nothing to start
    return "; ".join(said) or "the dump has ended without a word"
