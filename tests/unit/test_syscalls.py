# SPDX-License-Identifier: GPL-2.0-only
"""The table of system call numbers, against the kernel's own headers where this machine has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pycriu.kernel import syscalls

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/x86_64-linux-gnu/include/asm/unistd_64.h"),
    "generic": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize("numbering", syscalls.NUMBERINGS)
def test_numbers_are_the_kernels(numbering: str) -> None:
    header = next((Path(name) for name in HEADERS[numbering] if Path(name).exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for the {numbering} numbering: apt-get install linux-libc-dev")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    compared = 0
    for name in syscalls.TABLE:
        if name in defined:
            assert syscalls.number(name, numbering) == int(defined[name]), name
            compared += 1
    assert compared > 50


def test_sorted_enough_to_be_unique() -> None:
    for column in range(2):
        numbers = [row[column] for row in syscalls.TABLE.values() if row[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_unknown_call() -> None:
    with pytest.raises(LookupError):
        syscalls.number("no_such_call", "generic")
