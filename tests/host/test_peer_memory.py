# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory in images: CRIU restores what pycriu has dumped, and the other way round."""

from __future__ import annotations

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
