# SPDX-License-Identifier: GPL-2.0-only
"""Mapped files that have been deleted or replaced since: shared and private mappings, code, and the program itself.

Missing: larger ones than --ghost-limit (1 MiB); what /proc calls one whose name another file has taken.
"""

import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE


def scenario() -> Iterator[victim.Damage]:
    shared, shared_fd = make("shared", mmap.MAP_SHARED)
    private, private_fd = make("private", mmap.MAP_PRIVATE)
    again = mmap.mmap(shared_fd, 2 * PAGE, prot=mmap.PROT_READ)
    for fd in (shared_fd, private_fd):
        close_all(fd)
    private[PAGE : PAGE + 4] = b"mine"
    os.unlink("shared")
    with open("other", "wb") as other:
        other.write(b"!" * 4 * PAGE)
    os.rename("other", "private")  # replaced, as by an upgrade
    program = start_deleted()
    before = tell(shared, private, again, program.pid)
    yield lambda: shared.write(b"not what it was")
    victim.check(program.poll() is None, f"the program has ended: {program.returncode}")
    victim.equal(tell(shared, private, again, program.pid), before, "the mappings")
    shared[10:15] = b"fresh"
    victim.equal(bytes(again[10:15]), b"fresh", "one file is mapped twice")
    victim.equal(bytes(private[PAGE : PAGE + 6]), b"mineee", "a page that was written, of a file that was replaced")
    with open("private", "rb") as file:
        victim.equal(file.read(4), b"!!!!", "the file that took its place")
    victim.equal(program.communicate(b"still here"), (b"still here", None), "what the program that was deleted says")
    victim.equal(program.returncode, 0, "the status of the program that was deleted")


def make(name: str, kind: int) -> tuple[mmap.mmap, int]:
    with open(name, "w+b") as file:
        file.write(b"".join(bytes([65 + page]) * PAGE for page in range(4)))
        file.flush()
        fd = os.dup(file.fileno())
    with open(name, "r+b") as file:
        file.write(b"".join(b"%c" % (b"aeiou"[page]) * PAGE for page in range(4)))
    return mmap.mmap(fd, 4 * PAGE, flags=kind), fd


def close_all(fd: int) -> None:
    """Close this one and the copies that Python keeps with mappings."""
    status = os.fstat(fd)
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            there = os.fstat(number)
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
            os.close(number)


def start_deleted() -> subprocess.Popen[bytes]:
    """A child whose program has been deleted: a copy of the smallest that is here and waits."""
    shutil.copy2(shutil.which("cat") or "/bin/cat", "program")
    argv = ["cat"]  # its name decides what busybox is
    child = subprocess.Popen(argv, executable="./program", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.unlink("program")
    victim.wait_until(lambda: victim.sleeping(child.pid), "the program waits")
    return child


def tell(shared: mmap.mmap, private: mmap.mmap, again: mmap.mmap, pid: int) -> list[object]:
    content = [hashlib.sha256(area[:]).hexdigest()[:8] for area in (shared, private, again)]
    return [content, lines("self"), lines(str(pid)), os.readlink(f"/proc/{pid}/exe")]


def lines(pid: str) -> list[str]:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        found = [[*line.split()[:3], *line.split()[5:]] for line in maps if "(deleted)" in line]
    # Where another file has the name by now, the one that is gone has a new one.
    return [" ".join(words) if words[-2].endswith(("/shared", "/program")) else " ".join(words[:3]) for words in found]


victim.play(scenario)
