# SPDX-License-Identifier: GPL-2.0-only
"""Images of memory of every kind, damaged in many ways: never a task, a segment or an exception of Python is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.host.conftest import below, reap, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

KINDS = ("memfd", "mm-", "pagemap", "pycriu-memory", "ipcns", "files", "remap", "ghost")

SUBJECT = """
fd = os.memfd_create("one", os.MFD_ALLOW_SEALING)
os.write(fd, b"x" * 9000)
area = mmap.mmap(fd, 8192)
shared = mmap.mmap(-1, 65536)
shared[5000] = 1
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 20000, 0o1600)
libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)
ctx = ctypes.c_ulong(0)
libc.syscall(206 if os.uname().machine == "x86_64" else 0, 10, ctypes.byref(ctx))
locked = libc.mmap(None, 16384, 3, 0x22, -1, 0)
libc.syscall(325 if os.uname().machine == "x86_64" else 284, ctypes.c_void_p(locked), 8192, 1)
libc.madvise(locked, 4096, 10)
gone = open("gone", "w+b")
gone.write(b"g" * 5000)
gone.flush()
mapped = mmap.mmap(gone.fileno(), 4096)
os.unlink("gone")
pause_for_dump()
"""


def segments() -> list[str]:
    """The ids of all System V segments."""
    return [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]


def test_damaged_images(host: Host) -> None:
    before = segments()
    subject = host.python(SUBJECT)
    assert host.dump(subject).ok
    whole = {path.name: path.read_bytes() for path in host.images.iterdir() if path.name.startswith(KINDS)}
    assert {name.split("-")[0].removesuffix(".img") for name in whole} >= {"memfd", "mm", "ipcns", "pagemap", "pycriu"}
    rng = random.Random(int(os.environ.get("PYCRIU_TEST_SEED", "11")))
    tried = restored = 0
    for name, content in sorted(whole.items()):
        for _ in range(8):
            path = host.images / name
            path.write_bytes(damaged(rng, content))
            outcome = host.run("restore", "-d", "-D", str(host.images))
            tried += 1
            restored += outcome.ok
            if outcome.ok:
                for pid in below(os.getpid()):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not [reap(pid) for pid in below(os.getpid())], "all are gone")
            assert not below(os.getpid()), (name, outcome)
            for segment in set(segments()) - set(before):
                assert outcome.ok, f"{name}: segment {segment} is left"
                subprocess.run(["ipcrm", "-m", segment], check=True)  # the damage took its mark away
            path.write_bytes(content)
    assert tried > 50
    assert host.restore().ok
    for pid in below(os.getpid()):
        os.kill(pid, signal.SIGKILL)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """One or two bits or bytes changed, or the end missing."""
    new = bytearray(content)
    how = rng.randrange(4)
    if how == 0:
        return bytes(new[: rng.randrange(8, len(new))])
    for _ in range(how):
        at = rng.randrange(min(8, len(new) - 1), len(new))
        new[at] = rng.randrange(256) if how == 3 else new[at] ^ 1 << rng.randrange(8)
    return bytes(new)
