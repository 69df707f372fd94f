# SPDX-License-Identifier: GPL-2.0-only
"""Every architecture on every host: registers through an image, interrupted calls, and the bytes of code."""

from __future__ import annotations

from typing import Any

import pytest

from pycriu.arch import aarch64, native, x86_64
from pycriu.arch.aarch64 import AARCH64
from pycriu.arch.description import MASK64, Arch, signed
from pycriu.arch.x86_64 import AX, IP, NAMES, ORIG_AX, X86_64
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.kernel import ptrace

ARCHES = [X86_64, AARCH64]
X86_PATTERN = [number * 0x0101010101010101 & MASK64 for number in range(1, 28)]
ARM_PATTERN = [number * 0x0101010101010101 & MASK64 for number in range(1, 35)]


def x86_core(gpr: list[int], mode: int = 1) -> Any:
    gpregs = m.user_x86_regs_entry(mode=mode, **dict(zip(NAMES, gpr, strict=True)))
    fp = m.user_x86_fpregs_entry(cwd=0, swd=0, twd=0, fop=0, rip=0, rdp=0, mxcsr=0, mxcsr_mask=0)
    return m.core_entry(mtype=1, thread_info=m.thread_info_x86(clear_tid_addr=99, gpregs=gpregs, fpregs=fp))


def arm_core(gpr: list[int]) -> Any:
    regs = m.user_aarch64_regs_entry(regs=gpr[:31], sp=gpr[31], pc=gpr[32], pstate=gpr[33])
    simd = m.user_aarch64_fpsimd_context_entry(vregs=[0] * 64, fpsr=0, fpcr=0)
    return m.core_entry(mtype=3, ti_aarch64=m.thread_info_aarch64(clear_tid_addr=99, tls=7, gpregs=regs, fpsimd=simd))


def test_x86_registers_through_an_image() -> None:
    raw = x86_core(X86_PATTERN).SerializeToString()
    core = m.core_entry.FromString(raw)
    assert X86_64.load(core) == (X86_PATTERN, 99)


def test_aarch64_registers_through_an_image() -> None:
    raw = arm_core(ARM_PATTERN).SerializeToString()
    core = m.core_entry.FromString(raw)
    assert AARCH64.load(core) == (ARM_PATTERN, 99)


def test_images_with_the_wrong_registers() -> None:
    with pytest.raises(ImageError, match="32-bit"):
        X86_64.load(x86_core(X86_PATTERN, mode=2))
    core = arm_core(ARM_PATTERN)
    del core.ti_aarch64.gpregs.regs[30]
    with pytest.raises(ImageError, match="30 general registers"):
        AARCH64.load(core)


def caught(call: int, result: int) -> list[int]:
    gpr = [0] * 27
    gpr[ORIG_AX], gpr[AX], gpr[IP] = call & MASK64, result & MASK64, 0x1000
    return gpr


@pytest.mark.parametrize("code", [-512, -513, -514, -516])
def test_x86_call_that_is_to_be_made_again(code: int) -> None:
    out = X86_64.after_interruption(caught(35, code))
    assert (out[AX], out[IP], signed(out[ORIG_AX])) == (35, 0xFFE, -1)


def test_x86_restart_syscall_has_lost_its_name() -> None:
    out = X86_64.after_interruption(caught(219, -516))
    assert (signed(out[AX]), out[IP]) == (-4, 0x1000)


def test_x86_restart_syscall_whose_name_is_known() -> None:
    gpr = caught(219, -516)
    assert X86_64.restarting(gpr) == 0xFFE
    out = X86_64.after_interruption(gpr, 230)
    assert (out[AX], out[IP], signed(out[ORIG_AX])) == (230, 0xFFE, -1)
    assert X86_64.after_interruption(gpr, -1) == X86_64.after_interruption(gpr)
    assert not X86_64.restarting(caught(35, -516))
    assert not X86_64.restarting(caught(219, 0))


def test_aarch64_keys_of_a_kernel_that_cannot_disable_any_are_enabled() -> None:
    sets = {
        ptrace.NT_PRFPREG: bytes(528),
        aarch64.NT_ARM_TLS: bytes(8),
        aarch64.NT_ARM_PACA_KEYS: bytes(range(64)),
        aarch64.NT_ARM_PACG_KEYS: bytes(range(16)),
    }
    keys = AARCH64.save(ARM_PATTERN, sets, 0)[0].pac_keys
    assert keys.pac_address_keys.pac_enabled_key == 0b1111
    assert aarch64.address_keys(keys.pac_address_keys) == bytes(range(64))
    assert aarch64.generic_key(keys.pac_generic_keys) == bytes(range(16))
    some = AARCH64.save(ARM_PATTERN, sets | {aarch64.NT_ARM_PAC_ENABLED_KEYS: b"\1".ljust(8, b"\0")}, 0)[0]
    assert some.pac_keys.pac_address_keys.pac_enabled_key == 1


