# SPDX-License-Identifier: GPL-2.0-only
"""x86_64: registers, the extended state with its two layouts, interrupted calls, and the few bytes of code.

Not kept: CET shadow stacks, and debug registers. Extended state that CRIU's format has no field for (AMX tiles and
whatever comes after) is kept raw in an image of pycriu's own.
"""

from __future__ import annotations

import struct

from pycriu.arch.description import MASK64, Arch, Registers, signed
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.kernel import ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# struct user_regs_struct, arch/x86/include/asm/user_64.h; the names are those of user_x86_regs_entry.
NAMES = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
R15, R14, R13, R12, R10, R9, R8, AX, DX, SI, DI, ORIG_AX, IP, SP = (
    NAMES.index(n)
    for n in ("r15", "r14", "r13", "r12", "r10", "r9", "r8", "ax", "dx", "si", "di", "orig_ax", "ip", "sp")
)

# include/linux/errno.h
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = -512, -513, -514, -516
EINTR = -4
NR_RESTART_SYSCALL = 219

NT_X86_XSTATE = 0x202
RAW_XSTATE = "xstate"  # the extra image that holds the whole register set
_FXSAVE = struct.Struct("<HHHHQQII32I64I24I")  # Intel SDM vol. 1, 10.5.1: the legacy region, 512 bytes
_XSTATE_BV_AT, _LEGACY, _HEADER = 512, 512, 64
_AVX_AT = 576  # the first extended component lies here on every CPU; the others only cpuid knows


# Component number → field of user_x86_xsave_entry, struct format of its elements.
_COMPONENTS = {
    2: ("ymmh_space", "<64I"),
    3: ("bndreg_state", "<8Q"),
    4: ("bndcsr_state", "<8Q"),
    5: ("opmask_reg", "<8Q"),
    6: ("zmm_upper", "<64Q"),
    7: ("hi16_zmm", "<128Q"),
    9: ("pkru", "<2I"),
}
_PKRU, _PKRU_OF_NEW_TASKS = 9, 0x55555554
_IN_FORMAT = 0b11 | sum(1 << n for n in _COMPONENTS)

# push %rbx; mov %edi,%eax; mov %esi,%ecx; mov %rdx,%r8; cpuid; mov %eax,(%r8); mov %ebx,4(%r8);
# mov %ecx,8(%r8); mov %edx,12(%r8); pop %rbx; ret
_CPUID = bytes.fromhex("5389f889f14989d00fa241890041895804418948084189500c5bc3")


def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """The CPUID instruction on the CPU we run on: eax, ebx, ecx, edx."""
    import ctypes
    import mmap

    result = (ctypes.c_uint32 * 4)()
    # Nothing closes the page by itself: a signal that ends a dump may come while its address is known.
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CPUID)
    code = ctypes.addressof(ctypes.c_char.from_buffer(page))
    run = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(code)
    run(leaf, subleaf, ctypes.addressof(result))
    return result[0], result[1], result[2], result[3]


def component_offset(number: int) -> int:
    """Where component `number` lies in the standard (uncompacted) XSAVE layout of this CPU, in bytes."""
    if number == 2:
        return _AVX_AT
    if number not in _offsets:
        _offsets[number] = cpuid(0xD, number)[1]
    return _offsets[number]


_offsets: dict[int, int] = {}


def prepare_call(gpr: Registers) -> None:
    """orig_ax = -1: the kernel takes the task for one that was not inside a call and restarts nothing."""
    gpr[ORIG_AX] = MASK64


def after_interruption(gpr: Registers, original: int | None = None) -> Registers:
    """The registers for a task that has no kernel-side memory of the call it was in.

    arch_do_signal_or_restart() would rewind over the two-byte instruction; we do. For -ERESTART_RESTARTBLOCK the kernel
    would call restart_syscall(2) with what it remembers; a new task has no such memory, so the call is made again in
    full, which is never too early. A call that already was restart_syscall is `original`, or ends with EINTR.
    """
    out = list(gpr)
    if signed(gpr[ORIG_AX]) >= 0:
        code = signed(gpr[AX])
        if code in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK):
            number = gpr[ORIG_AX]
            if code == ERESTART_RESTARTBLOCK and number == NR_RESTART_SYSCALL:
                number = EINTR if original is None else original
            if number < 0:
                out[AX] = EINTR & MASK64
            else:
                out[AX] = number
                out[IP] = gpr[IP] - 2
    out[ORIG_AX] = MASK64
    return out


