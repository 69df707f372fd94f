# SPDX-License-Identifier: GPL-2.0-only
"""aarch64: registers, FP/SIMD, SVE, pointer-authentication keys, TLS, and the few bytes of code.

SVE has no field in CRIU's format: a task that holds live SVE state gets an image of pycriu's own beside the core.
Not kept: SME (ZA, streaming mode), MTE tags, GCS, permission overlays (POE).
"""

from __future__ import annotations

import struct

from pycriu.arch.description import MASK64, Arch, Registers
from pycriu.errors import ImageError, KernelError
from pycriu.images import messages as m
from pycriu.kernel import ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# struct user_pt_regs: x0…x30, sp, pc, pstate
X0, X8, X19, X20, X21, X22, X30, SP, PC, PSTATE = 0, 8, 19, 20, 21, 22, 30, 31, 32, 33

# include/uapi/linux/elf.h
NT_ARM_TLS, NT_ARM_SVE = 0x401, 0x405
NT_ARM_PACA_KEYS, NT_ARM_PACG_KEYS, NT_ARM_PAC_ENABLED_KEYS = 0x407, 0x408, 0x40A
_FPSIMD = struct.Struct("<64QII8x")
_SVE_HEADER = struct.Struct("<IIHHHH")  # struct user_sve_header: size, max_size, vl, max_vl, flags, reserved
_SVE_REGS_SVE = 1  # flags: the registers are in SVE layout, i.e. live
RAW_SVE = "sve"
_NOTES = (
    ptrace.NT_PRFPREG, NT_ARM_TLS, NT_ARM_SVE, NT_ARM_PACA_KEYS, NT_ARM_PACG_KEYS, NT_ARM_PAC_ENABLED_KEYS,
)  # fmt: skip
_ABSENT = (22, 61, 19)  # EINVAL, ENODATA, ENODEV: what a kernel or CPU without the set answers
_ALL_ENABLED = 0b1111  # PR_PAC_APIAKEY to PR_PAC_APDBKEY: before Linux 5.13 no key could be disabled


def prepare_call(_gpr: Registers) -> None:
    """Nothing: do_signal() rewound and forgot the interrupted call before the tracer saw the stop."""


EINTR, NR_RESTART_SYSCALL = -4, 128


def after_interruption(gpr: Registers, original: int | None = None) -> Registers:
    """Unchanged: pc stands on the svc and x0 holds its first argument again, for every restart code.

    But where the call was interrupted before, the kernel has put the number of restart_syscall(2) into x8.
    """
    out = list(gpr)
    if original is not None and original >= 0:
        out[X8] = original
    elif original is not None:
        out[X0], out[PC] = EINTR & MASK64, gpr[PC] + 4
    return out


def restarting(gpr: Registers) -> int:
    """Whether an svc is there the caller will see."""
    return gpr[PC] if gpr[X8] == NR_RESTART_SYSCALL else 0


def numbers_in(code: bytes) -> list[int]:
    """mov x8,#number or mov w8,#number: movz, with the number in bits 5 to 20."""
    words = [int.from_bytes(code[at : at + 4], "little") for at in range(len(code) - 4, -1, -4)]
    return [word >> 5 & 0xFFFF for word in words if word & 0x7FE0001F == 0x52800008]


def call_again(gpr: Registers, number: int, first: int) -> None:
    """The result has taken the place of the first argument."""
    gpr[X0], gpr[X8], gpr[PC] = first, number, gpr[PC] - 4


def _optional(tid: int, note: int) -> bytes:
    try:
        return ptrace.get_regset(tid, note)
    except KernelError as error:
        if error.errno in _ABSENT:
            return b""
        raise


def look(tid: int) -> dict[int, bytes]:
    """Every register set of a stopped task that this kernel and CPU have."""
    sets = {note: _optional(tid, note) for note in _NOTES}
    # A set that is there but holds no more than FP/SIMD does is left out: it would only be another view of the same.
    header = sets[NT_ARM_SVE][: _SVE_HEADER.size]
    if len(header) < _SVE_HEADER.size or not _SVE_HEADER.unpack(header)[4] & _SVE_REGS_SVE:
        del sets[NT_ARM_SVE]
    return {note: data for note, data in sets.items() if data}


