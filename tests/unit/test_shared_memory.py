# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory in images: what is written is read, and images that lie are refused before anything is made."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError
from pycriu.fds import memfd
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m
from pycriu.images import own, store
from pycriu.kernel.pagemap import PAGE_SIZE as P
from pycriu.pages import imagefiles
from pycriu.resources.memory import Plan, advice, aio, huge, sysv

A = 0x10000000


class Images:
    """An images directory that need not be a checkpoint."""

    def __init__(self, folder: Path, **images: Any) -> None:
        self.folder = folder
        self.images = {name.replace("__", "-") + ".img": content for name, content in images.items()}

    def names(self) -> list[str]:
        return sorted(self.images)

    def exists(self, name: str) -> bool:
        return name in self.images

    def read(self, name: str) -> Any:
        return [entry for entry, _ in self.read_with_payloads(name)]

    def read_with_payloads(self, name: str) -> Any:
        return [entry if isinstance(entry, tuple) else (entry, b"") for entry in self.images[name]]

    def raw(self, name: str) -> Any:
        path = self.folder / name
        path.write_bytes(self.images[name])
        return open(path, "rb", buffering=0)


def pagemap(*runs: tuple[int, int], flags: int = 4) -> list[Any]:
    return [
        m.pagemap_head(pages_id=1),
        *(m.pagemap_entry(vaddr=at, compat_nr_pages=pages, flags=flags) for at, pages in runs),
    ]


def test_the_content_of_an_object_comes_back_with_its_holes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        fd = os.memfd_create("from")
        stack.callback(os.close, fd)
        size = 40 * P + 100
        os.ftruncate(fd, size)
        os.pwrite(fd, b"first", 0)
        os.pwrite(fd, b"last", size - 4)
        assert imagefiles.data_runs(fd, size) == [(0, 1), (40 * P, 1)]
        folder = tmp_path / "images"
        folder.mkdir()
        with store.NewCheckpoint(str(folder)) as new:
            saved = imagefiles.save(new, imagefiles.Numbers(), fd, 77)
            saved.write(new)
            new.write("inventory.img", [m.inventory_entry(img_version=2)])
            new.commit()
        images = stack.enter_context(store.ImagesDir(str(folder)))
        content = imagefiles.Content(images, 77, size)
        stack.callback(content.close)
        to = os.memfd_create("to")
        stack.callback(os.close, to)
        os.ftruncate(to, size)
        content.fill(to, size)
        assert os.pread(to, size + 1, 0) == os.pread(fd, size + 1, 0)
        assert os.fstat(to).st_blocks == os.fstat(fd).st_blocks


@pytest.mark.parametrize(
    ("runs", "pages", "size", "words"),
    [
        ([(0, 2)], 1, 2 * P, "promises"),
        ([(0, 2)], 2, P, "the object has"),
        ([(P, 1)], 1, P, "the object has"),
        ([(5, 1)], 1, P, "aligned"),
        ([((1 << 64) - P, 1)], 1, P, "the object has"),
        ([(0, 0xFFFFFFFF)], 1, P, "promises"),
    ],
)
def test_pages_that_cannot_be(tmp_path: Path, runs: Any, pages: int, size: int, words: str) -> None:
    images: Any = Images(tmp_path, pagemap__shmem__7=pagemap(*runs), pages__1=bytes(pages * P))
    with pytest.raises(ImageError, match=words):
        imagefiles.Content(images, 7, size)


def test_numbers_are_given_once() -> None:
    numbers = imagefiles.Numbers()
    assert [numbers.pages(), numbers.pages()] == [1, 2]
    assert [numbers.shmem(5), numbers.shmem(5), numbers.shmem(6), numbers.shmem((1 << 32) + 5)] == [5, 6, 7, 8]
    assert [numbers.shmem(0xFFFFFFFF), numbers.shmem(0xFFFFFFFF)] == [0xFFFFFFFF, 0]


def inode(**more: Any) -> Any:
    fields = {"name": "n", "uid": 0, "gid": 0, "size": P, "shmid": 7, "seals": 1, "inode_id": 1, "mode": 0o100600}
    return m.memfd_inode_entry(**(fields | more))


def file(inode_id: int = 1, **more: Any) -> Any:
    from pycriu.fds.openfile import no_owner

    fields = {"id": 3, "flags": os.O_RDWR, "pos": 0, "fown": no_owner(), "inode_id": inode_id}
    return m.file_entry(type=18, id=3, memfd=m.memfd_file_entry(**(fields | more)))


def kind() -> Any:
    return memfd.Memfd(None, None)


def opened(tmp_path: Path, one: Any, entry: Any) -> int:
    images: Any = Images(tmp_path, memfd=[one])
    memfds = kind()
    try:
        memfds.read(images, [entry])
        fd: int = memfds.open(entry, None)
        try:
            memfds.finish(None)
        except ImageError:
            os.close(fd)
            raise
        return fd
    finally:
        memfds.close()


