# SPDX-License-Identifier: GPL-2.0-only
"""Pre-dumps and dumps that build upon earlier ones: a program changes its memory in nasty ways, and judges itself."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycriu.images import framing, store
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages import comparing, imagefiles
from tests.host.conftest import PRELUDE, alive, reap, wait_until
from tests.host.test_peer import criu  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.host.conftest import Host, Outcome, Subject

# Does nasty things as often as the file `orders` says; knows what must be where, and says so at the end.
SUBJECT = """
import random
PAGE = 4096
AREA = 2 << 20
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def new(size, at=None, flags=0x22):
    place = libc.mmap(at, size, 3, flags | (0x10 if at else 0), -1, 0)
    assert place != 2**64 - 1
    return place
whole = new(8 * AREA + AREA)
base = (whole + AREA - 1) & ~(AREA - 1)      # whole page tables can be moved
truth = {}                                   # address of a page -> its first 8 bytes
stamp = [0]
def put(page):
    stamp[0] += 1
    ctypes.memmove(page, stamp[0].to_bytes(8, "little"), 8)
    truth[page] = stamp[0]
def forget(start, size):
    for page in range(start, start + size, PAGE):
        truth.pop(page, None)
shared = mmap.mmap(-1, 64 * PAGE)
shared_truth = {}
rng = random.Random(int(sys.argv[1]))
def areas():
    return [base + number * AREA for number in range(8)]
def write_some():
    for page in rng.sample(range(base, base + 8 * AREA, PAGE), 200):
        put(page)
def same_again():
    for page in rng.sample(sorted(truth), min(50, len(truth))):
        ctypes.memmove(page, truth[page].to_bytes(8, "little"), 8)
def move_area():
    here, there = rng.sample(areas(), 2)
    moved = {page: value for page, value in truth.items() if here <= page < here + AREA}
    forget(here, AREA), forget(there, AREA)
    assert libc.mremap(here, AREA, AREA, 3, there) == there
    truth.update({page - here + there: value for page, value in moved.items()})
    new(AREA, here)
def swap_areas():
    a, b = rng.sample(areas(), 2)
    aside = new(2 * AREA)
    aside = (aside + AREA - 1) & ~(AREA - 1)
    inside = {page: truth[page] for page in truth if a <= page < a + AREA or b <= page < b + AREA}
    forget(a, AREA), forget(b, AREA)
    for here, there in ((a, aside), (b, a), (aside, b)):
        assert libc.mremap(here, AREA, AREA, 3, there) == there
    for page, value in inside.items():
        truth[page - a + b if a <= page < a + AREA else page - b + a] = value
def move_few():
    here = base + rng.randrange(8 * 512 - 8) * PAGE
    there = base + rng.randrange(8 * 512 - 8) * PAGE
    if abs(here - there) < 8 * PAGE:
        return
    moved = {page: value for page, value in truth.items() if here <= page < here + 8 * PAGE}
    forget(here, 8 * PAGE), forget(there, 8 * PAGE)
    assert libc.mremap(here, 8 * PAGE, 8 * PAGE, 3, there) == there
    truth.update({page - here + there: value for page, value in moved.items()})
    new(8 * PAGE, here)
def map_anew():
    there = rng.choice(areas())
    forget(there, AREA)
    libc.munmap(there, AREA)
    new(AREA, there)
    put(there + 5 * PAGE)
def throw_away():
    there = base + rng.randrange(8 * 512 - 30) * PAGE
    forget(there, 30 * PAGE)
    libc.madvise(there, 30 * PAGE, 4)
def child_writes():
    pid = os.fork()
    if not pid:
        for page in list(truth)[:50]:
            ctypes.memmove(page, b"childish", 8)
        os._exit(0)
    os.waitpid(pid, 0)
    write_some()
def by_the_kernel():
    page = rng.choice(sorted(truth))
    with open("/proc/self/mem", "r+b", buffering=0) as mem:
        stamp[0] += 1
        mem.seek(page)
        mem.write(stamp[0].to_bytes(8, "little"))
        truth[page] = stamp[0]
