# SPDX-License-Identifier: GPL-2.0-only
"""What a checkpoint as a whole says of this machine."""

from __future__ import annotations

from pycriu.checkpoint import younger_boot


def test_a_machine_that_was_booted_after_the_dump_is_remarked_upon() -> None:
    assert younger_boot(5_000_000, 5_000_000) == []
    assert younger_boot(0, 5_000_000) == []
    (remark,) = younger_boot(90_500_000, 30_400_000)
    assert "CLOCK_MONOTONIC goes back by 60 s" in remark
