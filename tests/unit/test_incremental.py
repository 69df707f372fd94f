# SPDX-License-Identifier: GPL-2.0-only
"""Chains of images, and pages compared with those of a parent: against a model, and against hostile images."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pycriu.dumping.incremental import Parent, read_file
from pycriu.errors import ImageError, PycriuError
from pycriu.images import catalogue, store
from pycriu.images import messages as m
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.log import Log
from pycriu.pages import comparing, copying, dedup, imagefiles, lineage

NAME = "pagemap-7.img"
Page = dict[int, bytes]


def inventory() -> m.inventory_entry:
    return m.inventory_entry(img_version=2, root_cg_set=1)


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


def runs_of(numbers: list[int]) -> list[Run]:
    return comparing.merged([(number * PAGE_SIZE, 1) for number in sorted(numbers)])


def write_set(path: Path, own: Page, inherited: list[int], parent: str | None = None, version: int = 2) -> Path:
    """A set of images that has one task's memory."""
    path.mkdir(parents=True, exist_ok=True)
    with store.NewCheckpoint(str(path)) as new:
        if parent is not None:
            new.link_parent(parent)
        new.write_raw("pages-1.img", b"".join(own[number] for number in sorted(own)))
        new.write(NAME, imagefiles.entries(1, runs_of(list(own)), runs_of(inherited)))
        new.write("inventory.img", [inventory() if version else m.inventory_entry(img_version=0, dump_uptime=7)])
        new.commit()
    return path


def read_back(path: Path) -> Page:
    """The memory as a restore would see it."""
    found: Page = {}
    with store.ImagesDir(str(path)) as images:
        head, *entries = images.read(NAME)
        with images.raw(f"pages-{head.pages_id}.img") as file:  # type: ignore[attr-defined]
            size = os.fstat(file.fileno()).st_size
            sources = [(os.dup(file.fileno()), imagefiles.placed(entries, size))]
            imagefiles.refuse_holes(images, file.fileno(), sources[0][1])
        sources += lineage.sources(images, NAME, imagefiles.in_parent(entries))
        for fd, runs in sources:
            for start, pages, offset in runs:
                for index in range(pages):
                    number = start // PAGE_SIZE + index
                    assert number not in found
                    found[number] = os.pread(fd, PAGE_SIZE, offset + index * PAGE_SIZE)
        lineage.close(sources)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_of_dumps_of_changing_memory(tmp_path: Path, seed: int) -> None:
    """Whatever happens to memory between dumps, each set with its parents is the memory at its time."""
    rng = random.Random(seed)
    memory: Page = {number: page(rng.randrange(1000)) for number in rng.sample(range(300), 120)}
    for generation in range(5):
        folder = tmp_path / str(generation)
        folder.mkdir()
        with open(tmp_path / "memory", "w+b") as file, store.NewCheckpoint(str(folder)) as new:
            for number, content in memory.items():
                os.pwrite(file.fileno(), content, number * PAGE_SIZE)
            fd, runs = file.fileno(), runs_of(list(memory))
            out = new.create_raw("pages-1.img").fileno()
            inherited: list[Run] = []
            if generation:
                with Parent(f"../{generation - 1}", str(folder), Log()) as parent:
                    new.link_parent(parent.link)
                    known = parent.has(NAME)
                    written, inherited = comparing.copy(lambda *to: read_file(fd, *to), runs, known, out)  # noqa: B023
            else:
                written, _ = comparing.copy(lambda *to: read_file(fd, *to), runs, comparing.Comparison([]), out)  # noqa: B023
            assert runs_of([*numbers(written), *numbers(inherited)]) == runs
            new.write(NAME, imagefiles.entries(1, written, inherited))
            new.write("inventory.img", [inventory()])
            new.commit()
        assert read_back(folder) == memory
        for number in rng.sample(range(300), 60):
            what = rng.randrange(4)
            if what == 0:
                memory.pop(number, None)
            elif what == 1 and number in memory:  # the last byte alone
                memory[number] = memory[number][:-1] + bytes([memory[number][-1] ^ 1])
            elif what == 2 and memory:  # moved here from elsewhere
                memory[number] = memory.pop(rng.choice(list(memory)))
            else:
                memory[number] = page(rng.randrange(1000))


