# SPDX-License-Identifier: GPL-2.0-only
"""What lies beside a core, `CORE.side`: a tar archive of images that have all but the private memory and the registers.

`pycriu core save` takes them from a dump, the handler from what /proc shows of a process that ends. about.json in it
says who wrote it and what is not known. Memory and registers are the core's: what a debugger has changed in it counts.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from typing import TYPE_CHECKING, Any, BinaryIO

from pycriu.arch import elfcore
from pycriu.corefile import build, clib, layout
from pycriu.corefile.asked import Imported
from pycriu.corefile.pages import Writer
from pycriu.corefile.space import Region, Space
from pycriu.crit.source import open_source
from pycriu.errors import ImageError, UserError
from pycriu.fds import validation
from pycriu.images import catalogue, commit, store
from pycriu.images import messages as m
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages import imagefiles
from pycriu.resources.memory import mappings
from pycriu.resources.memory.advice import GUARD

if TYPE_CHECKING:
    from pycriu.corefile.asked import Options
    from pycriu.corefile.reader import Core, Thread
    from pycriu.crit.source import Source

SUFFIX, ABOUT, FORMAT = ".side", "about.json", 1
SAVED, HANDLER = "save", "handler"
_MAX_ABOUT = 1 << 20
_REGISTERS = ("pycriu-xstate", "pycriu-sve")


def beside(core: str) -> str | None:
    """The side-car of a core, if there is one."""
    path = core + SUFFIX
    return path if os.path.isfile(path) else None


def pack(folder: str, file: BinaryIO, by: str, pid: int, lacks: list[str]) -> None:
    """The images of a directory, less the private memory, written to a file."""
    left_out = {f"pagemap-{pid}.img", *_pages_of(folder, pid)}
    about = json.dumps({"format": FORMAT, "by": by, "pid": pid, "lacks": lacks}, indent=1).encode()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        head = tarfile.TarInfo(ABOUT)
        head.size, head.mode = len(about), 0o600
        tar.addfile(head, io.BytesIO(about))
        for name in sorted(os.listdir(folder)):
            if name.endswith(".img") and catalogue.lookup(name) is not None and name not in left_out:
                tar.add(os.path.join(folder, name), name)
    file.flush()  # that there is room, is known before anything takes its name


def _pages_of(folder: str, pid: int) -> list[str]:
    """The image with the private pages, if there is one."""
    with store.ImagesDir(folder) as images:
        name = f"pagemap-{pid}.img"
        if not images.exists(name):
            return []
        head: Any = images.read(name)[0]
        return [f"pages-{head.pages_id}.img"]


def about(path: str) -> dict[str, Any]:
    """about.json, checked; UserError for a file that is no side-car."""
    try:
        with tarfile.open(path, "r:") as tar:
            member = tar.getmember(ABOUT)
            file = tar.extractfile(member) if member.isreg() and member.size <= _MAX_ABOUT else None
            said = json.loads(file.read()) if file is not None else None
    except (tarfile.TarError, KeyError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no side-car of a core: {error}") from None
    found: dict[str, Any] = said if isinstance(said, dict) else {}
    good = found.get("format") == FORMAT and found.get("by") in (SAVED, HANDLER)
    lacks = found.get("lacks") if good else None
    if not isinstance(lacks, list) or not all(isinstance(one, str) for one in lacks):
        raise UserError(f"{path} is no side-car of a core, or of a later pycriu")
    return found


class Import:
    """A core and its side-car become a checkpoint."""

    def __init__(self, core: Core, path: str, options: Options) -> None:
        self._core, self._path, self._options = core, path, options
        self._said = about(path)
        self._lacks: list[str] = list(self._said["lacks"])

    def run(self) -> Imported:
        """All images."""
        core, options = self._core, self._options
        with open_source(self._path) as images:
            entry, mm = self._check(images)
            pid = entry.pid
            self._tell(images)
            space = Space.of(core, list(_regions(core, mm, images)))
            build.refuse_without_stack(core, space)
            seen = self._said["by"] == HANDLER
            if seen:  # /proc tells the page in which the heap ends
                now = layout.heap(space, mm.mm_start_brk)[1]
                mm.mm_brk = now if mm.mm_start_brk <= now < mm.mm_brk else mm.mm_brk
            with store.NewCheckpoint(options.images_dir) as new:
                self._copy(images, new, entry)
                new.write(f"mm-{pid}.img", [mm])
                given = self._write_files(images, new, pid, mm.exe_file_id)
                infos = build.infos(core)
                finder = clib.Finder(space) if seen else None
                for thread, info, extras in infos:
                    self._write_thread(images, new, thread, info, extras, finder)
                pages = self._write_pages(images, new, pid, space)
                new.write("pstree.img", [self._tree(entry)])
                new.write(commit.INVENTORY, images.read(commit.INVENTORY))
                new.commit()
        process = core.process
        return Imported(
            pid, core.pid, len(infos), pages, process.arguments if process is not None else "", given,
            tuple(self._lacks),
        )  # fmt: skip

    def _tell(self, images: Source) -> None:
        """What neither of the two has: the core may be a debugger's, or have been cut."""
        core = self._core
        entries: list[Any] = [images.read_one(f"core-{thread.tid}.img") for thread in core.threads]
        with_keys = [thread.tid for thread, entry in zip(core.threads, entries, strict=True) if _keys(core, entry)]
        self._lacks += build.untold(core, with_keys)
        if core.truncated:
            self._lacks.append(build.CUT)
        if self._lacks and self._options.strict:
            build.refuse(core, self._lacks)

    def _check(self, images: Source) -> tuple[Any, Any]:
        """The process, and its memory; UserError where they are not those of the core."""
        tree: list[Any] = images.read("pstree.img")
        live = [entry for entry in tree if images.exists(f"mm-{entry.pid}.img")]
        if len(tree) != 1 or len(live) != 1:
            raise ImageError(f"{self._path} has {len(tree)} processes, a core is of one")
        (entry,) = live
        tids = {thread.tid for thread in self._core.threads}
        # the handler may have seen threads that had ended when the core was begun
        same = tids <= set(entry.threads) if self._said["by"] == HANDLER else tids == set(entry.threads)
        if not same or entry.pid != self._core.pid:
            raise UserError(
                f"{self._path} is of process {entry.pid} with other threads than {self._core.path} has",
                "move it away, and the core is taken for itself; --side names another",
            )
        return entry, images.read_one(f"mm-{entry.pid}.img")

    def _copy(self, images: Source, new: store.NewCheckpoint, entry: Any) -> None:
        """What is as it was."""
        pid, facts = entry.pid, f"pycriu-task-{entry.pid}.img"
        own = {f"{kind}-{tid}.img" for tid in entry.threads for kind in ("core", *_REGISTERS)}
        own |= {f"mm-{pid}.img", f"pagemap-{pid}.img", "pstree.img", commit.INVENTORY, facts}
        own |= {"files.img", validation.IMAGE, f"fdinfo-{self._table(images, pid)}.img"}
        tids = {thread.tid for thread in self._core.threads}
        new.write_any(facts, [one for one in images.read_if_there(facts) if one.tid in tids])  # type: ignore[attr-defined]
        for name in images.names():
            kind = store.kind_of(name)
            if name in own or not name.endswith(".img"):  # statistics are no part of a checkpoint
                continue
            if kind.framing == catalogue.RAW:
                with images.raw(name) as file:
                    shutil.copyfileobj(file, new.create_raw(name), 1 << 20)
            else:
                new.write(
                    name, [(message, data) if data else message for message, data in images.read_with_payloads(name)]
                )

    @staticmethod
    def _table(images: Source, pid: int) -> int:
        ids: Any = images.read_one(f"ids-{pid}.img")
        number: int = ids.files_id
        return number

    def _write_files(self, images: Source, new: store.NewCheckpoint, pid: int, exe: int) -> tuple[int, ...]:
        """Descriptors that a list of the user has are taken from there; the numbers of what the restore must be given.

        A program that has moved is another path for all that leads to it.
        """
        name = f"fdinfo-{self._table(images, pid)}.img"
        table: list[Any] = images.read(name)
        files: list[Any] = images.read("files.img")
        gone: set[int] = set()
        if self._options.lines is not None:
            added = build.Files(max((one.id for one in files), default=0) + 1)
            mine = build.table(self._options.lines, added, self._options.given)
            numbers = {one.fd for one in mine}
            kept = [one for one in table if one.fd not in numbers]
            gone = {one.id for one in table} - {one.id for one in kept}
            table = sorted([*mine, *kept], key=lambda one: one.fd)
            files = [*(one for one in files if one.id not in gone), *added.entries]
        was = next((one.reg.name for one in files if one.id == exe), "")
        for one in files:
            if self._options.executable and one.HasField("reg") and one.reg.name == was:
                one.reg.name = os.path.realpath(self._options.executable)
        new.write(name, table)
        new.write("files.img", files)
        notes: list[Any] = images.read_if_there(validation.IMAGE)
        new.write_any(validation.IMAGE, [one for one in notes if one.id not in gone])
        used = {one.id for one in table}
        return build.externals([one for one in files if one.id in used])

    def _tree(self, entry: Any) -> Any:
        tids = [tid for tid in entry.threads if tid in {thread.tid for thread in self._core.threads}]
        del entry.threads[:]
        entry.threads.extend(tids)
        if self._options.job and entry.sid != entry.pid:
            entry.pgid, entry.sid = os.getpgrp(), os.getsid(0)
        return entry

    def _write_thread(
        self, images: Source, new: store.NewCheckpoint, thread: Thread, info: Any, extras: dict[str, bytes],
        finder: clib.Finder | None,
    ) -> None:  # fmt: skip
        entry: Any = images.read_one(f"core-{thread.tid}.img")
        arch = self._core.arch
        if entry.mtype != arch.mtype:
            raise ImageError(f"{self._path}: core-{thread.tid}.img is of another CPU architecture than the core")
        before = getattr(entry, arch.thread_info)
        info.clear_tid_addr = before.clear_tid_addr if entry.HasField(arch.thread_info) else 0
        if finder is not None:
            found = finder.of(thread, info)
            info.clear_tid_addr = found.tid_address
            # a thread registers its robust list behind its rseq area
            if found.rseq is not None and entry.thread_core.futex_rla:
                address, size, signature = found.rseq
                entry.thread_core.rseq_entry.CopyFrom(
                    m.rseq_entry(rseq_abi_pointer=address, rseq_abi_size=size, signature=signature)
                )
        if elfcore.signs_addresses(arch, thread.sets) and _keys(self._core, entry):
            info.pac_keys.CopyFrom(before.pac_keys)  # a debugger does not tell them
        before.CopyFrom(info)
        new.write(f"core-{thread.tid}.img", [entry])
        for kind, raw in extras.items():
            new.write(f"pycriu-{kind}-{thread.tid}.img", [m.pycriu_registers_entry(data=raw)])

    def _write_pages(self, images: Source, new: store.NewCheckpoint, pid: int, space: Space) -> int:
        used = {int(name[6:-4]) for name in images.names() if name.startswith("pages-") and name[6:-4].isdigit()}
        number = next(one for one in range(1, len(used) + 2) if one not in used)
        writer = Writer(new.create_raw(f"pages-{number}.img").fileno(), PAGE_SIZE)
        try:
            writer.take(space)
        except OSError as error:
            raise store.refusal(error, new.path) from None
        new.write(f"pagemap-{pid}.img", imagefiles.entries(number, writer.runs))
        return writer.written // PAGE_SIZE