def restarting(gpr: Registers) -> int:
    """The tracer sees -ERESTART_RESTARTBLOCK as the result of restart_syscall."""
    lost = signed(gpr[AX]) == ERESTART_RESTARTBLOCK and gpr[ORIG_AX] == NR_RESTART_SYSCALL
    return gpr[IP] - 2 if lost else 0


def numbers_in(code: bytes) -> list[int]:
    """mov $number,%eax: b8 and four bytes, of which the upper two are 0."""
    found = []
    at = code.rfind(b"\xb8")
    while at >= 0:
        number = int.from_bytes(code[at + 1 : at + 5], "little")
        if len(code) >= at + 5 and number < 1 << 16:
            found.append(number)
        at = code.rfind(b"\xb8", 0, at)
    return found


def call_again(gpr: Registers, number: int, _first: int) -> None:
    """As after_interruption does."""
    gpr[AX], gpr[IP], gpr[ORIG_AX] = number, gpr[IP] - 2, MASK64


def look(tid: int) -> dict[int, bytes]:
    """The extended state of a stopped task."""
    return {NT_X86_XSTATE: ptrace.get_regset(tid, NT_X86_XSTATE)}


def has_key_rights(sets: dict[int, bytes]) -> bool:
    """Whether PKRU is another than what execve(2) gives (init_pkru_value): access by key 0 only."""
    raw = sets[NT_X86_XSTATE]
    enabled, in_use = (int.from_bytes(raw[at : at + 8], "little") >> _PKRU & 1 for at in (464, _XSTATE_BV_AT))
    if not enabled:
        return False
    at = component_offset(_PKRU)
    return not in_use or int.from_bytes(raw[at : at + 4], "little") != _PKRU_OF_NEW_TASKS


def save(
    gpr: Registers,
    sets: dict[int, bytes],
    clear_tid_address: int,
    offset_of: Callable[[int], int] = component_offset,
) -> tuple[Any, dict[str, bytes]]:
    """thread_info_x86 of one task, and the raw register set when the format has no field for part of it.

    `offset_of` a component in the register set: those of another CPU may lie elsewhere.
    """
    raw = sets[NT_X86_XSTATE]
    fx = _FXSAVE.unpack_from(raw)
    xstate_bv = int.from_bytes(raw[_XSTATE_BV_AT : _XSTATE_BV_AT + 8], "little")
    xsave = m.user_x86_xsave_entry(xstate_bv=xstate_bv & _IN_FORMAT)
    for number, (field, layout) in _COMPONENTS.items():
        # CRIU reads ymmh_space unconditionally; the others only when the bit says so.
        if xstate_bv >> number & 1 or number == 2:
            getattr(xsave, field).extend(struct.unpack_from(layout, raw, offset_of(number)))
    fpregs = m.user_x86_fpregs_entry(
        cwd=fx[0], swd=fx[1], twd=fx[2], fop=fx[3], rip=fx[4], rdp=fx[5], mxcsr=fx[6], mxcsr_mask=fx[7],
        st_space=fx[8:40], xmm_space=fx[40:104], padding=fx[104:128], xsave=xsave,
    )  # fmt: skip
    info = m.thread_info_x86(
        clear_tid_addr=clear_tid_address,
        gpregs=m.user_x86_regs_entry(mode=1, **dict(zip(NAMES, gpr, strict=True))),
        fpregs=fpregs,
    )
    # Three GDT slots for set_thread_area(2); a 64-bit task has them empty, and CRIU's restore insists on three.
    for slot in (12, 13, 14):
        info.tls.append(_empty_tls(slot))
    return info, {RAW_XSTATE: raw} if xstate_bv & ~_IN_FORMAT else {}