def test_a_memfd_is_made_and_sealed(tmp_path: Path) -> None:
    fd = opened(tmp_path, inode(seals=0xA, size=100), file(flags=os.O_RDONLY, pos=9))
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:n (deleted)"
        assert (os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_mode) == (100, 9, 0o100600)
        assert fcntl.fcntl(fd, memfd.F_GET_SEALS) == 0xA
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="map_files needs CAP_CHECKPOINT_RESTORE")
def test_anonymous_memory_is_made_by_its_name(tmp_path: Path) -> None:
    fd = opened(tmp_path, inode(name="/dev/zero", size=3 * P), file())
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/zero (deleted)"
        assert os.fstat(fd).st_size == 3 * P
        assert memfd.is_one("/dev/zero (deleted)", os.fstat(fd))
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("one", "entry", "words"),
    [
        (inode(size=1 << 63), file(), "bytes"),
        (inode(size=(1 << 63) - 1, name="/dev/zero"), file(), "cannot be made|map_files"),
        (inode(), file(inode_id=2), "does not have"),
        (inode(name="a\0b"), file(), "cannot be made"),
        (inode(name="x" * 300), file(), "cannot be made"),
        (inode(seals=0xFFFFF), file(), "cannot be sealed"),
        (inode(), file(pos=(1 << 64) - 1), "cannot be opened"),
        (inode(hugetlb_flag=0x4 | 63 << 26), file(), "cannot be made"),
    ],
)
def test_memfds_that_cannot_be(tmp_path: Path, one: Any, entry: Any, words: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises((ImageError, Exception), match=words) as refused:
        opened(tmp_path, one, entry)
    assert type(refused.value).__module__ == "pycriu.errors"
    assert os.listdir("/proc/self/fd") == before


def test_what_is_such_a_file_and_what_only_looks_like_one(tmp_path: Path) -> None:
    fd = os.memfd_create("x")
    try:
        assert memfd.is_one("/memfd:x (deleted)", os.fstat(fd))
        assert not memfd.is_one("/memfd:x", os.fstat(fd))
        assert not memfd.is_one("/memfd:x (deleted)", os.stat(tmp_path))
        assert kind().matches(OpenFile(os.getpid(), fd))
        assert not memfd.is_one(memfd.SECRET, os.fstat(fd))
    finally:
        os.close(fd)


def vma(start: int = A, pages: int = 4, status: int = 0x201, **more: Any) -> Any:
    fields = {"pgoff": 0, "shmid": 0, "prot": 3, "flags": 0x22, "fd": -1} | more
    return m.vma_entry(start=start, end=start + pages * P, status=status, **fields)


def plan_of(*vmas: Any, aios: Any = (), runs: Any = (), said: own.Facts | None = None) -> Plan:
    zero = dict.fromkeys(
        ("mm_start_code", "mm_end_code", "mm_start_data", "mm_end_data", "mm_start_stack", "mm_start_brk", "mm_brk",
         "mm_arg_start", "mm_arg_end", "mm_env_start", "mm_env_end", "exe_file_id"), 0,
    )  # fmt: skip
    made = Plan(m.mm_entry(vmas=vmas, aios=list(aios), **zero), list(runs))
    made.facts = said or {}
    return made


def segment(shmid: int = 0, size: int = 2 * P, **more: Any) -> Any:
    fields = {"key": 0, "uid": 0, "gid": 0, "cuid": 0, "cgid": 0, "mode": 0o600, "id": shmid} | more
    return m.ipc_shm_entry(desc=m.ipc_desc_entry(**fields), size=size, in_pagemaps=True)


ATTACHED = 0x501


@pytest.mark.parametrize(
    ("one", "entries", "words"),
    [
        (vma(status=ATTACHED, pages=2), [], "does not have it"),
        (vma(status=ATTACHED, pages=2), [segment(5)], "does not have it"),
        (vma(status=ATTACHED, pages=3), [segment()], "beyond"),
        (vma(status=ATTACHED, pages=2, pgoff=P), [segment()], "beyond"),
        (vma(status=ATTACHED, pages=2, pgoff=1 << 63), [segment()], "beyond"),
    ],
)
def test_segments_that_cannot_be(tmp_path: Path, one: Any, entries: list[Any], words: str) -> None:
    images: Any = Images(tmp_path, ipcns__shm__3=entries)
    with pytest.raises(ImageError, match=words):
        sysv.Segments(images, [plan_of(one)])


def test_a_part_of_a_segment_is_attached_by_way_of_another_place() -> None:
    whole = sysv.attach_rows(vma(status=ATTACHED, shmid=9, pages=4), 4 * P, [(A, A + 4 * P)], 1 << 40)
    assert [(row.name, row.args) for row in whole] == [("shmat", (9, A, 0))]
    part = sysv.attach_rows(vma(status=ATTACHED, shmid=9, pages=1, pgoff=P, prot=1), 4 * P, [(0, 2 << 20)], 1 << 40)
    aside = 2 << 20
    assert [(row.name, row.args) for row in part] == [
        ("shmat", (9, aside, sysv.SHM_RDONLY)), ("mremap", (aside + P, P, P, 3, A)), ("munmap", (aside, P)),
        ("munmap", (aside + 2 * P, 2 * P)),
    ]  # fmt: skip


def mapping(start: int = 4096, **said: Any) -> Any:
    return m.pycriu_mapping_entry(start=start, **said)


def test_facts_of_mappings() -> None:
    said: own.Facts = {
        4096: {"sealed": (), "name": (97, 98)}, 8192: {"locked_on_fault": (), "key": (2,)}, 0: {"keys": (1, 2)},
    }  # fmt: skip
    entries = own.mapping_entries(said)
    assert entries[0] == mapping(sealed=True, name=b"ab")
    assert advice.read_facts(entries, "x", {4096, 8192}) == said


@pytest.mark.parametrize(
    "said",
    [[mapping(12288, sealed=True)], [mapping(0, sealed=True)], [mapping(key=16)], [mapping(key=0)],
     [mapping(0, keys=[0])], [mapping(name=b"a\0")], [mapping(name=b"a" * 81)], [mapping(0, keys=[1] * 17)],
     [mapping(sealed=True), mapping(key=1)]],
)  # fmt: skip
def test_facts_that_cannot_be(said: list[Any]) -> None:
    with pytest.raises(ImageError):
        advice.read_facts(said, "x", {4096})


class Remote:
    """Scratch pages that nobody reads."""

    @staticmethod
    def data(content: bytes) -> int:
        return len(content)


def calls(one: Plan) -> list[tuple[Any, ...]]:
    remote: Any = Remote
    return [(row.name, *row.args) for row in advice.rows(one, remote)]


def test_seals_come_after_everything_else() -> None:
    one = plan_of(
        vma(prot=1, madv=1 << 16 | 1 << 2, flags=0x2022), vma(A + 8 * P, pages=1),
        vma(A + P, pages=1, status=advice.GUARD), said={A: {"sealed": (), "locked_on_fault": (), "name": (97,)}},
    )  # fmt: skip
    one.filled = {A}
    assert calls(one) == [
        ("mprotect", A, 4 * P, 1), ("mlock2", A, 4 * P, 1), ("madvise", A, 4 * P, 2), ("madvise", A, 4 * P, 16),
        ("prctl", 0x53564D41, 0, A, 4 * P, 2), ("madvise", A + P, P, 102), ("mseal", A, 4 * P, 0),
    ]  # fmt: skip


def test_protection_keys_get_their_numbers() -> None:
    """Key 2 is the task's, key 3 the kernel's own for what can only be executed; 1 was given back by the task."""
    one = plan_of(vma(), vma(A + 8 * P, prot=4), said={0: {"keys": (2,)}, A: {"key": (2,)}, A + 8 * P: {"key": (3,)}})
    assert [(row.name, *row.args) for row in advice.key_rows(one)] == [("pkey_alloc", 0, 0)] * 3 + [("pkey_free", 3)]
    assert calls(one) == [("pkey_free", 1), ("pkey_mprotect", A, 4 * P, 3, 2)]
    assert advice.key_rows(plan_of(vma())) == []


RING = aio._HEAD.pack(0, 127, 5, 7, 0xA10A10A1, 1, 0, 32) + bytes(P - 32)


@pytest.mark.parametrize(
    ("content", "entry", "words"),
    [
        (RING, {"id": A + P}, "no mapping"),
        (RING, {"ring_len": 2 * P}, "no mapping"),
        (bytes(P), {}, "not as a kernel"),
        (aio._HEAD.pack(0, 128, 5, 7, 0xA10A10A1, 1, 0, 32) + bytes(P - 32), {}, "not as a kernel"),
        (aio._HEAD.pack(0, 127, 5, 127, 0xA10A10A1, 1, 0, 32) + bytes(P - 32), {}, "not as a kernel"),
        (aio._HEAD.pack(0, 127, 500, 7, 0xA10A10A1, 1, 0, 32) + bytes(P - 32), {}, "not as a kernel"),
    ],
)
@pytest.mark.skipif(P != 4096, reason="the samples are of pages of 4 KiB")
def test_rings_that_cannot_be(tmp_path: Path, content: bytes, entry: dict[str, int], words: str) -> None:
    pages = tmp_path / "pages"
    pages.write_bytes(content)
    ring = m.aio_ring_entry(**({"id": A, "nr_req": 62, "ring_len": P} | entry))
    one = plan_of(vma(pages=1, status=1 << 13), aios=[ring], runs=[(A, 1, 0)])
    nobody: Any = None
    with open(pages, "rb") as file, pytest.raises(ImageError, match=words):
        aio.restore(nobody, one, file.fileno(), 0)


def test_huge_mappings_that_are_not_aligned() -> None:
    with pytest.raises(ImageError, match="aligned"):
        huge.check([plan_of(vma(flags=0x40022 | 21 << 26))])
    with pytest.raises(ImageError, match="aligned"):
        huge.check([plan_of(vma(flags=0x40022))])
