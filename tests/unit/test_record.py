# SPDX-License-Identifier: GPL-2.0-only
"""Records behave as frozen, slotted dataclasses do, without importing what those need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pycriu.record import record, replace


@record
class Point:
    """Has a docstring."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


def test_values() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert Point(1, 2) == Point(y=2, x=1) != Point(2, 1)
    assert len({Point(1, 2), Point(1, 2)}) == 1
    assert Point(1) != (1, 0)
    assert Point(3, 4).sum == 7
    assert replace(Point(1), y=9) == Point(1, 9)
    assert Point.__doc__ == "Has a docstring."
    match Point(5, 6):
        case Point(x, y):
            assert (x, y) == (5, 6)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((1,), {"_defaults": 1})]
)
def test_wrong_arguments(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*args, **kwargs)


def test_frozen() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del point.x
    assert not hasattr(point, "__dict__")


def test_nothing_heavy_is_imported() -> None:
    program = "import sys, pycriu.record, pycriu.options; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"dataclasses", "inspect", "re", "typing", "enum"} & set(done.stdout.split())
