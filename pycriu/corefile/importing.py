# SPDX-License-Identifier: GPL-2.0-only
"""The story of an import: a core, and what lies beside it, becomes a checkpoint.

read       the core; where it has one, the side-car
space      memory as mappings, each held against its file
find       what the C library has registered, heap, stack
write      the images; the pages that differ from zeros and from files
tell       what the core lacks

Nothing of it runs a process: `pycriu restore` takes the images.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

from pycriu.corefile import build, clib, sidecar
from pycriu.corefile.asked import NEW, SAME, Imported, Options
from pycriu.corefile.pages import Writer
from pycriu.corefile.reader import Core
from pycriu.corefile.space import Space
from pycriu.dumping import entries
from pycriu.errors import Unsupported, UserError
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel import procfs
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages import imagefiles
from pycriu.resources import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.corefile.descriptors import Line
    from pycriu.corefile.space import Region


def run(options: Options) -> Imported:
    """Make the checkpoint; on any error the directory is as it was."""
    with Core(options.core) as core:
        if core.page_size != PAGE_SIZE:
            raise Unsupported(
                f"{core.path} is of a machine with pages of {core.page_size} bytes, here they have {PAGE_SIZE}"
            )
        side = options.side or sidecar.beside(options.core)
        if side is not None:
            return sidecar.Import(core, side, options).run()
        return _Import(core, options).run()


class _Import:
    """Without a side-car: all from the core."""

    def __init__(self, core: Core, options: Options) -> None:
        self._core, self._options = core, options
        self._space = Space(core, options.executable)
        self._files = build.Files()
        self._patches: dict[int, bytes] = {}
        self._lacks: list[str] = []

    def run(self) -> Imported:
        """All images."""
        core, options = self._core, self._options
        build.refuse_without_stack(core, self._space)
        infos = build.infos(core)
        tids = self._numbers([thread.tid for thread, _, _ in infos])
        finder = clib.Finder(self._space)
        registered = [finder.of(thread, info) for thread, info, _ in infos]
        mm = build.mm(self._space, self._files)
        leave_out(self._space, options.choose)
        table = build.table(self._lines(), self._files, options.given)
        self._tell(registered, infos)
        if self._lacks and options.strict:
            build.refuse(core, self._lacks)
        with store.NewCheckpoint(options.images_dir) as new:
            pid = tids[0]
            for (thread, info, extras), known, tid in zip(infos, registered, tids, strict=True):
                if tid != thread.tid and known.tid_address:
                    self._patches[known.tid_address] = tid.to_bytes(4, "little")
                entry = build.core_entry(core, thread, info, known, first=tid == pid)
                new.write(f"core-{tid}.img", [entry])
                for kind, raw in extras.items():
                    new.write(f"pycriu-{kind}-{tid}.img", [m.pycriu_registers_entry(data=raw)])
            pages = self._write_pages(new, pid)
            new.write(f"mm-{pid}.img", [mm])
            self._write_rest(new, tids, table)
            new.commit()
        process = core.process
        return Imported(
            pid, core.pid, len(tids), pages, process.arguments if process is not None else "",
            build.externals(self._files.entries), tuple(self._lacks),
        )  # fmt: skip

    def _write_pages(self, new: store.NewCheckpoint, pid: int) -> int:
        writer = Writer(new.create_raw("pages-1.img").fileno(), PAGE_SIZE, self._patches)
        try:
            writer.take(self._space)
        except OSError as error:
            raise store.refusal(error, new.path) from None
        new.write(f"pagemap-{pid}.img", imagefiles.entries(1, writer.runs))
        return writer.written // PAGE_SIZE

    def _write_rest(self, new: store.NewCheckpoint, tids: list[int], table: list[Any]) -> None:
        pid, ids = tids[0], entries.Ids()
        mine = ids.task((pid,) * 4)
        new.write(f"ids-{pid}.img", [mine])
        new.write(f"fs-{pid}.img", [build.fs(self._files, _directory())])
        new.write(f"fdinfo-{mine.files_id}.img", table)
        new.write("files.img", self._files.entries)
        self._files.write_notes(new)
        new.write("pstree.img", [build.pstree(pid, *self._group(pid), tids)])
        new.write("seccomp.img", [seccomp.Filters().image()])
        inventory = entries.inventory_entry(ids)
        new.write("inventory.img", [inventory])

    def _group(self, pid: int) -> tuple[int, int]:
        """Group and session."""
        process = self._core.process
        if self._options.job:
            return os.getpgrp(), os.getsid(0)
        if process is None or not process.sid or not process.pgid or pid != process.pid:
            return pid, pid
        return process.pgid, process.sid

    def _lines(self) -> list[Line]:
        from pycriu.corefile.descriptors import Line

        lines, given = self._options.lines, self._options.given
        if lines is None and not given:
            return [Line(fd, os.devnull, 0, os.O_RDWR) for fd in range(3)]
        named = {one.fd: one for one in lines or ()}
        return [named[fd] if fd in named else Line(fd, "", 0, None) for fd in sorted({*named, *given})]

    def _numbers(self, tids: list[int]) -> list[int]:
        """The ids of the threads to be."""
        return tids if self._options.pid == SAME else free_pids(len(tids))

    def _tell(self, registered: list[clib.Registered], infos: list[Any]) -> None:
        core, say = self._core, self._lacks.append
        self._lacks += self._space.lacks
        if core.truncated:
            say(build.CUT)
        if self._options.lines is None:
            fds = "they are those of the restore" if self._options.given else "they are /dev/null"
            say(f"open files: {fds}, as descriptors 0 to 2; --fds names a list of them")
        say("signal handlers: all signals have their default action")
        say("timers, alternate signal stacks, limits, directory and umask: timers are off, the rest is as it is here")
        if not any((one.held or one.ppid or one.sid) for one in core.threads):
            say("signal masks (a debugger wrote it): no signal is blocked")
        if unknown := [
            thread.tid for (thread, *_), known in zip(infos, registered, strict=True) if not known.tid_address
        ]:
            say(f"where the kernel clears the id at the end of {build.named(unknown)}: whoever joins it waits for ever")
        self._lacks += build.untold(core)
        if self._options.pid == NEW:
            say(f"its PID, which was {core.pid}: what remembers that has the old one")


def _directory() -> str:
    """The one that the process will have."""
    try:
        return os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory: {error.strerror}", "cd / first: the process will be there") from None


def leave_out(space: Space, choose: Callable[[Region], bool] | None) -> None:
    """Take no content from the core for what is not chosen, among what the process could write to."""
    for region in space.regions:
        if choose is not None and region.stored and region.prot & 2 and not choose(region):
            region.stored = []


def free_pids(count: int) -> list[int]:
    """PIDs that nobody has, from above: those from below are given to others next.

    Each begins somewhere else, so that two that look at the same time do not find the same. UserError where there are
    too few.
    """
    with open("/proc/sys/kernel/pid_max") as file:
        end = min(int(file.read()), 1 << 22)
    begin = end - 1 - secrets.randbelow(end // 4)
    found: list[int] = []
    for pid in () if count >= end else (*range(begin, 1, -1), *range(end - 1, begin, -1)):
        if len(found) == count:
            break
        if not procfs.exists(pid):
            found.append(pid)
    if len(found) < count:
        raise UserError(f"{count} threads need a PID each, and {len(found)} are free", "sysctl kernel.pid_max=4194304")
    return sorted(found)
