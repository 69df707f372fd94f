# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory in images: CRIU restores what pycriu has dumped, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.test_peer import WAYS, Both, criu  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.host.conftest import Host

SHARED = """
area = mmap.mmap(-1, 1 << 20)
for at in range(0, 1 << 20, 12288):
    area[at : at + 8] = at.to_bytes(8, "little")
pid = os.fork()
if not pid:
    wait_for_go()
    good = all(area[at : at + 8] == at.to_bytes(8, "little") for at in range(0, 1 << 20, 12288))
    area[5:7] = b"ok" if good else b"no"
    os._exit(0)
pause_for_dump()
os.waitpid(pid, 0)
say("child says", bytes(area[5:7]))
say("there", all(area[at : at + 8] == at.to_bytes(8, "little") for at in range(12288, 1 << 20, 12288)))
say("elsewhere", sum(1 for page in range(256) if area[page * 4096 + 9]))
"""

MEMFD = """
fd = os.memfd_create("name", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
os.ftruncate(fd, 100000)
os.pwrite(fd, b"content", 50000)
os.lseek(fd, 50003, 0)
reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
area = mmap.mmap(fd, 4096)
private = mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE)
private[0:3] = b"own"
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
pause_for_dump()
say(os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size, fcntl.fcntl(fd, fcntl.F_GET_SEALS))
say(os.read(fd, 4), os.pread(reader, 3, 50000), os.lseek(reader, 0, 1))
area[5:8] = b"new"
say(bytes(private[0:8]), os.pread(reader, 3, 5), os.fstat(fd).st_blocks < 40)
"""


@pytest.mark.parametrize("way", WAYS)
def test_shared_anonymous_memory(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(SHARED)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["child says b'ok'", "there True", "elsewhere 0"]


@pytest.mark.parametrize("way", WAYS)
def test_memfd(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(MEMFD)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == [
        "/memfd:name (deleted) 100000 4", "b'tent' b'con' 0", "b'own\\x00\\x00\\x00\\x00\\x00' b'new' True",
    ]  # fmt: skip


FILES = """
f = open("kept", "w+b", buffering=0)
f.write(b"k" * 8192)
kept = mmap.mmap(f.fileno(), 8192)
g = open("gone", "w+b", buffering=0)
g.write(b"g" * 8192)
gone = mmap.mmap(g.fileno(), 8192)
private = mmap.mmap(g.fileno(), 8192, flags=mmap.MAP_PRIVATE)
private[4096:4100] = b"mine"
os.unlink("gone")
pause_for_dump()
kept[0:3] = b"new"
gone[0:3] = b"new"
say(open("kept", "rb").read(4), os.pread(g.fileno(), 4, 0), bytes(private[4094:4101]), bytes(private[0:4]))
"""


@pytest.mark.parametrize("way", WAYS)
def test_mapped_files(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    """Shared mappings that may be written through, of a file and of a deleted one."""
    subject = host.python(FILES)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["b'newk' b'newg' b'ggmineg' b'newg'"]


HUGE = """
private = libc.mmap(None, 4 << 20, 3, 0x40022, -1, 0)
shared = libc.mmap(None, 4 << 20, 3, 0x40021, -1, 0)
if 2**64 - 1 in (private, shared):
    say("ready", "none")
    os._exit(0)
ctypes.memmove(private + (2 << 20), b"private", 7)
ctypes.memmove(shared + (2 << 20), b"shared", 6)
pause_for_dump()
say(ctypes.string_at(private + (2 << 20), 8), ctypes.string_at(shared + (2 << 20), 7), ctypes.string_at(shared, 1))
"""


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Eight huge pages to spare."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    if not pool.exists():
        pytest.skip("this kernel has no huge pages")
    before = int(pool.read_text())
    pool.write_text(str(max(before, 8)))
    yield
    pool.write_text(str(before))


@pytest.mark.parametrize("way", WAYS)
def test_huge_pages(host: Host, criu: tuple[str, ...], huge_pages: None, way: object) -> None:  # noqa: F811
    subject = host.python(HUGE)
    if "ready none" in subject.said():
        pytest.skip("no huge pages of 2 MiB to be had")
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["b'private\\x00' b'shared\\x00' b'\\x00'"]


RING = """
ctx = ctypes.c_ulong(0)
setup, events, submit = (206, 208, 209) if os.uname().machine == "x86_64" else (0, 4, 2)
assert libc.syscall(setup, 50, ctypes.byref(ctx)) == 0
data = os.open("subject.py", os.O_RDONLY)
buffer = ctypes.create_string_buffer(64)
def read(tag):
    block = struct.pack("<QIIHhIQQqQII", tag, 0, 0, 0, 0, data, ctypes.addressof(buffer), 8, 0, 0, 0, 0)
    kept = ctypes.create_string_buffer(block, 64)
    pointer = ctypes.c_ulong(ctypes.addressof(kept))
    return libc.syscall(submit, ctx, 1, ctypes.byref(pointer))
def done():
    room = ctypes.create_string_buffer(32 * 10)
    count = libc.syscall(events, ctx, 0, 10, room, struct.pack("<qq", 0, 0))
    return [struct.unpack_from("<Q", room, 32 * n)[0] for n in range(count)]
for tag in range(200):
    assert read(tag) == 1 and done() == [tag]
read(1000), read(1001)
pause_for_dump()
say(done(), read(7), done())
"""


@pytest.mark.parametrize("way", WAYS)
def test_rings_of_asynchronous_io(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(RING)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["[1000, 1001] 1 [7]"]
