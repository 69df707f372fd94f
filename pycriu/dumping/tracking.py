# SPDX-License-Identifier: GPL-2.0-only
"""What has changed in a process since an earlier dump, known without reading its memory: by soft-dirty bits.

`Tracker` begins, while the process stands still: the bits are cleared, and the entries of /proc/PID/pagemap noted, for
the images. `Track` tells at the next dump, while the process stands still again, which of them are the same, and so
which pages are (`kernel.softdirty` says why).

The bits belong to the process, not to us: whoever else clears them (CRIU, another pycriu) takes away what we wait for.
So after the clearing, we write to some of the pages that the process cannot write to, what they hold already: a random
choice among them. These marks are gone, or others, when somebody has cleared the bits since. Who did it last says so in
PLACE, too, before it clears: a dump that is killed between that and its end leaves nobody who is trusted.

Whatever is doubtful is an `Untracked`, with the reason: the contents are compared then.
"""

from __future__ import annotations

import os

from pycriu.errors import PycriuError
from pycriu.images import messages as m
from pycriu.images.catalogue import AIORING, KERNEL_MADE
from pycriu.kernel import procfs, softdirty
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages.comparing import both, merged, union, without
from pycriu.record import record
from pycriu.resources.memory.mappings import PROT_READ, PROT_WRITE, Mapping
from pycriu.sharing import VM
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.dumping.snapshot import Snapshot
    from pycriu.images.store import NewCheckpoint
    from pycriu.log import Log
    from pycriu.options import DumpOptions
    from pycriu.pages.comparing import Read
    from pycriu.pages.copying import Batch

PLACE = "/run/pycriu/tracked"  # a file for each process whose bits we have cleared, with the token of the images
TOKEN = 16  # bytes
_MARKS = 16  # pages, marked or not, at most
_ENOUGH = 4  # so many must there be, that not every choice is like the one before
_PIECE = 8  # bytes that a mark writes
_MOST = 1 << 26  # pages of a process; their entries would not fit into an image
_NOT_THESE = {"ht", "mg"}  # VmFlags: huge pages have no such bits, merging of equal pages loses them


class Untracked(PycriuError):
    """What has changed is not to be had in this way; the text says why."""


def image(pid: int) -> str:
    """The name of the image."""
    return f"pycriu-track-{pid}.img"


@record
class Marks:
    """Pages that the process cannot write to: those that we have written to since the clearing, and others."""

    marked: tuple[int, ...]
    others: tuple[int, ...]

    def stand(self, entries: softdirty.Entries) -> bool:
        """Whether they are as we have left them."""
        return _dirty(entries, self.marked) == {True} and _dirty(entries, self.others) == {False}


def _dirty(entries: softdirty.Entries, pages: tuple[int, ...]) -> set[bool]:
    found = memoryview(entries.read([(page, 1) for page in pages])).cast("Q")
    return {bool(entry & softdirty.DIRTY) for entry in found}


class Track:
    """What the images of an earlier dump say of one process."""

    def __init__(self, pid: int, entry: Any) -> None:
        self.pid = pid
        self._entry = entry
        self._runs = list(zip(entry.start, entry.pages, strict=True))
        self._marks = Marks(tuple(entry.marked), tuple(entry.other))

    def ask(self, started: int, mappings: list[Mapping], runs: list[Run]) -> tuple[list[Run], list[Run]]:
        """Which pages of `runs` are the same as then, and which have been written to; of the others nothing is known.

        The process stands still; it is the one that started when `started` says (clock ticks). In a mapping that has
        been made since, or has grown (VmFlags sd), every page looks dirty: nothing is known of them.
        """
        entry = self._entry
        if entry.boot != procfs.boot_id() or entry.started != started:
            raise Untracked("the images are of another process")
        if _last(self.pid) != entry.token:
            raise Untracked("another dump has cleared the soft-dirty bits since")
        wanted = both(runs, _spans(self.pid, mappings))
        known = both(wanted, self._runs)
        new = without(wanted, self._runs)
        with softdirty.Entries(self.pid) as entries:
            if not self._marks.stand(entries):
                raise Untracked("somebody else has cleared the soft-dirty bits since")
            same, dirty = softdirty.compare(known, _Picker(self._runs, entry.entries).pick(known), entries.read(known))
            dirty = union(dirty + softdirty.dirty(new, entries.read(new)))
        return same, without(dirty, _runs([one for one in mappings if "sd" in one.line.flags]))


