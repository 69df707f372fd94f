# SPDX-License-Identifier: GPL-2.0-only
"""Runs in the guest: a process that changes its memory as it is told, and knows what every page should hold.

    python3 changing.py [DONE]

It obeys the lines of the file `orders`, writes what its pages hold into `truth`, and then says `did NUMBER`; with the
file `go` it judges itself and says PASS or FAIL. Addresses are the same after `exec`, which is one of the orders.

    python3 changing.py look IMAGES       the pages that these images have themselves, `private` and `shared`
    python3 changing.py noswap            undo what the order `swap` has done to the machine
    python3 changing.py judge IMAGES      whether these images, and those before them, have what `truth` says
"""

import ctypes
import mmap
import os
import random
import struct
import sys
import time

PAGE = mmap.PAGESIZE
BASE = 0x1000_0000_0000
PAGES, SHARED = 1024, 16
TABLE = 512  # pages that one page table maps
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 2, 0x10, 0x20
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MADV_DONTNEED, MADV_NOHUGEPAGE, MADV_PAGEOUT = 4, 15, 21
ADDR_NO_RANDOMIZE = 0x40000
SWAP = "/data/swap-of-a-test"

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Memory:
    """The pages, and what the first eight bytes of each should be."""

    def __init__(self, stamp: int) -> None:
        self.stamp = stamp
        self.children: list[int] = []
        self._map(BASE, PAGES)
        self.truth = [0] * PAGES
        self.fd = os.memfd_create("shared")
        os.ftruncate(self.fd, SHARED * PAGE)
        self.mapped = mmap.mmap(self.fd, SHARED * PAGE)
        self.shared = [0] * SHARED
        self.write(*range(PAGES))
        self.memfd(*range(SHARED))

    def _map(self, at: int, pages: int) -> None:
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        assert libc.mmap(at, pages * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == at
        libc.madvise(at, pages * PAGE, MADV_NOHUGEPAGE)

    def write(self, *pages: int) -> None:
        """New content."""
        for page in pages:
            self.stamp += 1
            ctypes.memmove(BASE + page * PAGE, struct.pack("<Q", self.stamp), 8)
            self.truth[page] = self.stamp

    def memfd(self, *pages: int) -> None:
        """New content of shared memory, by write(2)."""
        for page in pages:
            self.stamp += 1
            os.pwrite(self.fd, struct.pack("<Q", self.stamp), page * PAGE)
            self.shared[page] = self.stamp

    def mem(self, *pages: int) -> None:
        """As a debugger would."""
        with open("/proc/self/mem", "r+b", buffering=0) as file:
            for page in pages:
                self.stamp += 1
                os.pwrite(file.fileno(), struct.pack("<Q", self.stamp), BASE + page * PAGE)
                self.truth[page] = self.stamp

    def swaptables(self) -> None:
        """Two whole page tables change places, unless there are several mappings in them."""
        with open("/proc/self/maps", encoding="ascii") as file:
            if f"{BASE:x}-{BASE + PAGES * PAGE:x} " not in file.read():
                return
        size, aside = TABLE * PAGE, BASE + 4 * TABLE * PAGE
        for here, there in ((BASE, aside), (BASE + size, BASE), (aside, BASE + size)):
            assert libc.mremap(here, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there
        self.truth = self.truth[TABLE:] + self.truth[:TABLE]

    def move(self, here: int, there: int) -> None:
        """A page takes the place of another; a new one takes its own."""
        flags = MREMAP_MAYMOVE | MREMAP_FIXED
        assert libc.mremap(BASE + here * PAGE, PAGE, PAGE, flags, BASE + there * PAGE) == BASE + there * PAGE
        self.truth[there] = self.truth[here]
        self._map(BASE + here * PAGE, 1)
        self.write(here)

    def anew(self, first: int, count: int) -> None:
        """A new mapping in the place of some pages, half of it written to."""
        self._map(BASE + first * PAGE, count)
        self.truth[first : first + count] = [0] * count
        self.write(*range(first, first + count, 2))

    def drop(self, *pages: int) -> None:
        """Thrown away: zeros."""
        for page in pages:
            libc.madvise(BASE + page * PAGE, PAGE, MADV_DONTNEED)
            self.truth[page] = 0

    def protect(self, page: int) -> None:
        """Read-only for a moment, then written to."""
        libc.mprotect(BASE, PAGES * PAGE, mmap.PROT_READ)
        libc.mprotect(BASE, PAGES * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.write(page)

    def fork(self) -> None:
        """A child that stays, and changes its own pages; then we change some that it still shares."""
        pid = os.fork()
        if not pid:
            self.children = []
            self.write(7, 8)
            while not os.path.exists("go"):
                time.sleep(0.01)
            os._exit(len(self.wrong()) > 0)
        self.children.append(pid)
        self.write(8, 9)

    def swap(self) -> None:
        """As much as can be goes into swap."""
        make_swap()
        libc.madvise(BASE, PAGES * PAGE, MADV_PAGEOUT)

    def exec(self) -> None:
        """Another life."""
        os.execv(sys.executable, [sys.executable, "-ISB", __file__, "again", str(self.stamp)])

    def random(self, seed: int, rounds: int) -> None:
        """Some of all that."""
        rng = random.Random(seed)
        kinds = (
            lambda: self.write(*rng.sample(range(PAGES), 30)),
            lambda: self.memfd(rng.randrange(SHARED)),
            lambda: self.mem(rng.randrange(PAGES)),
            self.swaptables,
            lambda: self.move(*rng.sample(range(PAGES), 2)),
            lambda: self.anew(rng.randrange(PAGES - 20), 20),
            lambda: self.drop(*rng.sample(range(PAGES), 10)),
            lambda: self.protect(rng.randrange(PAGES)),
        )
        for _ in range(rounds):
            rng.choice(kinds)()

    def wrong(self) -> list[int]:
        """The pages that do not hold what they should."""
        found = [page for page in range(PAGES) if number(ctypes.string_at(BASE + page * PAGE, 8)) != self.truth[page]]
        return found + [
            PAGES + page for page in range(SHARED) if number(self.mapped[page * PAGE :][:8]) != self.shared[page]
        ]

    def obey(self, line: str) -> None:
        """One order."""
        name, *words = line.split()
        getattr(self, name)(*map(int, words))
        with open("truth.new", "w", encoding="ascii") as file:
            file.write(" ".join(map(str, self.truth + self.shared)))
        os.rename("truth.new", "truth")

    def judge(self) -> None:
        """In the end."""
        failed = [pid for pid in self.children if os.waitpid(pid, 0)[1]]
        wrong = self.wrong()
        say(f"FAIL {wrong[:20]} {failed}" if wrong or failed else "PASS")


def number(data: bytes) -> int:
    """Eight bytes."""
    return int.from_bytes(data, "little")


def make_swap() -> None:
    """What mkswap(8) does, and swapon(2); as often as wanted."""
    if os.path.exists(SWAP):
        return
    with open(SWAP, "wb") as file:
        file.write(bytes(8 << 20))
        file.seek(1024)
        file.write(struct.pack("=III", 1, (8 << 20) // PAGE - 1, 0))
        file.seek(PAGE - 10)
        file.write(b"SWAPSPACE2")
        os.fsync(file.fileno())
    if libc.swapon(SWAP.encode(), 0):
        say("noswap")


def say(text: str) -> None:
    """On standard output, at once."""
    os.write(1, text.encode() + b"\n")


def play(memory: Memory, done: int) -> None:
    """Obey until it is enough."""
    memory.obey("write")
    say(f"did {done}")
    while not os.path.exists("go"):
        orders: list[str] = []
        if os.path.exists("orders"):
            with open("orders", encoding="ascii") as file:
                orders = file.read().splitlines()
        for line in orders[done:]:
            done += 1
            memory.obey(line)
            say(f"did {done}")
        time.sleep(0.01)
    memory.judge()


def begin(words: list[str]) -> None:
    """At the same addresses in every life."""
    if not words:
        libc.personality(ADDR_NO_RANDOMIZE)
        os.execv(sys.executable, [sys.executable, "-ISB", __file__, "first"])
    done = 0
    if words[0] == "again":
        with open("orders", encoding="ascii") as file:
            done = len(file.read().splitlines())
    play(Memory(int(words[1]) if words[1:] else 0), done)


# ------------------------------------------------------------------------------------------- about images, not memory


def content(path: str) -> dict[str, dict[int, tuple[int, bool]]]:
    """Pages by kind and number: the first eight bytes, and whether they are in these images themselves."""
    sys.path.append("/usr/lib/python3/dist-packages")
    from pycriu.images import store
    from pycriu.pages import imagefiles, lineage

    found: dict[str, dict[int, tuple[int, bool]]] = {"private": {}, "shared": {}}
    with store.ImagesDir(path) as images, lineage.Lineage(images) as chain:
        for name in images.names():
            if not name.startswith("pagemap-"):
                continue
            _, *entries = images.read(name)
            wanted = [(entry.vaddr, imagefiles.count(entry)) for entry in entries]
            own = {
                at
                for start, pages, _ in imagefiles.placed(entries, 1 << 60)
                for at in range(start, start + pages * PAGE, PAGE)
            }
            kind, base = ("shared", 0) if "shmem" in name else ("private", BASE)
            for fd, runs in lineage.find(chain, name, wanted, 0)[0]:
                for start, pages, offset in runs:
                    for at in range(max(start, base), min(start + pages * PAGE, base + PAGES * PAGE), PAGE):
                        data = os.pread(fd, 8, offset + at - start)
                        found[kind].setdefault((at - base) // PAGE, (number(data), at in own))
                os.close(fd)
    return found


def look(path: str) -> None:
    """Which pages these images have themselves."""
    for kind, pages in content(path).items():
        say(" ".join([kind, *(str(page) for page, (_, own) in sorted(pages.items()) if own)]))


def judge(path: str) -> None:
    """Whether images have what the process says."""
    with open("truth", encoding="ascii") as file:
        truth = [int(word) for word in file.read().split()]
    found = content(path)
    wrong = [page for page in range(PAGES) if found["private"].get(page, (0, True))[0] != truth[page]]
    wrong += [PAGES + page for page in range(SHARED) if found["shared"].get(page, (0, True))[0] != truth[PAGES + page]]
    say("right" if not wrong else f"wrong: {wrong[:20]}")


if sys.argv[1:] == ["noswap"]:
    if os.path.exists(SWAP):
        libc.swapoff(SWAP.encode())
        os.unlink(SWAP)
elif sys.argv[1:2] in (["look"], ["judge"]):
    {"look": look, "judge": judge}[sys.argv[1]](sys.argv[2])
else:
    begin(sys.argv[1:])
