# SPDX-License-Identifier: GPL-2.0-only
"""The image of facts: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest

from pycriu.errors import ImageError
from pycriu.images import catalogue, facts

SHAPES = {"affinity": facts.Shape(1, 3), "slack": facts.Shape(1, 1)}


def test_round_trip() -> None:
    said: facts.Facts = {12: {"affinity": (0, 7), "slack": (1 << 63,)}, 13: {"slack": (-5,)}, 14: {}}
    data = facts.encode(said)
    assert data == b"affinity 12 0 7\nslack 12 9223372036854775808\nslack 13 -5\n"
    assert facts.decode(data, "x", SHAPES) == {12: said[12], 13: said[13]}
    assert facts.encode({}) == facts.encode({5: {}}) == b""
    assert facts.decode(b"", "x", SHAPES) == {}
    assert catalogue.lookup("pycriu-task-12.img") is not None


@pytest.mark.parametrize(
    "data",
    [
        b"slack 12 5",
        b"slack 12\n",
        b"slack\n",
        b"\n",
        b"slack 12 5 6\n",
        b"affinity 12 1 2 3 4\n",
        b"colour 12 5\n",
        b"slack 12 5\nslack 12 5\n",
        b"slack 12 05\n",
        b"slack 12  5\n",
        b"slack 12 +5\n",
        b"slack 12 5_0\n",
        b"slack 12 --5\n",
        b"slack 12 -\n",
        b"slack 12 99999999999999999999\n",
        b"slack 12 " + b"9" * 5000 + b"\n",
        b"slack 12 0x5\n",
        "slack 12 ٣\n".encode(),
        b"slack 12 \xff\n",
        b"slack\t12 5\n",
    ],
)
def test_lies(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^p\.img"):
        facts.decode(data, "p.img", SHAPES)