def read(pid: int, images: Any) -> Track:
    """The image of a process; Untracked where it makes no sense."""
    entry = images.read_one(image(pid))
    pages = sum(entry.pages)
    runs = list(zip(entry.start, entry.pages, strict=False))
    ascending = all(start + count * PAGE_SIZE <= runs[at][0] for at, (start, count) in enumerate(runs[:-1], 1))
    if len(entry.start) != len(entry.pages) or len(entry.entries) != pages * softdirty.WORD or not ascending:
        raise Untracked(f"{image(pid)} makes no sense")
    if not entry.marked or not entry.other or any(at % PAGE_SIZE for at in (*entry.start, *entry.marked, *entry.other)):
        raise Untracked(f"{image(pid)} makes no sense")
    return Track(pid, entry)


def opened(options: DumpOptions, log: Log) -> Tracker | None:
    """A tracker, where changes are to be noted and can be; else the log says why they are not."""
    if not options.track_mem or not (options.leave_running or options.leave_stopped):
        return None
    if options.page_server is not None:
        log.info("Changes are not noted: a page server gets all pages of each dump")
        return None
    try:
        return Tracker(log)
    except Untracked as error:
        log.info("Changes are not noted, contents will be compared: %s", error)
        return None


class Tracker:
    """Begins the tracking of processes, for one new set of images. Untracked where this kernel, or system, cannot."""

    def __init__(self, log: Log) -> None:
        self.token = os.urandom(TOKEN)
        self._log = log
        self._told: list[str] = []
        self._saved: list[tuple[int, Begun, list[Run]]] = []
        if not softdirty.works():
            raise Untracked("this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)")
        try:
            os.makedirs(PLACE, mode=0o700, exist_ok=True)
            _sweep()
        except OSError as error:
            raise Untracked(f"{PLACE} cannot be written to: {error.strerror}") from None

    def tell(self) -> None:
        """To the log, when nobody waits any more: whose changes are noted."""
        for line in self._told:
            self._log.info("%s", line)
        self._told = []

    def attempt(self, task: Tracee, started: int, mappings: list[Mapping], runs: list[Run]) -> Begun | None:
        """`begin`, where that is possible."""
        try:
            begun = self.begin(task, started, mappings, runs)
        except (PycriuError, OSError) as error:
            self._told.append(f"Process {task.tid}: its changes are not noted, contents will be compared: {error}")
            return None
        self._told.append(f"Process {task.tid}: its changes are noted, by soft-dirty bits")
        return begun

    def begin_saved(self, snapshots: list[Snapshot]) -> None:
        """The same for processes whose pages have all been copied; they still stand still."""
        for one in snapshots:
            if one.has_own(VM):
                runs = union(one.runs + one.inherited)
                begun = self.attempt(one.task, one.stat.starttime, one.mappings, runs)
                if begun is not None:
                    self._saved.append((one.pid, begun, runs))

    def write(self, new: NewCheckpoint) -> None:
        """What the next dump needs to know of them."""
        self.tell()
        for pid, begun, runs in self._saved:
            begun.keep(runs)
            new.write(image(pid), [begun.image()])

    def begin(self, task: Tracee, started: int, mappings: list[Mapping], runs: list[Run]) -> Begun:
        """From now on, writes of this process show; `runs` are its pages with content. It stands still."""
        pid = task.tid
        spans = _spans(pid, mappings)
        if sum(pages for _, pages in runs) > _MOST:
            raise Untracked("it has too many pages")
        with softdirty.Entries(pid) as entries:
            marks = _chosen(entries, both(runs, _read_only(mappings)))
            self._say(pid)
            softdirty.clear(pid)
            for page in marks.marked:
                task.write(page, task.read(page, _PIECE))
            found = entries.read(runs)
            if not marks.stand(entries):
                raise Untracked("the soft-dirty bits of its pages do not follow writes")
        return Begun(self.token, started, marks, runs, found, spans)

    def _say(self, pid: int) -> None:
        try:
            with open(f"{PLACE}/{pid}.new", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(self.token)
            os.rename(f"{PLACE}/{pid}.new", f"{PLACE}/{pid}")
        except OSError as error:
            raise Untracked(f"{PLACE} cannot be written to: {error.strerror}") from None


class Begun:
    """A process whose writes show from now on, and what its pages were when that began."""

    def __init__(
        self, token: bytes, started: int, marks: Marks, runs: list[Run], entries: bytes, spans: list[Run]
    ) -> None:
        self._token, self._started, self._marks, self._spans = token, started, marks, spans
        self.runs, self._entries = runs, entries
        self._certain: list[tuple[list[Run], bytes]] = []

    def keep(self, runs: list[Run]) -> None:
        """These pages go into the images as they were at the beginning."""
        self._certain.append(softdirty.certain(runs, _Picker(self.runs, self._entries).pick(runs)))

    def watched(self, read: Read, pid: int) -> Read:
        """The same as `read`, which copies pages of the running process, with ascending addresses.

        A page counts as copied as it was at the beginning if its entry is what it was then, before and after.
        """
        picker = _Picker(self.runs, self._entries)

        def watching(view: memoryview, address: int, batch: Batch) -> list[tuple[int, int]]:
            with softdirty.Entries(pid) as entries:
                runs = [(start, size // PAGE_SIZE) for start, size in batch.pieces]
                before = entries.read(runs)
                found = read(view, address, batch)
                after = entries.read(runs)
            sure, words = softdirty.certain(runs, picker.pick(runs), before, after)
            there = both(sure, [(start, size // PAGE_SIZE) for start, size in found])
            self._certain.append((there, _Picker(sure, words).pick(there)))
            return found

        return watching

    def image(self) -> Any:
        """What the images have to say of it."""
        pieces = sorted(
            (start, pages, words[at * softdirty.WORD : (at + pages) * softdirty.WORD])
            for runs, words in self._certain
            for start, pages, at in _positions(runs)
        )
        every = merged([(start, pages) for start, pages, _ in pieces])
        words = b"".join(words for _, _, words in pieces)
        kept = both(every, self._spans)
        return m.pycriu_track_entry(
            token=self._token, boot=procfs.boot_id(), started=self._started,
            marked=self._marks.marked, other=self._marks.others,
            start=[start for start, _ in kept], pages=[pages for _, pages in kept],
            entries=_Picker(every, words).pick(kept),
        )  # fmt: skip


class _Picker:
    """Takes the entries of some runs out of those of more; to be asked with ascending addresses."""

    def __init__(self, runs: list[Run], entries: bytes) -> None:
        self._places, self._entries, self._next = _positions(runs), entries, 0

    def pick(self, wanted: list[Run]) -> bytes:
        """Those of `wanted`, every page of which must be among the runs."""
        found = []
        for start, pages in wanted:
            while pages:
                low, count, at = self._places[self._next]
                skipped = (start - low) // PAGE_SIZE
                if skipped >= count:
                    self._next += 1
                    continue
                take = min(pages, count - skipped)
                first = (at + skipped) * softdirty.WORD
                found.append(self._entries[first : first + take * softdirty.WORD])
                start, pages = start + take * PAGE_SIZE, pages - take
        return b"".join(found)


def _positions(runs: list[Run]) -> list[tuple[int, int, int]]:
    """Each run with the number of pages before it."""
    found, at = [], 0
    for start, pages in runs:
        found.append((start, pages, at))
        at += pages
    return found


def _spans(pid: int, mappings: list[Mapping]) -> list[Run]:
    """Where the bits tell of all writes: none of them goes past the page tables."""
    if any(one.status & AIORING for one in mappings):
        raise Untracked("asynchronous I/O may write to its pages without a trace")
    return _runs([one for one in mappings if not one.line.shared and not _NOT_THESE & set(one.line.flags)])


def _read_only(mappings: list[Mapping]) -> list[Run]:
    return _runs([one for one in mappings if one.line.prot & (PROT_READ | PROT_WRITE) == PROT_READ])


def _runs(mappings: list[Mapping]) -> list[Run]:
    lines = [one.line for one in mappings if not one.status & KERNEL_MADE]
    return merged([(line.start, (line.end - line.start) // PAGE_SIZE) for line in lines])


def _chosen(entries: softdirty.Entries, runs: list[Run]) -> Marks:
    """Some pages for marks, among those with content."""
    pages = [start + number * PAGE_SIZE for start, count in runs for number in range(count)]
    there = memoryview(entries.read(runs)).cast("Q")
    present = [page for page, entry in zip(pages, there, strict=True) if entry & softdirty.PRESENT]
    if len(present) < _ENOUGH:
        raise Untracked("it has too few pages that it cannot write to, for marks")
    if not any(entry & softdirty.FRAME for entry in there):
        raise Untracked("the kernel does not show page frames (CAP_SYS_ADMIN)")
    places = present[:: -(-len(present) // _MARKS)]
    while True:
        chance = int.from_bytes(os.urandom(_MARKS // 8), "little")
        marked = tuple(page for number, page in enumerate(places) if chance >> number & 1)
        if 0 < len(marked) < len(places):
            return Marks(marked, tuple(page for page in places if page not in marked))


def _last(pid: int) -> bytes:
    """The token of who cleared the bits of a process last."""
    try:
        with open(f"{PLACE}/{pid}", "rb") as file:
            return file.read(TOKEN)
    except OSError:
        return b""


def _sweep() -> None:
    """Forget processes that are gone."""
    for name in os.listdir(PLACE):
        pid = name.partition(".")[0]
        if pid.isdecimal() and not procfs.exists(int(pid)):
            os.unlink(f"{PLACE}/{name}")
