# SPDX-License-Identifier: GPL-2.0-only
"""Debian's packages for the tests: what an interrupted fetch has left is not used, and what is lacking is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import clients, debian


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place in a cache of the test's own, with a program; the archive cannot be reached."""
    monkeypatch.setenv("LAYER_CACHE", str(tmp_path))
    monkeypatch.setenv("LAYER_DEBIAN_ARCHIVE", "file:/nonexistent")
    for place in ("programs", "clients"):
        (tmp_path / place / "root/usr/bin").mkdir(parents=True)
        (tmp_path / place / "root/usr/lib/x/").mkdir(parents=True)
    (tmp_path / "clients/root/usr/lib/x/libcriu.so.2").touch()
    return tmp_path / "programs"


def test_half_of_the_packages_is_as_good_as_none(programs: Path) -> None:
    assert str(programs) not in debian.environment().get("PATH", "")
    with pytest.raises(clients.NotHadError):
        clients.find()
    with pytest.raises(debian.NotHadError):
        debian.fetch(programs, ("bookworm",), ("less",))


def test_what_is_there_is_not_fetched_again_but_with_what_is_new(programs: Path) -> None:
    (programs / debian.WHOLE).write_text("less\nvim-tiny\n")
    assert f"{programs}/root/usr/bin" in debian.environment()["PATH"]
    debian.fetch(programs, ("bookworm",), ("less",))
    with pytest.raises(debian.NotHadError, match="nginx"):
        debian.fetch(programs, ("bookworm",), ("less", "nginx"))
    assert not debian.fetched(programs)