def read_into():
    page = rng.choice(sorted(truth))
    r, w = os.pipe()
    stamp[0] += 1
    os.write(w, stamp[0].to_bytes(8, "little"))
    os.readv(r, [(ctypes.c_char * 8).from_address(page)])
    os.close(r), os.close(w)
    truth[page] = stamp[0]
def protect():
    there = rng.choice(areas())
    libc.mprotect(there, AREA, 1)
    libc.mprotect(there, AREA, 3)
    put(there)
def share():
    for page in rng.sample(range(64), 10):
        stamp[0] += 1
        shared[page * PAGE : page * PAGE + 8] = stamp[0].to_bytes(8, "little")
        shared_truth[page] = stamp[0]
def grow():
    global heap
    heap = [bytes(rng.randrange(100, 100000)) for _ in range(50)]
NASTY = [write_some, same_again, move_area, swap_areas, move_few, map_anew, throw_away, child_writes, by_the_kernel,
         read_into, protect, share, grow]
def judge():
    wrong = [page for page, value in truth.items() if int.from_bytes(ctypes.string_at(page, 8), "little") != value]
    stray = [page for page in range(base, base + 8 * AREA, PAGE)
             if page not in truth and ctypes.string_at(page, 8) != bytes(8)]
    bad = [page for page, value in shared_truth.items()
           if int.from_bytes(shared[page * PAGE : page * PAGE + 8], "little") != value]
    say("judged", len(wrong), len(stray), len(bad), len(truth) > 100)
write_some(), share()
ready()
done = 0
while not os.path.exists("go"):
    try:
        orders = int(open("orders").read() or 0)
    except FileNotFoundError:
        orders = 0
    while done < orders:
        for nasty in rng.sample(NASTY, 6):
            nasty()
        done += 1
        say("did", done)
    time.sleep(0.002)
