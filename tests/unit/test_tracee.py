# SPDX-License-Identifier: GPL-2.0-only
"""Remote calls, what needs no task: looking for an instruction, results, room for data."""

from __future__ import annotations

import pytest

from pycriu.arch.aarch64 import AARCH64
from pycriu.arch.x86_64 import X86_64
from pycriu.errors import KernelError, PycriuError, Unsupported
from pycriu.tracing.tracee import Remote, Tracee, check, find_syscall


def test_system_call_instruction() -> None:
    assert find_syscall(X86_64, b"\x90\x0f\x05\xc3") == 1
    svc = bytes.fromhex("010000d4")
    assert find_syscall(AARCH64, b"\0" * 8 + svc) == 8
    assert find_syscall(AARCH64, b"\0" * 2 + svc + b"\0" * 2 + svc) == 8, "an unaligned one is none"


def test_no_system_call_instruction() -> None:
    with pytest.raises(Unsupported):
        find_syscall(X86_64, b"\x90" * 100)
    with pytest.raises(Unsupported):
        find_syscall(AARCH64, b"\0\0" + bytes.fromhex("010000d4") + b"\0\0")


@pytest.mark.parametrize("result", [0, 1, 1 << 62, -4096, -(1 << 63)])
def test_results(result: int) -> None:
    assert check(result, "mmap", "x") == result


@pytest.mark.parametrize("errno", [1, 12, 4095])
def test_errors(errno: int) -> None:
    with pytest.raises(KernelError, match=r"mmap\(the thing\)") as caught:
        check(-errno, "mmap", "the thing")
    assert (caught.value.errno, caught.value.call) == (errno, "mmap")


def test_data_is_aligned_and_bounded() -> None:
    remote = Remote(Tracee(0, X86_64))
    addresses = [remote.data(bytes(size)) for size in (1, 16, 17, 0, 5)]
    assert all(address % 16 == 0 for address in addresses)
    assert addresses == sorted(addresses)
    before = remote.space
    remote.room(32)
    assert remote.space == before - 32
    with pytest.raises(PycriuError, match="more data"):
        remote.data(bytes(1 << 17))
    remote.reset()
    assert remote.data(b"x") == addresses[0]


def test_registers_of_a_call() -> None:
    for arch in (X86_64, AARCH64):
        gpr = list(range(100, 100 + arch.gpr.size // 8))
        out = Tracee(0, arch).call_registers(gpr, 0x5000, "mmap", (1, -1, 3))
        assert [out[register] for register in arch.args] == [1, (1 << 64) - 1, 3, 0, 0, 0]
        assert (out[arch.nr], out[arch.pc]) == (arch.syscall_number("mmap"), 0x5000)
        assert out[arch.sp] == gpr[arch.sp]
        assert gpr == list(range(100, 100 + arch.gpr.size // 8))
