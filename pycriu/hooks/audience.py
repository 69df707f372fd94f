# SPDX-License-Identifier: GPL-2.0-only
"""The engine's side: asks the programs of a tree that have registered hooks, waits for their answers, tells them how
it ended.

Asked are those that have a `channel.MARK` among their mappings, with their own PID in it. All are asked at the same
time. If one refuses, or does not answer in time, the others are told that it is off.
"""

from __future__ import annotations

import time

from pycriu.errors import HookFailed, PycriuError
from pycriu.hooks import channel
from pycriu.hooks.program import STATUS_NOT_NOW, STATUS_REFUSED, Program, found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from pycriu.log import Log
    from pycriu.options import DumpOptions
    from pycriu.tracing import pstree

    T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_SIGURG = 23
_FREE = (channel.IDLE, channel.IN_SECTION)
_GRACE = 1.0  # seconds: what was asked for just before has an end


def gathered(processes: list[pstree.Process], options: DumpOptions, log: Log) -> Audience:
    """Those of the processes with a mark that are programs with hooks."""
    programs = [found(one.pid, one.stat.comm, one.hooks_at) for one in processes]
    return Audience(
        [one for one in programs if one is not None],
        options.hook_timeout,
        log,
        patient=options.hooks == "try",
        stopped=options.leave_stopped or options.signal != 0,
        trusted=options.may_dump is None,
    )