judge()
"""


def nasty(subject: Subject, rounds: int) -> None:
    """Let it change its memory so often in all."""
    new = subject.folder / "orders.new"
    new.write_text(str(rounds))
    new.rename(subject.folder / "orders")
    subject.wait_for(f"did {rounds}")


def start(host: Host, seed: int) -> Subject:
    (host.folder / "nasty.py").write_text(PRELUDE + SUBJECT)
    return host.start(sys.executable, "-IS", "nasty.py", str(seed))


def images(host: Host, number: int) -> Path:
    folder = host.folder / f"set{number}"
    folder.mkdir(exist_ok=True)
    return folder


def build(host: Host, subject: Subject, number: int, action: str = "pre-dump", *words: str) -> Outcome:
    """One more set upon the one before."""
    before = () if number == 0 else ("--prev-images-dir", f"../set{number - 1}")
    folder = images(host, number)
    outcome = host.run(action, "-t", str(subject.pid), "-D", str(folder), *before, *words)
    if not alive(subject.pid):
        reap(subject.pid)
    return outcome


def size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.glob("pages-*.img"))


@pytest.mark.parametrize("seed", range(int(os.environ.get("PYCRIU_TEST_ROUNDS", "3"))))
def test_memory_that_changes_between_pre_dumps(host: Host, seed: int) -> None:
    rng = random.Random(seed)
    subject = start(host, seed)
    count = rng.randrange(1, 4)
    for number in range(count):
        assert (outcome := build(host, subject, number)).ok, outcome
        assert alive(subject.pid)
        nasty(subject, number + 1)
    dumped = build(host, subject, count, "dump")
    assert dumped.ok, dumped
    assert not alive(subject.pid)
    assert size(images(host, count)) < size(images(host, 0))
    assert (restored := host.restore(images=images(host, count))).ok, restored
    nasty(subject, count + 1)
    assert subject.go()[-1] == "judged 0 0 0 True"


def test_dumps_that_leave_it_running_build_upon_each_other(host: Host) -> None:
    subject = start(host, 77)
    said: list[str] = []
    for number in range(3):
        assert (outcome := build(host, subject, number, "dump", "-R")).ok, outcome
        said.append((host.folder / "out").read_text())
        nasty(subject, number + 1)
    os.kill(subject.pid, signal.SIGKILL)
    reap(subject.pid)
    for number in (0, 1, 2):  # each of them is whole
        (host.folder / "out").write_text(said[number])
        (host.folder / "orders").write_text(str(number))
        restored = host.restore("--file-validation", "filesize", images=images(host, number))
        assert restored.ok, restored
        nasty(subject, number + 1)
        if number < 2:
            os.kill(subject.pid, signal.SIGKILL)
            wait_until(lambda: reap(subject.pid) is not None or not alive(subject.pid), "killed")
    assert subject.go()[-1] == "judged 0 0 0 True"


def test_criu_restores_a_chain_of_ours(host: Host, criu: tuple[str, ...]) -> None:  # noqa: F811
    subject = start(host, 5)
    assert build(host, subject, 0).ok
    nasty(subject, 1)
    assert build(host, subject, 1).ok
    nasty(subject, 2)
    assert (dumped := build(host, subject, 2, "dump")).ok, dumped
    done = subprocess.run(
        [*criu, "restore", "-d", "-D", str(images(host, 2)), "-o", "log", "-v4"], check=False, cwd=host.folder,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (images(host, 2) / "log").read_text()[-3000:]
    assert subject.go()[-1] == "judged 0 0 0 True"


@pytest.mark.prolific  # it takes PIDs back
def test_a_stranger_with_its_pid(host: Host) -> None:
    """The parent is of another process that had the same PID: nothing wrong comes of it."""
    first = start(host, 1)
    assert build(host, first, 0, "dump").ok
    pid = first.pid
    (host.folder / "out").write_text("")
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(50):
        last.write_text(str(pid - 1))
        second = start(host, 2)
        if second.pid == pid:
            break
        os.kill(second.pid, signal.SIGKILL)
        reap(second.pid)
    else:
        pytest.skip("the PID cannot be had again")
    assert (dumped := build(host, second, 1, "dump")).ok, dumped
    assert host.restore(images=images(host, 1)).ok
    assert second.go()[-1] == "judged 0 0 0 True"


def test_a_pre_dump_is_no_checkpoint(host: Host) -> None:
    subject = start(host, 1)
    assert build(host, subject, 0).ok
    outcome = host.restore(images=images(host, 0))
    assert not outcome.ok
    assert "they are of a pre-dump" in outcome.errors()


def test_a_parent_that_is_none(host: Host) -> None:
    subject = start(host, 1)
    (host.folder / "nothing").mkdir()
    for path, said in (("../nothing", "inventory.img is missing"), ("../gone", "No such file"), (".", "is to go to")):
        if path == ".":
            assert build(host, subject, 0, "dump", "-R").ok
        outcome = host.run("dump", "-t", str(subject.pid), "-D", str(images(host, 0)), "--prev-images-dir", path)
        assert not outcome.ok
        assert said in outcome.errors(), outcome
        assert alive(subject.pid)


def test_a_parent_that_goes_away(host: Host) -> None:
    subject = start(host, 1)
    assert build(host, subject, 0).ok
    assert build(host, subject, 1, "dump").ok
    shutil.rmtree(images(host, 0))
    outcome = host.restore(images=images(host, 1))
    assert not outcome.ok
    assert "is gone" in outcome.errors()
    assert not alive(subject.pid)


def test_earlier_images_give_up_what_is_newer(host: Host) -> None:
    """At a dump, and by the action; the latest can be restored, and then gives up everything."""
    subject = start(host, 3)
    assert build(host, subject, 0).ok
    before = size(images(host, 0))
    nasty(subject, 1)
    assert build(host, subject, 1).ok
    nasty(subject, 2)
    assert (dumped := build(host, subject, 2, "dump", "--auto-dedup")).ok, dumped
    assert "Freed" in dumped.log
    assert size(images(host, 0)) < before
    assert (again := host.run("dedup", "-D", str(images(host, 2)))).ok, again
    assert "Freed 0 KiB in 2 earlier sets" in again.log
    assert (restored := host.restore("--auto-dedup", images=images(host, 2))).ok, restored
    assert [size(images(host, number)) for number in range(3)] == [0, 0, 0]
    nasty(subject, 3)
    assert subject.go()[-1] == "judged 0 0 0 True"
    outcome = host.restore(images=images(host, 2))
    assert not outcome.ok
    assert "given up" in outcome.errors()


def criu_dumps(host: Host, criu: tuple[str, ...], subject: Subject, number: int, *words: str) -> None:  # noqa: F811
    folder = images(host, number)
    done = subprocess.run(
        [*criu, "dump", "-t", str(subject.pid), "-D", str(folder), "-o", "log", "-v4", *words],
        check=False, cwd=host.folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    if not alive(subject.pid):
        reap(subject.pid)


def thin(folder: Path, parent: Path) -> int:
    """Leave to the parent what it has, as CRIU does where the kernel tracks changes; how many pages that are."""
    with store.ImagesDir(str(parent)) as older, store.ImagesDir(str(folder)) as newer:
        left = 0
        for name in [name for name in newer.names() if name.startswith("pagemap-") and older.exists(name)]:
            there = pages_of(older, name)
            head, *_ = newer.read(name)
            written, inherited, kept = [], [], b""
            for address, content in pages_of(newer, name).items():
                if there.get(address) == content:
                    inherited.append((address, 1))
                else:
                    written.append((address, 1))
                    kept += content
            left += len(inherited)
            number = head.pages_id  # type: ignore[attr-defined]
            entries = imagefiles.entries(number, comparing.merged(written), comparing.merged(inherited))
            (folder / name).write_bytes(b"".join(framing.build(store.kind_of(name), entries, name)))
            (folder / f"pages-{number}.img").write_bytes(kept)
    return left


def pages_of(set_: store.ImagesDir, name: str) -> dict[int, bytes]:
    head, *entries = set_.read(name)
    with set_.raw(f"pages-{head.pages_id}.img") as file:  # type: ignore[attr-defined]
        data = file.read()
    return {
        start + at: data[offset + at : offset + at + PAGE_SIZE]
        for start, pages, offset in imagefiles.placed(entries, len(data))
        for at in range(0, pages * PAGE_SIZE, PAGE_SIZE)
    }


def test_a_chain_of_crius(host: Host, criu: tuple[str, ...]) -> None:  # noqa: F811
    """Its tasks, vDSO and shared memory, part of them in the set before."""
    subject = start(host, 6)
    criu_dumps(host, criu, subject, 0, "-R")
    nasty(subject, 1)
    criu_dumps(host, criu, subject, 1)  # CRIU wants a parent that was tracked, which not every kernel can do
    (images(host, 1) / "parent").symlink_to("../set0")
    assert thin(images(host, 1), images(host, 0)) > 500
    assert (restored := host.restore(images=images(host, 1))).ok, restored
    nasty(subject, 2)
    assert subject.go()[-1] == "judged 0 0 0 True"


def test_criu_builds_upon_a_pre_dump_of_ours(host: Host, criu: tuple[str, ...]) -> None:  # noqa: F811
    subject = start(host, 8)
    assert build(host, subject, 0).ok
    nasty(subject, 1)
    criu_dumps(host, criu, subject, 1, "--prev-images-dir", "../set0")
    assert (restored := host.restore(images=images(host, 1))).ok, restored
    assert subject.go()[-1] == "judged 0 0 0 True"


def test_a_dump_builds_upon_one_of_crius(host: Host, criu: tuple[str, ...]) -> None:  # noqa: F811
    subject = start(host, 9)
    criu_dumps(host, criu, subject, 0, "-R")
    nasty(subject, 1)
    assert (dumped := build(host, subject, 1, "dump")).ok, dumped
    assert size(images(host, 1)) < size(images(host, 0))
    assert (restored := host.restore(images=images(host, 1))).ok, restored
    assert subject.go()[-1] == "judged 0 0 0 True"
