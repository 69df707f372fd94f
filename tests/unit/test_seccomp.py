# SPDX-License-Identifier: GPL-2.0-only
"""seccomp: filters as the kernel runs them, what a task may be asked to call, the image and its lies."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pycriu.arch.x86_64 import X86_64
from pycriu.errors import ImageError, Unsupported
from pycriu.images import messages as m
from pycriu.kernel import bpf
from pycriu.resources import seccomp
from pycriu.tracing.tracee import Tracee

KILL, ERRNO, ALLOW, TRAP = bpf.RET_KILL_PROCESS, bpf.RET_ERRNO | 1, bpf.RET_ALLOW, bpf.RET_TRAP
MMAP, PRCTL, SIGRETURN = 9, 157, 15


def code(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *one) for one in instructions)


def answers(number: int, action: int, otherwise: int = ALLOW) -> bytes:
    return code((0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, action), (6, 0, 0, otherwise))


def run(program: bytes, number: int, *args: int) -> tuple[int, bool]:
    data = bpf.DATA.pack(number, 0xC000003E, 0x7000_1234_5678, *args, *(0,) * (6 - len(args)))
    return bpf.Program(program).run(data)


def test_filters() -> None:
    assert run(answers(MMAP, KILL), MMAP) == (KILL, False)
    assert run(answers(MMAP, KILL), PRCTL) == (ALLOW, False)


def test_arguments_are_looked_at() -> None:
    # ld args[2]; and #4; jeq #4, kill, allow
    program = code((0x20, 0, 0, 32), (0x54, 0, 0, 4), (0x15, 0, 1, 4), (6, 0, 0, KILL), (6, 0, 0, ALLOW))
    assert run(program, MMAP, 0, 0, 7) == (KILL, True)
    assert run(program, MMAP, 0, 0, 3) == (ALLOW, True)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [(0x04, 13), (0x14, 7), (0x24, 30), (0x34, 3), (0x44, 11), (0x54, 2), (0x64, 80), (0x74, 1), (0xA4, 9),
     (0x84, (1 << 32) - 10)],
)  # fmt: skip
def test_arithmetic(operation: int, expected: int) -> None:
    """On 10 and 3: by constant, and by register, through memory."""
    assert run(code((0x00, 0, 0, 10), (operation, 0, 0, 3), (0x16, 0, 0, 0)), 0)[0] == expected
    by_register = code(
        (0x00, 0, 0, 3), (0x02, 0, 0, 5), (0x61, 0, 0, 5), (0x00, 0, 0, 10), (operation | 8, 0, 0, 0), (0x16, 0, 0, 0)
    )
    assert run(by_register, 0)[0] == expected


@pytest.mark.parametrize(("jump", "expected"), [(0x15, 2), (0x25, 2), (0x35, 1), (0x45, 1), (0x05, 9)])
def test_jumps(jump: int, expected: int) -> None:
    """5 against 4 and 1: equal, greater, at least, has bits; and always."""
    k = 1 if jump in (0x35, 0x45, 0x05) else 5 if jump == 0x25 else 4
    program = code((0x00, 0, 0, 5), (jump, 0, 1, k), (6, 0, 0, 1), (6, 0, 0, 2))
    assert run(program, 0)[0] == (2 if jump == 0x05 else expected)


def test_the_rest() -> None:
    assert run(code((0x80, 0, 0, 0), (0x16, 0, 0, 0)), 0)[0] == 64, "the length of the data"
    assert run(code((0x00, 0, 0, 7), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x87, 0, 0, 0), (0x16, 0, 0, 0)), 0)[0] == 7
    assert run(code((0x00, 0, 0, 7), (0x3C, 0, 0, 0), (6, 0, 0, ALLOW)), 0)[0] == bpf.RET_KILL_THREAD, "division by 0"
    assert bpf.Program(answers(1, ERRNO)).returns() == {bpf.RET_ERRNO, ALLOW}


@pytest.mark.parametrize("raw", [b"", b"1234567", bytes(8 * 4097), code((0x20, 0, 0, 0)), code((0x94, 0, 0, 1))])
def test_what_is_no_filter(raw: bytes) -> None:
    with pytest.raises(ImageError, match="filter"):
        run(raw, 0)


def judge(*filters: bytes) -> seccomp.Judge:
    return seccomp.Judge(Tracee(7, X86_64), tuple((one, 0) for one in filters))


def test_calls_that_do_no_harm() -> None:
    judge(answers(MMAP, ERRNO))("mmap", (0, 4096), 0x1000)
    judge(answers(PRCTL, KILL))("mmap", (0, 4096), 0x1000)
    judge(answers(PRCTL, ERRNO), answers(SIGRETURN, bpf.RET_LOG))("rt_sigreturn", (), 0x1000)


@pytest.mark.parametrize("action", [KILL, bpf.RET_KILL_THREAD, TRAP, bpf.RET_USER_NOTIF, 0x12340000])
def test_calls_that_would_be_the_end(action: int) -> None:
    for program in (answers(MMAP, action), answers(1, ALLOW, action)):
        with pytest.raises(Unsupported, match=r"task 7 .* forbids mmap"):
            judge(program, answers(PRCTL, ERRNO))("mmap", (0, 4096), 0x1000)


def test_going_home_must_be_allowed() -> None:
    with pytest.raises(Unsupported, match="rt_sigreturn"):
        judge(answers(SIGRETURN, ERRNO))("rt_sigreturn", (), 0)


def thread(**fields: Any) -> Any:
    return m.thread_core_entry(futex_rla=0, futex_rla_len=0, **fields)


def test_image_shares_what_is_shared() -> None:
    a, b, c = (answers(n, ERRNO) for n in (1, 2, 3))
    filters = seccomp.Filters()
    chains = [((a, 0), (b, 2)), ((a, 0), (c, 0)), ((a, 0),), ((b, 2), (a, 0)), ((a, 0), (b, 2))]
    threads = [thread() for _ in chains]
    for one, chain in zip(threads, chains, strict=True):
        filters.put(one, seccomp.Seccomp(seccomp.FILTER, chain))
    assert len(filters.entries) == 6
    assert filters.entries[threads[0].seccomp_filter].filter == a, "CRIU installs first what the task names"
    image = filters.image()
    assert image.IsInitialized()
    for one, chain in zip(threads, chains, strict=True):
        assert seccomp.read(one, image.seccomp_filters, "x") == seccomp.Seccomp(seccomp.FILTER, chain)
    quiet = thread()
    filters.put(quiet, seccomp.Seccomp(seccomp.DISABLED, ()))
    assert not quiet.HasField("seccomp_mode")
    assert seccomp.read(quiet, [], "x") == seccomp.Seccomp(seccomp.DISABLED, ())
    assert seccomp.common(chains[:2]) == ((a, 0),)
    assert seccomp.common([chains[0]]) == chains[0]


def test_images_that_lie() -> None:
    good = answers(1, ERRNO)
    lies = (
        (5, [m.seccomp_filter(filter=good)]),
        (0, [m.seccomp_filter(filter=good, prev=0)]),
        (0, [m.seccomp_filter(filter=good, prev=1), m.seccomp_filter(filter=good)]),
        (0, [m.seccomp_filter(filter=b"123")]),
        (9, [m.seccomp_filter(filter=answers(1, ERRNO) * 1000, **({"prev": i - 1} if i else {})) for i in range(10)]),
    )
    for index, entries in lies:
        with pytest.raises(ImageError):
            seccomp.read(thread(seccomp_mode=2, seccomp_filter=index), entries, "x")