def _keys(core: Core, entry: Any) -> bool:
    """Whether the image of a thread has the keys by which it signs return addresses."""
    arch = core.arch.thread_info
    return entry.HasField(arch) and "pac_keys" in (one.name for one, _ in getattr(entry, arch).ListFields())


def _regions(core: Core, mm: Any, images: Source) -> Any:
    """The private mappings, with what the core has of each."""
    files: list[Any] = images.read("files.img")
    paths = {entry.id: entry.reg.name for entry in files if entry.HasField("reg")}
    ghosts = {entry.orig_id: entry for entry in images.read_if_there("remap-fpath.img")}  # type: ignore[attr-defined]
    end = 0
    for vma in mm.vmas:
        if vma.status & (catalogue.VSYSCALL | GUARD):  # guard pages lie inside of others
            continue
        if vma.start % PAGE_SIZE or vma.end % PAGE_SIZE or not end <= vma.start < vma.end:
            raise ImageError(f"the mapping {vma.start:x}-{vma.end:x} is not aligned, or overlaps another")
        if vma.end >= 1 << 63 or vma.pgoff + vma.end - vma.start >= 1 << 63:
            raise ImageError(f"the mapping {vma.start:x}-{vma.end:x} is out of bounds")
        end = vma.end
        region = Region(vma.start, vma.end, vma.prot, None, known=True)
        region.vvar, region.vdso = bool(vma.status & catalogue.VVAR), bool(vma.status & catalogue.VDSO)
        region.shared = bool(vma.flags & mappings.MAP_SHARED)
        if vma.status & catalogue.FILE_PRIVATE and not vma.status & catalogue.MEMFD:
            path = paths.get(vma.shmid, "")
            if vma.shmid not in ghosts and os.path.isfile(path):
                region.path, region.offset = path, vma.pgoff
            else:
                region.always = True
        for segment in core.segments:
            start, stop = max(segment.start, vma.start), min(segment.start + segment.stored, vma.end)
            if start < stop:
                region.stored.append((start, stop - start, segment.offset + start - segment.start))
        yield region