def save(gpr: Registers, sets: dict[int, bytes], clear_tid_address: int) -> tuple[Any, dict[str, bytes]]:
    """thread_info_aarch64 of one task, and the SVE register set where it holds more than FP/SIMD does."""
    fp = _FPSIMD.unpack(sets[ptrace.NT_PRFPREG])
    info = m.thread_info_aarch64(
        clear_tid_addr=clear_tid_address,
        tls=int.from_bytes(sets[NT_ARM_TLS][:8], "little"),
        gpregs=m.user_aarch64_regs_entry(regs=gpr[:31], sp=gpr[SP], pc=gpr[PC], pstate=gpr[PSTATE]),
        fpsimd=m.user_aarch64_fpsimd_context_entry(vregs=fp[:64], fpsr=fp[64], fpcr=fp[65]),
    )
    _save_keys(sets, info)
    return info, {RAW_SVE: sets[NT_ARM_SVE]} if NT_ARM_SVE in sets else {}


def _save_keys(sets: dict[int, bytes], info: Any) -> None:
    if NT_ARM_PACA_KEYS in sets:
        keys = info.pac_keys.pac_address_keys
        (keys.apiakey_lo, keys.apiakey_hi, keys.apibkey_lo, keys.apibkey_hi,
         keys.apdakey_lo, keys.apdakey_hi, keys.apdbkey_lo, keys.apdbkey_hi) = struct.unpack(
            "<8Q", sets[NT_ARM_PACA_KEYS]
        )  # fmt: skip
        enabled = sets.get(NT_ARM_PAC_ENABLED_KEYS)
        keys.pac_enabled_key = _ALL_ENABLED if enabled is None else int.from_bytes(enabled[:8], "little")
    if NT_ARM_PACG_KEYS in sets:
        generic = info.pac_keys.pac_generic_keys
        generic.apgakey_lo, generic.apgakey_hi = struct.unpack("<2Q", sets[NT_ARM_PACG_KEYS])


# struct rt_sigframe, arch/arm64/kernel/signal.c: a siginfo that rt_sigreturn does not read, then struct ucontext with
# struct sigcontext at a multiple of 16, whose records begin with the FP/SIMD one and end with an empty one.
_SIGINFO_SIZE = 128
_UCONTEXT = struct.Struct("<QQ QiiQ Q 120x 8x")
_SIGCONTEXT = struct.Struct("<Q 31Q QQQ 8x")
_FPSIMD_RECORD = struct.Struct("<II II 64Q")
_FPSIMD_MAGIC = 0x46508001
_KEEP_ALTSTACK = 1 << 30  # ss_flags that no kernel accepts: sigaltstack stays as it is, which rt_sigreturn lets pass
_RESERVED = 4096


def sigframe(gpr: Registers, mask: int, sets: dict[int, bytes], _restorer: int, _at: int) -> bytes:
    """The frame. What SVE holds beyond FP/SIMD is not in it."""
    fp = _FPSIMD.unpack(sets[ptrace.NT_PRFPREG])
    record = _FPSIMD_RECORD.pack(_FPSIMD_MAGIC, _FPSIMD_RECORD.size, fp[64], fp[65], *fp[:64])
    return (
        bytes(_SIGINFO_SIZE)
        + _UCONTEXT.pack(0, 0, 0, _KEEP_ALTSTACK, 0, 0, mask)
        + _SIGCONTEXT.pack(0, *gpr)
        + record.ljust(_RESERVED, b"\0")
    )


def go_home(gpr: Registers, restorer: int, frame: int) -> None:
    """`ret` goes where x30 points."""
    gpr[X30], gpr[SP] = restorer, frame


def load(core: Any) -> tuple[Registers, int]:
    """General registers and the address of set_tid_address(2), out of a core image."""
    regs = core.ti_aarch64.gpregs
    if len(regs.regs) != 31:
        raise ImageError(f"the image has {len(regs.regs)} general registers, aarch64 has 31")
    return [*regs.regs, regs.sp, regs.pc, regs.pstate], core.ti_aarch64.clear_tid_addr