def _empty_tls(slot: int) -> Any:
    return m.user_desc_t(
        entry_number=slot, base_addr=0, limit=0, seg_32bit=False, contents_h=False, contents_l=False,
        read_exec_only=True, limit_in_pages=False, seg_not_present=True, usable=False,
    )  # fmt: skip


# struct rt_sigframe, arch/x86/include/asm/sigframe.h: pretcode, then struct ucontext, of which struct sigcontext_64 is
# the middle (arch/x86/include/uapi/asm/sigcontext.h), then a siginfo that rt_sigreturn does not read.
_SIGCONTEXT = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "di", "si", "bp", "bx", "dx", "ax", "cx", "sp", "ip", "flags",
)  # fmt: skip
_UC_FLAGS = 7  # UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_KEEP_ALTSTACK = 1 << 30  # ss_flags that no kernel accepts: sigaltstack stays as it is, which rt_sigreturn lets pass
_FRAME = struct.Struct("<Q QQ QiiQ 18Q 4H 4Q Q 8Q Q")
_FP_XSTATE_MAGIC1, _FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845


def sigframe(gpr: Registers, mask: int, sets: dict[int, bytes], restorer: int, at: int) -> bytes:
    """The frame for the address `at`, a multiple of 64, with the extended state behind it."""
    regs = dict(zip(NAMES, gpr, strict=True))
    room = -(-_FRAME.size // 64) * 64
    segments = (regs["cs"], regs["gs"], regs["fs"], regs["ss"])
    frame = _FRAME.pack(
        restorer, _UC_FLAGS, 0, 0, _KEEP_ALTSTACK, 0, 0, *(regs[name] for name in _SIGCONTEXT), *segments,
        0, 0, 0, 0, at + room, *(0,) * 8, mask,
    )  # fmt: skip
    return frame.ljust(room, b"\0") + _signal_xstate(sets[NT_X86_XSTATE])


def _signal_xstate(raw: bytes) -> bytes:
    """The register set in the form that a signal frame has it: struct _fpx_sw_bytes in it, and a mark behind it."""
    features = raw[464:472]
    words = struct.pack("<II8sI28x", _FP_XSTATE_MAGIC1, len(raw) + 4, features, len(raw))
    return raw[:464] + words + raw[512:] + struct.pack("<I", _FP_XSTATE_MAGIC2)


def go_home(gpr: Registers, _restorer: int, frame: int) -> None:
    """The first word of the frame is the restorer's address: `ret` takes it from there."""
    gpr[SP] = frame


def load(core: Any) -> tuple[Registers, int]:
    """General registers and the address of set_tid_address(2), out of a core image."""
    info = core.thread_info
    if info.gpregs.mode != 1:
        raise ImageError("the image holds a 32-bit task", "restore it with criu: pycriu restores 64-bit tasks only")
    return [getattr(info.gpregs, name) for name in NAMES], info.clear_tid_addr


def restore_others(tid: int, core: Any, extras: dict[str, bytes]) -> None:
    """FPU, SSE, AVX … of a stopped task."""
    fp = core.thread_info.fpregs
    fresh = ptrace.get_regset(tid, NT_X86_XSTATE)
    if RAW_XSTATE in extras:
        if len(extras[RAW_XSTATE]) != len(fresh):
            raise ImageError(
                f"the task's extended CPU state is {len(extras[RAW_XSTATE])} bytes, this CPU's is {len(fresh)}",
                "restore on a machine with the same CPU features",
            )
        ptrace.set_regset(tid, NT_X86_XSTATE, extras[RAW_XSTATE])
        return
    ptrace.set_regset(tid, NT_X86_XSTATE, _xstate(fp, fresh))


def _xstate(fp: Any, fresh: bytes) -> bytes:
    """The register set for this CPU: its own length and feature mask, the image's components."""
    try:
        legacy = _FXSAVE.pack(
            fp.cwd, fp.swd, fp.twd, fp.fop, fp.rip, fp.rdp, fp.mxcsr, fp.mxcsr_mask,
            *fp.st_space, *fp.xmm_space, *(fp.padding or bytes(24)),
        )  # fmt: skip
    except struct.error as error:
        raise ImageError(f"the image's FPU state has the wrong shape: {error}") from None
    out = bytearray(len(fresh))
    out[:464] = legacy[:464]
    out[464:_LEGACY] = fresh[464:_LEGACY]  # the kernel's words for software: which features this CPU has enabled
    enabled = int.from_bytes(fresh[464:472], "little")
    xstate_bv = fp.xsave.xstate_bv if fp.HasField("xsave") else 0b11
    if xstate_bv & ~enabled:
        raise ImageError(
            f"the task used CPU features that this machine lacks (XSAVE components {xstate_bv & ~enabled:#x})",
            "restore on a machine with the same CPU features",
        )
    out[_XSTATE_BV_AT : _XSTATE_BV_AT + 8] = xstate_bv.to_bytes(8, "little")
    for number, (field, layout) in _COMPONENTS.items():
        if not xstate_bv >> number & 1:
            continue
        values = getattr(fp.xsave, field)
        offset = component_offset(number)
        if len(values) * struct.calcsize(layout[0] + layout[-1]) != struct.calcsize(layout):
            raise ImageError(f"the image's {field} has {len(values)} elements")
        if offset + struct.calcsize(layout) > len(out):
            raise ImageError(f"this CPU has no room for {field}", "restore on a machine with the same CPU features")
        struct.pack_into(layout, out, offset, *values)
    return bytes(out)


X86_64 = Arch(
    name="x86_64",
    mtype=1,
    thread_info="thread_info",
    elf_machine=62,
    numbering="x86_64",
    gpr=struct.Struct("<27Q"),
    nr=AX,
    args=(DI, SI, DX, R10, R8, R9),
    result=AX,
    pc=IP,
    sp=SP,
    syscall_insn=b"\x0f\x05",
    syscall_align=1,
    # loop: test %r13,%r13; jz done; mov (%r12),%rax; mov 8(%r12),%rdi; mov 16(%r12),%rsi; mov 24(%r12),%rdx;
    #       mov 32(%r12),%r10; mov 40(%r12),%r8; mov 48(%r12),%r9; syscall; mov %rax,56(%r12); add $64,%r12; dec %r13;
    #       cmp $-4095,%rax; jb loop
    table_loop=bytes.fromhex(
        "4d85ed7438498b0424498b7c2408498b742410498b5424184d8b5424204d8b4424284d8b4c2430"
        "0f0549894424384983c44049ffcd483d01f0ffff72c3"
    ),
    table_registers=(R12, R13),
    trap=b"\xcc",
    # mov $200,%eax; mov %r14,%rdi; mov %r15,%rsi; syscall; mov $15,%eax; syscall
    way_home=bytes.fromhex("b8c80000004c89f74c89fe0f05b80f0000000f05"),
    home_registers=(R14, R15),
    call_and_return=b"\x0f\x05\xc3",
    restorers=(bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05")),
    sigframe=sigframe,
    go_home=go_home,
    sigreturn_sp=8,
    task_size=0x7FFF_FFFF_F000,
    epoll_event=struct.Struct("<IQ"),  # packed, include/uapi/linux/eventpoll.h
    messages=("thread_info_x86", "user_x86_regs_entry", "user_x86_fpregs_entry", "user_x86_xsave_entry", "user_desc_t"),
    interrupted_call=lambda gpr: signed(gpr[ORIG_AX]),
    prepare_call=prepare_call,
    after_interruption=after_interruption,
    restarting=restarting,
    numbers_in=numbers_in,
    call_again=call_again,
    look=look,
    calls_destroy=(),
    has_key_rights=has_key_rights,
    save=save,
    load=load,
    restore_others=restore_others,
)
