# SPDX-License-Identifier: GPL-2.0-only
"""Copying pages: how they are divided."""

from __future__ import annotations

import random

from pycriu.kernel.pagemap import PAGE_SIZE as P
from pycriu.pages import copying

A = 0x7F00_0000_0000


def test_batches_hold_every_byte_once_and_fit() -> None:
    rng = random.Random(2)
    runs, at = [], A
    for _ in range(3000):
        count = rng.choice((1, 1, 1, 2, 63, 64, 65, 200))
        runs.append((at, count))
        at += (count + rng.randrange(1, 5)) * P
    seen: list[tuple[int, int]] = []
    offset = 0
    for batch in copying.batches(runs):
        assert batch.offset == offset
        assert sum(length for _, length in batch.pieces) == batch.size <= copying.AT_ONCE
        assert 0 < len(batch.pieces) <= copying._IOV_MAX
        seen += batch.pieces
        offset += batch.size
    flat = [page for start, length in seen for page in range(start, start + length, P)]
    assert flat == [page for start, count in runs for page in range(start, start + count * P, P)]


def test_no_pages_are_no_batches() -> None:
    assert copying.batches([]) == []
