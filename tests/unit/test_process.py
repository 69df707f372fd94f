# SPDX-License-Identifier: GPL-2.0-only
"""How the layer runs other programs."""

from __future__ import annotations

import pytest

from layer import process


def test_what_programs_say_does_not_depend_on_the_users_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linker's version is a part of keys, and it has been translated."""
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    monkeypatch.setenv("LANGUAGE", "ru")
    assert process.output(["sh", "-c", "echo $LC_ALL"]) == "C\n"
