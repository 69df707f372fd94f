# SPDX-License-Identifier: GPL-2.0-only
"""Records of the kernel's log, as kernels give them."""

from __future__ import annotations

import pytest

from pycriu.errors import ImageError
from pycriu.fds import kmsg


@pytest.mark.parametrize(
    ("record", "number"),
    [
        (b"6,339,5140900,-;NET: Registered protocol family 10\n", 339),
        (b"30,340,5690716,-;udevd[80]: starting version 181\n SUBSYSTEM=acpi\n", 340),
        (b"4,1,0,c,caller=T1;a, b; c\n", 1),
    ],
)
def test_numbers(record: bytes, number: int) -> None:
    assert kmsg.sequence(record) == number


@pytest.mark.parametrize("record", [b"", b"6", b"6,x,1,-;text"])
def test_records_without_a_number(record: bytes) -> None:
    with pytest.raises(ImageError):
        kmsg.sequence(record)
