# SPDX-License-Identifier: GPL-2.0-only
"""Processes that use CUDA: what they have on GPUs is brought into their memory for a dump, and back for a restore.

    pause         lock: what runs on the GPU comes to its end, and new calls of CUDA wait
    after_freeze  checkpoint: only the thread of the driver's own runs meanwhile; no device is open or mapped after it
    resume        restore and unlock: the same, backwards

The images are those of any other process then. `driver` has the calls, `guard` sees to it that a process is never left
locked: it goes on whatever happens to us.
"""

from __future__ import annotations

import os
import struct

from pycriu.errors import ImageError, PycriuError, TraceeGone, Unsupported, UserError
from pycriu.kernel import procfs
from pycriu.plugins.cuda import driver
from pycriu.plugins.cuda.guard import PATIENCE, Guard
from pycriu.plugins.interface import Plugin
from pycriu.tracing.alone import Alone
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycriu.fds.openfile import OpenFile
    from pycriu.log import Log
    from pycriu.tracing.pstree import Freeze

DEVICES = "/dev/nvidia"
ABOUT = "/proc/driver/nvidia"
_ASKING = 10.0  # seconds for a question
_SHARE = 800  # milliseconds of each second of --timeout for one process's work to end
_NOTE = struct.Struct("<IB")  # PID, state that it is to have
_DOING = {
    driver.STATE: "asked for its state",
    driver.THREAD: "asked for its thread",
    driver.LOCK: "locked",
    driver.CHECKPOINT: "checkpointed",
    driver.RESTORE: "restored",
    driver.UNLOCK: "unlocked",
}


class Cuda(Plugin):
    """Both halves, for one dump or one restore."""

    NAME = "cuda_plugin"  # that of CRIU's: the images are the same

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._guard: Guard | None = None
        self._found: dict[int, int] = {}  # PID → state before we came
        self._users: set[int] = set()  # who has a device open
        self._taken = False  # nothing of a device should be left

    # ------------------------------------------------------------------------------------------------------------ dump

    def handle_fd(self, file: OpenFile) -> bool:
        """Devices that will be closed by then; UserError where there is no driver that could see to it."""
        if self._taken or not file.link.startswith(DEVICES):
            return False
        try:
            driver.Driver()
        except UserError as error:
            raise Unsupported(f"{file.name} is a device of NVIDIA's, and {error.message}", error.hint) from None
        self._users.add(file.pid)
        return True

    def handle_vma(self, pid: int, mapping: procfs.Mapping) -> bool:
        """Mappings of devices that will be gone by then."""
        return not self._taken and mapping.name.startswith(DEVICES) and self._works()

    def _works(self) -> bool:
        try:
            driver.Driver()
        except UserError as error:
            self.log.debug("no CUDA: %s", error)
            return False
        return True

    def pause(self, pids: list[int], seconds: int) -> None:
        """Lock those that use CUDA."""
        users = {pid for pid in pids if pid in self._users or _maps_driver(pid)}
        if not users:
            return
        try:
            self._guard = Guard()
        except UserError as error:
            self.log.debug("no CUDA: %s", error)
            return
        for pid in pids:
            code, state = self._guard.ask(driver.STATE, pid, 0, _ASKING)
            if code and code != driver.NOT_INITIALIZED and pid in users and not procfs.is_ending(pid):
                raise _failed(driver.STATE, pid, code)
            if code:
                continue  # it does not use CUDA, or has ended
            if state > driver.CHECKPOINTED:
                name = driver.STATES[state] if state < len(driver.STATES) else state
                raise Unsupported(
                    f"CUDA of process {pid} is in the state {name}, in which it cannot be saved",
                    "start the program anew" if state == driver.FAILED else None,
                )
            self._found[pid] = state
            self._guard.hold(pid, state)
            if state == driver.RUNNING:
                self._demand(driver.LOCK, pid, seconds * _SHARE)
        if self._found:
            self.log.info("CUDA of %d processes is locked", len(self._found))

    def after_freeze(self, tree: Freeze) -> None:
        """Bring what is on the GPU into memory; Unsupported names what is left of a device."""
        self._taken = True
        if self._guard is None:
            return
        live = [process.pid for process in tree.root.walk() if not process.zombie]
        self._found = {pid: state for pid, state in self._found.items() if pid in live}  # some may have ended since
        for pid in live:
            code, tid = self._guard.ask(driver.THREAD, pid, 0, _ASKING)
            if not code and pid not in self._found:
                raise PycriuError(f"process {pid} has begun to use CUDA while it was looked at", "dump it again")
            if self._found.get(pid, driver.CHECKPOINTED) != driver.CHECKPOINTED:
                if code:
                    raise _failed(driver.THREAD, pid, code)
                with Alone(_task(tree.tasks, pid, tid), self._guard.note, tree):
                    self._demand(driver.CHECKPOINT, pid)
        for pid in live if self._found else ():
            _refuse_left(pid)

    def before_write(self) -> bytes | None:
        """Which processes have CUDA, and the state that each is to have."""
        if not self._found:
            return None
        return b"".join(_NOTE.pack(pid, state) for pid, state in self._found.items())

    def resume(self, tasks: Mapping[int, Tracee], tree: Freeze | None = None) -> None:
        """The tree stands still, and is to be left so or is a new one: bring everything back to the GPU."""
        if tree is None:
            self._begin_restore(list(tasks))
        if self._guard is None:
            return
        for pid, state in self._found.items():
            if state == driver.CHECKPOINTED:
                continue
            code, tid = self._guard.ask(driver.THREAD, pid, 0, _ASKING)
            if code:
                raise _failed(driver.THREAD, pid, code)
            with Alone(_task(tasks, pid, tid), self._guard.note, tree):
                self._demand(driver.RESTORE, pid)
                if state == driver.RUNNING:
                    self._demand(driver.UNLOCK, pid)
        self._guard.forget()

    def thawed(self) -> None:
        """The tree runs on: let it have its GPU, at once."""
        if self._guard is not None:
            self._guard.begin_undo()

    def after_resume(self) -> None:
        """See that it has."""
        if self._guard is not None:
            self._guard.undo()

    def on_failure(self) -> None:
        """The same."""
        if self._guard is not None:
            self._guard.undo()

    def ended(self) -> None:
        """The tree is no more."""
        if self._guard is not None:
            self._guard.forget()

    # --------------------------------------------------------------------------------------------------------- restore

    def check(self, note: bytes | None) -> None:
        """UserError where there is no driver, before anything is made."""
        if note is not None:  # CRIU's images do not say who
            if len(note) % _NOTE.size:
                raise ImageError("what the images say of CUDA cannot be read")
            self._found = dict(_NOTE.iter_unpack(note))
            if any(state > driver.CHECKPOINTED for state in self._found.values()):
                raise ImageError("the images have a process whose CUDA is in a state that cannot be restored")
        try:
            driver.Driver()
        except UserError as error:
            raise UserError(f"these images are of processes that use CUDA, and {error.message}", error.hint) from None

    def _begin_restore(self, pids: list[int]) -> None:
        if missing := set(self._found) - set(pids):
            raise ImageError(f"the images say of process {missing.pop()}, which is not in them, that it uses CUDA")
        self._guard = Guard()
        if not self._found:
            known = [pid for pid in pids if not self._guard.ask(driver.THREAD, pid, 0, _ASKING)[0]]
            self._found = dict.fromkeys(known, driver.RUNNING)

    # ----------------------------------------------------------------------------------------------------------- calls

    def _demand(self, what: str, pid: int, value: int = 0) -> None:
        assert self._guard is not None
        limit = value / 1000 + _ASKING if value else PATIENCE
        code, _ = self._guard.ask(what, pid, value, limit)
        if code and not (what == driver.LOCK and procfs.is_ending(pid)):
            raise _failed(what, pid, code)
        self.log.debug("CUDA of process %d: %s", pid, what)


