# SPDX-License-Identifier: GPL-2.0-only
"""Where on a stack a frame can lie that nothing else uses."""

from __future__ import annotations

import pytest

from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.kernel.procfs import Mapping
from pycriu.tracing import home

START, END = 0x7FFF00000000, 0x7FFF00000000 + 33 * PAGE_SIZE
STACK = Mapping(f"{START:x}-{END:x} rw-p 00000000 00:00 0 [stack]")


def page(number: int) -> int:
    return START + number * PAGE_SIZE


@pytest.mark.parametrize(
    ("content", "mark", "free"),
    [
        ([], b"", True),
        ([(page(30), 3)], b"", True),
        ([(page(2), 31)], b"", True),
        ([(page(1), 32)], b"", False),
        ([(page(0), 33)], b"", False),
        ([(page(0), 1), (page(30), 3)], b"", False),
        ([(page(0), 1), (page(30), 3)], home.MARK, True),
        ([(page(0), 1), (page(1), 1)], home.MARK, False),
        ([(page(0), 2), (page(30), 3)], home.MARK, False),
        ([(page(-5), 5), (page(30), 9)], b"", True),
    ],
)
def test_far_end_of_a_stack(content: list[tuple[int, int]], mark: bytes, free: bool) -> None:
    def read(address: int, size: int) -> bytes:
        assert (address, size) == (page(1) - len(home.MARK), len(home.MARK))
        return mark.ljust(size, b"\0")

    assert home._far_end_is_free(STACK, 1, content, read) is free


def test_a_short_stack_has_no_far_end() -> None:
    short = Mapping(f"{START:x}-{page(1):x} rw-p 00000000 00:00 0 [stack]")
    assert not home._far_end_is_free(short, 1, [], lambda _address, _size: b"")
