# SPDX-License-Identifier: GPL-2.0-only
"""What must not be the same in two lives, randomness first of all."""

from __future__ import annotations

import random
import sys
from types import ModuleType

import pytest

from pycriu.hooks import fresh
from tests.unit.hooked import told


def test_reseeding_touches_what_is_imported_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(1)
    first = random.random()
    random.seed(1)
    assert "random" in fresh.reseed()[0]
    assert random.random() != first
    monkeypatch.setattr(fresh, "kept", set())
    fresh.keep("random")
    random.seed(1)
    assert "random" not in fresh.reseed()[0]
    assert random.random() == first
    with pytest.raises(ValueError, match="nothing: there are random, numpy"):
        fresh.keep("nothing")
    fresh.keep()
    assert fresh.reseed() == ([], [])


def test_uuid_forgets_time_and_machine() -> None:
    code = """
import uuid
uuid.uuid1(node=7, clock_seq=1)
uuid._last_timestamp, uuid._node = 1 << 60, 7
from pycriu.hooks import fresh
fresh.reseed()
print(uuid._last_timestamp, uuid._node)
"""
    assert told(code) == ["None None"]


def test_a_source_that_cannot_be_seeded_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the program's that has the name of one, or a generator that numpy does not seed."""
    monkeypatch.setitem(sys.modules, "random", ModuleType("random"))
    monkeypatch.setitem(sys.modules, "tempfile", ModuleType("tempfile"))
    done, errors = fresh.reseed()
    assert "random" not in done
    assert "tempfile" in done
    assert [name for name, _ in errors] == ["seeding random anew"]


def test_sources_that_are_not_imported_stay_so() -> None:
    code = "import sys, pycriu\nfrom pycriu.hooks import fresh\npycriu.listen()\nprint(fresh.reseed()[0])"
    (line,) = told(code)
    assert "numpy" not in line
    assert "uuid" not in line
