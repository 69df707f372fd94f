# SPDX-License-Identifier: GPL-2.0-only
"""The disk with real programs: every scenario has a row and a file, and what the image has is not packed."""

from __future__ import annotations

import re
from pathlib import Path

from tests import packed

TOP = Path(__file__).parent.parent.parent


def test_each_scenario_has_a_row_and_a_file() -> None:
    files = {path.stem for path in (TOP / "tests/programs").glob("*.py")} - {"program"}
    assert files == set(packed.SCENARIOS)


def test_what_the_image_has_is_what_its_recipe_puts_there() -> None:
    line = re.search(r"^for name in (.*); do$", (TOP / "recipes/libc/copy").read_text(), re.MULTILINE)
    assert line is not None
    assert set(line[1].split()) == packed.IN_IMAGE


def test_each_program_comes_in_a_package_or_is_built() -> None:
    programs = {name for names in packed.SCENARIOS.values() for name in names}
    assert programs <= {*packed.PACKAGES, *packed.BUILT}