def _failed(what: str, pid: int, code: int) -> PycriuError:
    said, hint = driver.sentence(code)
    return PycriuError(f"CUDA of process {pid} cannot be {_DOING[what]}: {said}", hint)


def _task(tasks: Mapping[int, Tracee], pid: int, tid: int) -> Tracee:
    """The thread in which the driver works, which must be one of the process."""
    if tid in tasks:
        return tasks[tid]
    if not os.path.exists(f"/proc/{pid}/task/{tid}"):
        raise PycriuError(f"the CUDA driver wants thread {tid} of process {pid}, which it does not have")
    return Tracee(tid, tasks[pid].arch, tasks[pid])


def _maps_driver(pid: int) -> bool:
    try:
        return "/libcuda.so" in procfs.text(pid, "maps")
    except TraceeGone:
        return False


def _refuse_left(pid: int) -> None:
    """Unsupported where a process still has something of a GPU after the driver has given it up."""
    try:
        links = [(fd, procfs.link(pid, f"fd/{fd}")) for fd in procfs.descriptors(pid)]
        lines = procfs.parse_smaps(procfs.text(pid, "maps"))
    except TraceeGone:
        return  # it was killed by somebody else meanwhile
    left = [f"descriptor {fd} ({link})" for fd, link in links if link.startswith(DEVICES)]
    left += [f"the mapping {line}" for line in lines if line.name.startswith(DEVICES)]
    if left:
        raise Unsupported(
            f"process {pid} still has {', '.join(left)} after its CUDA was checkpointed",
            "the driver is older than 570, or a child that was forked without exec holds it",
        )