class Audience:
    """Those to be told of one dump or restore. A context manager: however it ends, they are told.

    `limit` is the time for all answers, in seconds. With `patient` a process that does not answer in time is left
    alone. With `stopped` they will not run when it is over, so nobody waits for what they say then. Without
    `trusted` whoever asks for the dump has fewer rights than we: no signal is sent for them that could do harm.
    """

    def __init__(
        self,
        programs: Iterable[Program],
        limit: float,
        log: Log,
        *,
        patient: bool = False,
        stopped: bool = False,
        trusted: bool = True,
    ) -> None:
        self._stopped, self._trusted = stopped, trusted
        self._programs = list(programs)
        self._limit, self._log, self._patient = limit, log, patient
        self._told: list[Program] = []  # who waits to hear how it ends

    def __enter__(self) -> Audience:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if error is not None:
                self._tell(channel.FAILED, _said(error))
            else:
                self.goes_on()
                if not self._stopped:
                    self.finish()
            for program in self._programs:
                program.put(channel.FINAL, channel.packed(channel.LOST if error is not None else channel.WRITTEN))
        finally:
            for program in self._programs:
                program.close()

    def prepared(self, look: Callable[[], T]) -> T:
        """Have all call their hooks, then see what is left of the tree: if it cannot be dumped, it is off for all."""
        try:
            self.prepare()
            return look()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def prepare(self) -> None:
        """Have all call their hooks. HookFailed where one refuses, or is not done in time: then it is off for all."""
        self._begin()
        refused = []
        late = list(self._programs)
        for program, head in self._answers(self._programs, self._limit):
            late.remove(program)
            if head is None:
                self._told.remove(program)  # it has ended
            elif result := channel.number(head, channel.RESULT):
                self._told.remove(program)  # it knows
                refused.append((program, result))
        if refused:
            raise _refusal(refused)
        if late and not self._patient:
            raise _refused_late(late, self._limit)
        for program in late:
            self._told.remove(program)
            program.ask(channel.FAILED, self._limit, b"the dump does not wait any longer")
            self._log.warn("%s has not answered within %g s, and is not waited for", program.name, self._limit)

    def goes_on(self) -> None:
        """Those that have not been killed go on: they may call what they want to call then."""
        self._tell(channel.CONTINUED, "")

    def finish(self) -> None:
        """Wait for those that were told of the end, and log what went wrong with them."""
        late = [one for one in self._programs if one.told]
        for program, head in self._answers(list(late), self._limit):
            late.remove(program)
            if head is not None and channel.number(head, channel.RESULT):
                self._log.error("%s: a hook has failed: %s", program.name, program.reply())
        for program in late:
            said = program.why_late()
            self._log.warn("%s has not come to the end of its hooks within %g s: %s", program.name, self._limit, said)

    def returned(self, message: bytes = b"") -> None:
        """They have been restored, and stand still: when they are let go, they find this."""
        for program in self._programs:
            program.ask(channel.RESTORED, self._limit, message)
            program.looks = program.stands
            deaf = None if program.looks else program.deaf()
            program.told = deaf is None
            if deaf is not None:
                self._log.warn("%s", deaf)

    def done(self) -> None:
        """Wait for the hooks of those that have been restored."""
        self.__exit__(None, None, None)

    def wake(self) -> None:
        """Those that did not stand in a hook look only for a signal."""
        for program in self._programs:
            if program.told and not program.looks and program.deaf() is None:
                try:
                    program.wake()
                except HookFailed as error:  # it runs, and nothing can be undone
                    self._log.warn("%s", error.message)
                    program.told = False

    # ----------------------------------------------------------------------------------------------------------- inner

    def _begin(self) -> None:
        """Ask all; nobody where one cannot be asked."""
        for program in self._programs:
            program.take()
        self._settle()
        for program in self._programs:
            self._refuse_deaf(program)
        self._told = list(self._programs)
        for program in self._programs:
            program.ask(channel.PREPARE, self._limit)
        for program in self._programs:
            program.wake()

    def _settle(self) -> None:
        """Let an earlier conversation come to its end; one that waits for a section has not begun."""
        end = time.monotonic() + _GRACE
        for program in self._programs:
            while (head := program.head()) is not None and channel.number(head, channel.STATE) not in _FREE:
                asker = channel.number(head, channel.ASKER)
                if time.monotonic() > end:
                    raise HookFailed(
                        f"{program.name} is still busy with what process {asker} asked it for", STATUS_NOT_NOW
                    )
                time.sleep(_LONGEST_PAUSE)

    def _refuse_deaf(self, program: Program) -> None:
        """HookFailed for one that would not hear us, or to which we must not speak."""
        if not self._trusted and program.signal != _SIGURG:  # it may have become another program when it is sent
            raise HookFailed(
                f"{program.name} wants to be told of the checkpoint by signal {program.signal}; through a service "
                f"only {_SIGURG} (SIGURG) can be sent",
                STATUS_REFUSED,
            )
        if said := program.deaf():
            raise HookFailed(said, STATUS_REFUSED)

    def _answers(self, programs: list[Program], limit: float) -> Iterable[tuple[Program, bytes | None]]:
        """Each as it answers, with what it shows then (None: it has ended); those that do not are left out."""
        waiting, end, pause = list(programs), time.monotonic() + limit, _FIRST_PAUSE
        while waiting:
            for program in list(waiting):
                head = program.head()
                if head is None or channel.number(head, channel.ANSWER) == program.request:
                    waiting.remove(program)
                    yield program, head
            if not waiting or time.monotonic() > end:
                return
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _tell(self, what: int, text: str) -> None:
        for program in self._told:
            program.ask(what, self._limit, text.encode(errors="replace"))
            program.told = True
        self._told = []


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, PycriuError) else f"{type(error).__name__}: {error}".rstrip(": ")


def _refusal(refused: list[tuple[Program, int]]) -> HookFailed:
    later = all(result == channel.NOT_NOW for _, result in refused)
    what = "asks to come again later" if later else "refuses to be saved"
    said = "; ".join(f"{program.name} {what}: {program.reply()}" for program, _ in refused)
    return HookFailed(said, STATUS_NOT_NOW if later else STATUS_REFUSED)


def _refused_late(late: list[Program], limit: float) -> HookFailed:
    said = "; ".join(f"{one.name} has not answered within {limit:g} s: {one.why_late()}" for one in late)
    error = HookFailed(said, STATUS_NOT_NOW)
    error.hint = "--hook-timeout gives it more time, --hooks=try does not wait for it, --hooks=skip asks nobody"
    return error
