# SPDX-License-Identifier: GPL-2.0-only
"""Sources from the real archives: verified, and replaced on the day that the archive drops a version.

Needs what a build needs: a Debian host and its archive.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layer import machine, recipes, sources
from layer.cache import Cache
from layer.cli.main import main
from layer.configuration import BuildFolder, Configuration
from layer.errors import BuildError
from layer.fetch import lock, obtain
from layer.plan import LOCK, Plan
from layer.recipes import TOP

NAME = "zlib"  # small


def plan_with(pin: lock.Pin, root: Path, *, strict: bool = False) -> Plan:
    closed = {recipe.name: recipe for recipe in recipes.closure([NAME])}
    chosen = Configuration("x86_64", NAME, (), (), (NAME,), (), strict_lock=strict, command=())
    folder = BuildFolder(root / "build")
    pins = {**lock.read(LOCK), NAME: pin}
    return Plan(folder, chosen, machine.load("x86_64"), closed, pins, Cache(root / "cache"), TOP)


@pytest.fixture
def dropped() -> lock.Pin:
    """A version that no archive carries."""
    return replace(lock.read(LOCK)[NAME], version="1:0.0-0", files={"zlib_0.0-0.dsc": "0" * 64})


def test_a_dropped_version_is_replaced_loudly_and_recorded(
    tmp_path: Path, dropped: lock.Pin, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_with(dropped, tmp_path)
    used = sources.fetch(plan, NAME).pin(NAME)
    assert used is not None and used.replaces == "1:0.0-0" and used.files
    told = capfd.readouterr().err
    for part in ("warning: zlib", "no longer carries the locked 1:0.0-0", used.version, "make lock RECIPE=zlib"):
        assert part in told
    assert lock.read(plan.folder.overlay)[NAME] == used
    assert set(obtain.obtain(plan.recipes[NAME], used, plan.cache).files) == set(used.files)


def test_an_sdist_that_the_index_no_longer_offers_is_replaced_too(tmp_path: Path) -> None:
    recipe = recipes.load("python-ptrace")
    pin = replace(lock.read(LOCK)[recipe.name], version="0.0", files={"python-ptrace-0.0.tar.gz": "0" * 64})
    with pytest.raises(lock.GoneError):
        obtain.obtain(recipe, pin, Cache(tmp_path))
    said: list[str] = []
    used = obtain.substitute(recipe, pin, Cache(tmp_path), said.append, strict=False)
    assert used.replaces == "0.0" and said
    assert set(obtain.obtain(recipe, used, Cache(tmp_path)).files) == set(used.files)


def test_a_strict_build_refuses_instead(tmp_path: Path, dropped: lock.Pin) -> None:
    with pytest.raises(BuildError, match=r"no longer carries the locked 1:0\.0-0; today it signs"):
        sources.fetch(plan_with(dropped, tmp_path, strict=True), NAME)
    assert not (tmp_path / "build/sources.overlay.lock").exists()


def test_a_file_that_is_not_the_locked_one_is_refused_and_kept_to_look_at(tmp_path: Path) -> None:
    recipe = recipes.load(NAME)
    true = obtain.today(recipe, Cache(tmp_path))
    forged = replace(true, files=dict.fromkeys(true.files, "0" * 64))
    with pytest.raises(BuildError, match="is not what the lock says") as caught:
        obtain.obtain(recipe, forged, Cache(tmp_path))
    kept = Path(str(caught.value).split("kept at  ")[1].splitlines()[0])
    assert kept.is_file()
    assert not (tmp_path / "downloads").exists()


def test_lock_writes_what_the_archive_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sources.lock"
    monkeypatch.setattr("layer.plan.LOCK", file)
    assert main(["lock", NAME]) == 0
    assert set(lock.read(file)) == {NAME}
    assert main(["lock", "zlb"]) == 2