def restore_others(tid: int, core: Any, extras: dict[str, bytes]) -> None:
    """FP/SIMD or SVE, TLS and pointer-authentication keys of a stopped task."""
    info = core.ti_aarch64
    if len(info.fpsimd.vregs) != 64:
        raise ImageError(f"the image has {len(info.fpsimd.vregs)} vector words, aarch64 has 64")
    if RAW_SVE in extras:
        ptrace.set_regset(tid, NT_ARM_SVE, extras[RAW_SVE])
    else:
        data = _FPSIMD.pack(*info.fpsimd.vregs, info.fpsimd.fpsr, info.fpsimd.fpcr)
        ptrace.set_regset(tid, ptrace.NT_PRFPREG, data)
    ptrace.set_regset(tid, NT_ARM_TLS, info.tls.to_bytes(8, "little"))
    if info.HasField("pac_keys"):
        _restore_keys(tid, info.pac_keys)


def _restore_keys(tid: int, keys: Any) -> None:
    if keys.HasField("pac_address_keys"):
        ptrace.set_regset(tid, NT_ARM_PACA_KEYS, address_keys(keys.pac_address_keys))
        _enable_keys(tid, keys.pac_address_keys.pac_enabled_key)
    if keys.HasField("pac_generic_keys"):
        ptrace.set_regset(tid, NT_ARM_PACG_KEYS, generic_key(keys.pac_generic_keys))


def _enable_keys(tid: int, enabled: int) -> None:
    try:
        ptrace.set_regset(tid, NT_ARM_PAC_ENABLED_KEYS, enabled.to_bytes(8, "little"))
    except KernelError as error:
        if error.errno not in _ABSENT or enabled != _ALL_ENABLED:
            raise


def address_keys(keys: Any) -> bytes:
    """struct user_pac_address_keys of a pac_address_keys."""
    return struct.pack(
        "<8Q", keys.apiakey_lo, keys.apiakey_hi, keys.apibkey_lo, keys.apibkey_hi,
        keys.apdakey_lo, keys.apdakey_hi, keys.apdbkey_lo, keys.apdbkey_hi,
    )  # fmt: skip


def generic_key(keys: Any) -> bytes:
    """struct user_pac_generic_keys of a pac_generic_keys."""
    return struct.pack("<2Q", keys.apgakey_lo, keys.apgakey_hi)


AARCH64 = Arch(
    name="aarch64",
    mtype=3,
    thread_info="ti_aarch64",
    elf_machine=183,
    numbering="generic",
    gpr=struct.Struct("<34Q"),
    nr=X8,
    args=(0, 1, 2, 3, 4, 5),
    result=X0,
    pc=PC,
    sp=SP,
    syscall_insn=bytes.fromhex("010000d4"),
    syscall_align=4,
    # loop: cbz x20, done; ldr x8,[x19]; ldp x0,x1,[x19,#8]; ldp x2,x3,[x19,#24]; ldp x4,x5,[x19,#40]; svc #0;
    #       str x0,[x19,#56]; add x19,x19,#64; sub x20,x20,#1; cmn x0,#4095; b.cc loop
    table_loop=bytes.fromhex(
        "740100b4680240f9608640a9628e41a9649642a9010000d4601e00f973020191940600d11ffc3fb1c3feff54"
    ),
    table_registers=(X19, X20),
    trap=bytes.fromhex("000020d4"),  # brk #0
    # mov x8,#130; mov x0,x21; mov x1,x22; svc #0; mov x8,#139; svc #0
    way_home=bytes.fromhex("481080d2e00315aae10316aa010000d4681180d2010000d4"),
    home_registers=(X21, X22),
    call_and_return=bytes.fromhex("010000d4c0035fd6"),
    restorers=(bytes.fromhex("681180d2010000d4"),),
    sigframe=sigframe,
    go_home=go_home,
    sigreturn_sp=0,
    task_size=1 << 39,
    epoll_event=struct.Struct("<I4xQ"),
    messages=("thread_info_aarch64", "user_aarch64_regs_entry", "user_aarch64_fpsimd_context_entry"),
    interrupted_call=lambda _gpr: -1,  # forgotten by the kernel before the tracer sees the stop
    prepare_call=prepare_call,
    after_interruption=after_interruption,
    restarting=restarting,
    numbers_in=numbers_in,
    call_again=call_again,
    look=look,
    calls_destroy=(NT_ARM_SVE,),  # a system call keeps of each vector what FP/SIMD has of it
    has_key_rights=lambda _sets: False,
    save=save,
    load=load,
    restore_others=restore_others,
)
