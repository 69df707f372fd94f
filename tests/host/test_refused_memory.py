# SPDX-License-Identifier: GPL-2.0-only
"""Memory that cannot be kept is refused by name, at the dump or at the restore; whoever is refused goes on unharmed."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, reap, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

UNSUPPORTED = {
    "userfaultfd watch": (
        "u = libc.syscall(323, 0x80000)\nif u < 0: lacks('userfaultfd')\n"
        "a = libc.mmap(None, 4096, 3, 0x22, -1, 0)\n"
        "fcntl.ioctl(u, 0xC018AA3F, struct.pack('3Q', 0xAA, 0, 0))\n"
        "fcntl.ioctl(u, 0xC020AA00, struct.pack('4Q', a, 4096, 1, 0))",
        ("userfaultfd",),
    ),
    "secret memory": (
        "s = libc.syscall(447, 0)\nif s < 0: lacks('secret memory')\nos.ftruncate(s, 4096)\n"
        "x = libc.mmap(None, 4096, 3, 1, s, 0)\nos.close(s)",
        ("secret memory",),
    ),
    "secret memory, a descriptor": (
        "s = libc.syscall(447, 0)\nif s < 0: lacks('secret memory')",
        ("secret memory",),
    ),
    "mapped device": (
        "d = os.open('/dev/mem', os.O_RDONLY) if os.path.exists('/dev/mem') else os.open('/dev/null', os.O_RDONLY)\n"
        "if libc.mmap(None, 4096, 1, 1, d, 0) == 2**64 - 1: lacks('/dev/mem that can be mapped')\nos.close(d)",
        ("/dev/mem", "mapped"),
    ),
    "io_uring rings": (
        "p = ctypes.create_string_buffer(120)\nr = libc.syscall(425, 4, p)\nif r < 0: lacks('io_uring')\n"
        "x = libc.mmap(None, 4096, 3, 0x8001, r, 0)\nos.close(r)",
        ("io_uring",),
    ),
    "large deleted file": (
        "f = open('m', 'w+')\nf.truncate(3 << 20)\nx = mmap.mmap(f.fileno(), 4096)\nf.write('x' * (2 << 20))\n"
        "f.close()\nos.unlink('m')",
        ("/m", "--ghost-limit"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_is_named(host: Host, kind: str) -> None:
    body, needles = UNSUPPORTED[kind]
    host.refused_by_name(body, *needles)


@pytest.mark.parametrize("how", ["mapped", "open"])
def test_shared_with_somebody_outside(host: Host, how: str) -> None:
    """The grandchild leaves the tree when its parent ends, and still has the memory."""
    subject = host.python(
        "fd = os.memfd_create('both')\nos.ftruncate(fd, 4096)\n"
        + ("area = mmap.mmap(fd, 4096)\n" if how == "mapped" else "")
        + "if os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(0.1)\n"
        "        say('outside', os.getpid())\n        time.sleep(60)\n    os._exit(0)\nos.wait()\n"
        + ("os.close(fd)\n" if how == "mapped" else "")
        + "pause_for_dump()\nsay('ok')"
    )
    subject.wait_for("outside")
    outside = next(line.split()[1] for line in subject.said() if line.startswith("outside"))
    outcome = host.refused(subject, "memfd:both", f"process {outside}", "outside the tree")
    assert "parent of both" in outcome.log
    subject.go()


def test_too_few_huge_pages(host: Host) -> None:
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not pool.exists():
        pytest.skip("this machine has no huge pages of 2 MiB")
    number = pool / "nr_hugepages"
    before = int(number.read_text())
    try:
        number.write_text(str(before + 8))
        if int((pool / "free_hugepages").read_text()) < 8:
            pytest.skip("no 16 MiB of memory in huge pages to be had")
        subject = host.python(
            "a = libc.mmap(None, 16 << 20, 3, 0x40022, -1, 0)\nctypes.memmove(a, b'x', 1)\n"
            "pause_for_dump()\nsay(ctypes.string_at(a, 1))"
        )
        assert host.dump(subject).ok
        number.write_text("0")
        refused = host.restore()
        assert not refused.ok
        assert "8 huge pages of 2048 KiB are needed" in refused.errors(), refused
        assert "nr_hugepages" in refused.log
        assert not alive(subject.pid)
        number.write_text(str(before + 8))
        assert host.restore().ok
        assert subject.go() == ["b'x'"]
    finally:
        number.write_text(str(before))


ELF32 = (
    b"\x7fELF\x01\x01\x01" + bytes(9)
    + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<IIIIIIII", 1, 0, 0x8048000, 0x8048000, 0x1000, 0x1000, 5, 0x1000)
    + bytes.fromhex("b81d000000cd80ebf7")  # again: mov eax, 29 (pause); int 0x80; jmp again
)  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="a program of 32 bits for this machine is not here")
def test_a_program_of_32_bits(host: Host) -> None:
    program = host.folder / "small"
    program.write_bytes(ELF32 + bytes(0x1000 - len(ELF32)))
    program.chmod(0o755)
    pid = os.posix_spawn(program, ["small"], {}, setsid=True)
    wait_until(lambda: os.readlink(f"/proc/{pid}/exe") == str(program) or not alive(pid), "the program runs")
    if not alive(pid):
        reap(pid)
        pytest.skip("this kernel runs no programs of 32 bits (CONFIG_IA32_EMULATION)")
    outcome = host.run("dump", "-t", str(pid), "-D", str(host.images), "-j")
    assert not outcome.ok
    assert "32 bits" in outcome.errors(), outcome
    assert alive(pid)


def test_no_room_for_scratch_pages(host: Host) -> None:
    """A process that has used up its address space cannot work for us, and is told how to."""
    subject = host.python(
        "vm = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1]) << 10\n"
        "ready()\nresource.setrlimit(resource.RLIMIT_AS, (vm, resource.RLIM_INFINITY))\nwait_for_go()\nsay('ok')"
    )
    wait_until(lambda: "ready" in subject.said(), "ready")
    outcome = host.refused(subject, "scratch pages", "Cannot allocate memory")
    assert "RLIMIT_AS" in outcome.log
    subject.go()


def test_limits_of_memory_do_not_stand_in_the_way(host: Host) -> None:
    """As long as there is a little room: what is restored comes before the limits."""
    subject = host.python(
        "vm = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_AS, (vm + (1 << 20), resource.RLIM_INFINITY))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (vm, resource.RLIM_INFINITY))\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "pause_for_dump()\nsay('ok', resource.getrlimit(resource.RLIMIT_AS)[0] == vm + (1 << 20))"
    )
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["ok True"]