def test_aarch64_restart_syscall() -> None:
    gpr = list(ARM_PATTERN)
    gpr[8], gpr[32] = 128, 0x1000
    assert AARCH64.restarting(gpr) == 0x1000
    known, lost = AARCH64.after_interruption(gpr, 115), AARCH64.after_interruption(gpr, -1)
    assert (known[8], known[32], known[0]) == (115, 0x1000, gpr[0])
    assert (signed(lost[0]), lost[32]) == (-4, 0x1004)
    assert AARCH64.after_interruption(gpr, None) == gpr
    assert not AARCH64.restarting(ARM_PATTERN)


def test_numbers_of_calls_in_code() -> None:
    # mov $35,%eax; mov %ebx,%edi; mov $0xe6,%eax; syscall
    assert X86_64.numbers_in(bytes.fromhex("b82300000089dfb8e60000000f05")) == [230, 35]
    assert X86_64.numbers_in(b"\xb8\x01") == []
    # mov x8,#101; mov w8,#115; mov x7,#1; svc #0
    assert AARCH64.numbers_in(bytes.fromhex("a80c80d2 680e8052 270080d2 010000d4")) == [115, 101]


def test_call_that_is_made_again() -> None:
    gpr = caught(232, -4)
    X86_64.call_again(gpr, 232, 7)
    assert (gpr[AX], gpr[IP], signed(gpr[ORIG_AX])) == (232, 0xFFE, -1)
    arm = list(ARM_PATTERN)
    arm[32] = 0x1004
    AARCH64.call_again(arm, 22, 7)
    assert (arm[0], arm[8], arm[32]) == (7, 22, 0x1000)


@pytest.mark.parametrize("result", [0, 5, -4, -11, -515, -1])
def test_x86_call_that_has_its_result(result: int) -> None:
    out = X86_64.after_interruption(caught(0, result))
    assert (signed(out[AX]), out[IP], signed(out[ORIG_AX])) == (result, 0x1000, -1)


@pytest.mark.parametrize("value", [-512, -516, 7])
def test_x86_registers_outside_a_call_are_no_result(value: int) -> None:
    """A computation may hold -512 in rax."""
    out = X86_64.after_interruption(caught(-1, value))
    assert (signed(out[AX]), out[IP]) == (value, 0x1000)


def test_interruption_does_not_change_its_argument() -> None:
    before = caught(35, -512)
    copy = list(before)
    X86_64.after_interruption(before)
    assert before == copy
    assert AARCH64.after_interruption(ARM_PATTERN) == ARM_PATTERN


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_description_is_coherent(arch: Arch) -> None:
    size = arch.gpr.size // 8
    indices = [arch.nr, *arch.args, arch.result, arch.pc, arch.sp, *arch.table_registers]
    assert all(0 <= index < size for index in indices)
    assert len({arch.nr, *arch.args}) == 7
    assert not set(arch.table_registers) & {arch.nr, *arch.args, arch.result, arch.pc, arch.sp}
    assert arch.syscall_insn in arch.table_loop
    assert arch.table_loop.index(arch.syscall_insn) % arch.syscall_align == 0
    assert len(arch.table_loop) % arch.syscall_align == 0
    assert arch.syscall_number("clone3") == 435


def test_prepare_call_makes_x86_forget_the_call() -> None:
    gpr = caught(35, -512)
    X86_64.prepare_call(gpr)
    assert signed(gpr[ORIG_AX]) == -1


def test_native_is_one_of_them() -> None:
    assert native() in ARCHES


def test_layout_of_the_structures() -> None:
    assert X86_64.gpr.size == 27 * 8
    assert AARCH64.gpr.size == 34 * 8
    assert x86_64._FXSAVE.size == 512
    assert aarch64._FPSIMD.size == 528


def test_rights_of_protection_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(x86_64._offsets, 9, 2688)

    def rights(enabled: int, in_use: int, pkru: int) -> bool:
        raw = bytearray(2696)
        raw[464:472], raw[512:520] = enabled.to_bytes(8, "little"), in_use.to_bytes(8, "little")
        raw[2688:2692] = pkru.to_bytes(4, "little")
        return X86_64.has_key_rights({x86_64.NT_X86_XSTATE: bytes(raw)})

    assert not rights(0x7, 0x3, 0)  # a CPU without keys
    assert not rights(0x207, 0x203, 0x55555554)  # as execve(2) has left it
    assert rights(0x207, 0x203, 0x55555550)
    assert rights(0x207, 0x3, 0)  # the initial state of the CPU: everything is allowed
    assert not AARCH64.has_key_rights({})