def numbers(runs: list[Run]) -> list[int]:
    return [start // PAGE_SIZE + index for start, pages in runs for index in range(pages)]


@pytest.mark.parametrize("seed", range(20))
def test_sets_of_runs(seed: int) -> None:
    """`both` and `without` are what they are for sets."""
    rng = random.Random(seed)
    left, right = (set(rng.sample(range(60), rng.randrange(60))) for _ in range(2))
    a, b = runs_of(list(left)), runs_of(list(right))
    assert numbers(comparing.both(a, b)) == sorted(left & right)
    assert numbers(comparing.without(a, b)) == sorted(left - right)
    assert numbers(comparing.union([*a, *b])) == sorted(left | right)
    split = [(start + index * PAGE_SIZE, 1) for start, pages in a for index in range(pages)]
    assert numbers(comparing.both(split, b)) == sorted(left & right)
    assert numbers(comparing.without(split, b)) == sorted(left - right)


def hostile(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Broken chains, and what is said of each."""
    write_set(tmp_path / "good", {1: page(1)}, [])
    found = {}
    found["gone"] = write_set(tmp_path / "gone", {}, [1], "../nowhere"), "is gone"
    found["itself"] = write_set(tmp_path / "itself", {}, [1], "."), "no end"
    write_set(tmp_path / "b", {}, [1], "../a")
    found["loop"] = write_set(tmp_path / "a", {}, [1], "../b"), "no end"
    found["lacks"] = write_set(tmp_path / "lacks", {}, [2], "../good"), "in no parent"
    found["orphan"] = write_set(tmp_path / "orphan", {}, [1]), "in no parent"
    (tmp_path / "empty").mkdir()
    found["empty"] = write_set(tmp_path / "child", {}, [1], "../empty"), "inventory.img is missing"
    (tmp_path / "plain").write_text("")
    found["file"] = write_set(tmp_path / "of_file", {}, [1], "../plain"), "Not a directory"
    found["no link"] = write_set(tmp_path / "no_link", {}, [1]), "not a symbolic link"
    (tmp_path / "no_link/parent").write_text("../good")
    short = write_set(tmp_path / "short", {1: page(1), 2: page(2)}, [])
    os.truncate(short / "pages-1.img", PAGE_SIZE)
    found["short"] = write_set(tmp_path / "of_short", {}, [2], "../short"), "promises more pages"
    punched = write_set(tmp_path / "punched", {1: page(1)}, [])
    os.truncate(punched / "pages-1.img", 0)
    os.truncate(punched / "pages-1.img", PAGE_SIZE)
    (punched / catalogue.PUNCHED).touch()
    found["punched"] = write_set(tmp_path / "of_punched", {}, [1], "../punched"), "given up"
    return found


def test_hostile_chains_are_refused(tmp_path: Path) -> None:
    for name, (path, said) in hostile(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            read_back(path)
        assert said in str(caught.value) + (caught.value.hint or ""), name


def test_hostile_parents_are_refused_at_a_dump(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name, (path, _) in hostile(tmp_path).items():
        with pytest.raises(PycriuError) as caught:
            Parent(str(path), str(tmp_path / "new"), Log())
        assert str(caught.value), name


def test_the_chain_has_a_limit(tmp_path: Path) -> None:
    write_set(tmp_path / "0", {1: page(1)}, [])
    for number in range(1, lineage.MAX_SETS + 1):
        write_set(tmp_path / str(number), {}, [1], f"../{number - 1}")
    assert read_back(tmp_path / str(lineage.MAX_SETS - 1)) == {1: page(1)}
    with pytest.raises(ImageError, match="more than 256 sets"):
        read_back(tmp_path / str(lineage.MAX_SETS))
    (tmp_path / "new").mkdir()
    with pytest.raises(PycriuError, match="chained already"):
        Parent(f"../{lineage.MAX_SETS - 1}", str(tmp_path / "new"), Log())


def test_a_dump_cannot_build_upon_what_it_replaces(tmp_path: Path) -> None:
    write_set(tmp_path / "one", {1: page(1)}, [])
    write_set(tmp_path / "two", {}, [1], "../one")
    for path in (".", "../two"):
        with pytest.raises(PycriuError, match="is to go to"):
            Parent(path, str(tmp_path / "one"), Log())


@pytest.mark.parametrize("entries", [
    [(2, 1), (1, 1)], [(1, 2), (2, 1)], [(1, 0)],
], ids=["descending", "overlapping", "empty"])  # fmt: skip
def test_pagemaps_out_of_order_are_refused(entries: list[tuple[int, int]]) -> None:
    low = [
        m.pagemap_entry(vaddr=number * PAGE_SIZE, compat_nr_pages=pages, nr_pages=pages, flags=4)
        for number, pages in entries
    ]
    with pytest.raises(ImageError, match="not in order"):
        lineage.located(low, "x")


def test_old_ways_to_say_where_pages_are() -> None:
    entries = [
        m.pagemap_entry(vaddr=PAGE_SIZE, compat_nr_pages=1, in_parent=True),
        m.pagemap_entry(vaddr=2 * PAGE_SIZE, compat_nr_pages=1),
        m.pagemap_entry(vaddr=3 * PAGE_SIZE, compat_nr_pages=1, flags=6),
    ]
    assert imagefiles.in_parent(entries) == [(PAGE_SIZE, 1)]
    assert imagefiles.placed(entries, 2 * PAGE_SIZE) == [(2 * PAGE_SIZE, 1, 0), (3 * PAGE_SIZE, 1, PAGE_SIZE)]
    for flags in (0, 2, 5):
        with pytest.raises(ImageError, match="another machine"):
            imagefiles.placed([m.pagemap_entry(vaddr=0, compat_nr_pages=1, flags=flags)], PAGE_SIZE)


def chain_of_three(tmp_path: Path) -> tuple[list[Path], list[Page]]:
    """Three sets, and the memory that each is of."""
    first = {number: page(number) for number in range(40)}
    second = first | {number: page(100 + number) for number in range(10, 20)}
    third = second | {number: page(200 + number) for number in (0, 1, 12, 13, 14, 39)}
    third = {number: content for number, content in third.items() if number != 30}
    paths = [write_set(tmp_path / "0", first, [])]
    own = {number: second[number] for number in range(10, 20)}
    paths.append(write_set(tmp_path / "1", own, sorted(first.keys() - own.keys()), "../0"))
    own = {number: third[number] for number in (0, 1, 12, 13, 14, 39)}
    paths.append(write_set(tmp_path / "2", own, sorted(third.keys() - own.keys()), "../1"))
    return paths, [first, second, third]


def blocks(path: Path) -> int:
    return (path / "pages-1.img").stat().st_blocks * 512 // PAGE_SIZE


def test_pages_that_are_newer_are_given_up(tmp_path: Path) -> None:
    paths, memory = chain_of_three(tmp_path)
    assert [read_back(path) for path in paths] == memory
    freed = dedup.dedup(str(paths[2]))
    assert (freed.sets, freed.size) == (2, (13 + 3) * PAGE_SIZE)
    assert [blocks(path) for path in paths] == [40 - 13, 10 - 3, 6]
    assert [(path / catalogue.PUNCHED).exists() for path in paths] == [True, True, False]
    assert read_back(paths[2]) == memory[2]
    for path in paths[:2]:
        with pytest.raises(ImageError, match="given up to a later dump"):
            read_back(path)
    assert dedup.dedup(str(paths[2])).size == 0


@pytest.mark.parametrize("after", range(8))
def test_killed_in_the_middle_of_giving_up(tmp_path: Path, after: int) -> None:
    """At whatever call it ends: the latest set is what it was, every other is whole or says that it is not."""
    paths, memory = chain_of_three(tmp_path)
    pid = os.fork()
    if not pid:
        left = iter(range(after))

        def call(name: str, *args: int, what: str = "") -> int:
            if next(left, None) is None:
                os._exit(1)
            return original(name, *args, what=what)

        original = dedup.libc.call
        dedup.libc.call = call
        dedup.dedup(str(paths[2]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert read_back(paths[2]) == memory[2]
    for path, content in zip(paths[:2], memory, strict=False):
        try:
            assert read_back(path) == content
        except ImageError as error:
            assert "given up" in str(error)
    dedup.dedup(str(paths[2]))
    assert [blocks(path) for path in paths] == [40 - 13, 10 - 3, 6]
    assert read_back(paths[2]) == memory[2]


def test_a_branch_that_lost_its_pages_is_refused(tmp_path: Path) -> None:
    paths, _ = chain_of_three(tmp_path)
    branch = write_set(tmp_path / "branch", {5: page(5)}, [0, 11], "../0")
    dedup.dedup(str(paths[2]))
    with pytest.raises(ImageError, match="given up"):
        read_back(branch)


def test_images_in_use_give_up_nothing(tmp_path: Path) -> None:
    paths, memory = chain_of_three(tmp_path)
    with store.ImagesDir(str(paths[0])), pytest.raises(PycriuError, match="at work in this directory"):
        dedup.dedup(str(paths[2]))
    assert read_back(paths[0]) == memory[0]


def test_images_that_were_restored_are_freed(tmp_path: Path) -> None:
    paths, _ = chain_of_three(tmp_path)
    dedup.consume(str(paths[2]))
    assert [blocks(path) for path in paths] == [0, 0, 0]
    with pytest.raises(ImageError, match="given up"):
        read_back(paths[2])


@pytest.mark.parametrize("seed", range(10))
def test_two_threads_find_what_one_finds(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing first and writing later comes to the same as both at once."""
    rng = random.Random(seed)
    with (
        open(tmp_path / "now", "w+b") as now,
        open(tmp_path / "then", "w+b") as then,
        open(tmp_path / "out", "wb") as out,
    ):
        here = sorted(rng.sample(range(3000), 1500))
        there = sorted(rng.sample(range(3000), 1500))
        for index, number in enumerate(there):
            os.pwrite(then.fileno(), page(number % 7), index * PAGE_SIZE)
        for number in here:
            os.pwrite(now.fileno(), page(number % 7 if rng.random() < 0.7 else 99), number * PAGE_SIZE)
        placed = [(number * PAGE_SIZE, 1, index * PAGE_SIZE) for index, number in enumerate(there)]
        known, runs, fd = comparing.Comparison([(then.fileno(), placed)]), runs_of(here), now.fileno()
        both = comparing.copy(lambda *to: read_file(fd, *to), runs, known, out.fileno())
        assert comparing.compare(lambda *to: read_file(fd, *to), runs, known) == both
        monkeypatch.setattr(copying, "_WORTH_A_THREAD", 1)
        assert comparing.compare(lambda *to: read_file(fd, *to), runs, known) == both


def test_an_error_of_either_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_WORTH_A_THREAD", 1)
    with open(tmp_path / "pages", "w+b") as file:
        os.ftruncate(file.fileno(), 400 * PAGE_SIZE)
        for wrong in (0, 300):
            known = comparing.Comparison([(file.fileno(), [(0, 400, 0 if wrong else PAGE_SIZE)])])
            os.ftruncate(file.fileno(), (wrong or 400) * PAGE_SIZE)
            with pytest.raises(ImageError, match="ends before its last page"):
                comparing.compare(lambda *to: list(to[2].pieces), [(0, 400)], known)


def test_a_pre_dump_of_crius(tmp_path: Path) -> None:
    """Its inventory has no version; a whole checkpoint without one is refused."""
    first = write_set(tmp_path / "first", {1: page(1), 2: page(2)}, [], version=0)
    assert read_back(write_set(tmp_path / "second", {1: page(3)}, [2], "../first")) == {1: page(3), 2: page(2)}
    (first / "pstree.img").touch()
    with pytest.raises(ImageError, match="img_version 0 is not known"):
        read_back(tmp_path / "second")


def test_an_entry_without_pages_behind_the_last_one(tmp_path: Path) -> None:
    """There is no hole in it, whatever lseek(2) says of where it would be."""
    write_set(tmp_path, {0: page(1)}, [])
    with store.ImagesDir(str(tmp_path)) as images, images.raw("pages-1.img") as file:
        images.add(catalogue.PUNCHED, [m.pycriu_punched_entry(uptime=1)])
        runs = imagefiles.placed([*imagefiles.entries(1, [(0, 1)])[1:], m.pagemap_entry(
            vaddr=PAGE_SIZE, compat_nr_pages=0, flags=catalogue.PRESENT)], PAGE_SIZE)  # fmt: skip
        imagefiles.refuse_holes(images, file.fileno(), runs)


def test_content_that_is_not_whole_leaves_no_descriptor(tmp_path: Path) -> None:
    """A program may try to restore many times."""
    with store.NewCheckpoint(str(tmp_path)) as new:
        new.write_raw("pages-1.img", page(1))
        new.write("pagemap-shmem-9.img", imagefiles.entries(1, [(0, 1)], [(PAGE_SIZE, 1)]))
        new.write("inventory.img", [inventory()])
        new.commit()
    with store.ImagesDir(str(tmp_path)) as images:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ImageError, match="is in no parent"):
            imagefiles.Content(images, 9, 2 * PAGE_SIZE)
        assert os.listdir("/proc/self/fd") == before
