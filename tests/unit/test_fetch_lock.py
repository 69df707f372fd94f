# SPDX-License-Identifier: GPL-2.0-only
"""The lock of sources, its overlay, and the message about a file that is not what the lock says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from layer import recipes
from layer.cache import Cache
from layer.errors import BuildError, InputError
from layer.fetch import debian, lock, obtain
from layer.fetch.lock import Pin

ZLIB = Pin("1:1.3.dfsg-1", "debian trixie", {"z.dsc": "0" * 64, "z.orig.tar.gz": "1" * 64})


def test_a_lock_survives_being_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "sources.lock"
    assert lock.write(file, {"zlib": ZLIB})
    assert lock.read(file) == {"zlib": ZLIB}
    assert not lock.write(file, {"zlib": ZLIB}), "writing the same again changes nothing"


def test_a_lock_is_sorted_whatever_the_order() -> None:
    assert lock.render({"b": ZLIB, "a": ZLIB}) == lock.render({"a": ZLIB, "b": ZLIB})


@pytest.mark.parametrize("text", ["{", "[]", '{"zlib": {"version": "1"}}', '{"zlib": {"nonsense": 1}}'])
def test_a_malformed_lock_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(InputError, match=r"sources\.lock: malformed lock"):
        lock.parse(text, Path("sources.lock"))


@pytest.mark.parametrize(
    ("version", "origin", "upstream"),
    [
        ("1:1.3.dfsg+really1.3.1-1", "debian trixie", "1.3.dfsg+really1.3.1"),
        ("3.13.5-2+deb13u5", "debian trixie", "3.13.5"),
        ("6.12.107-1", "debian trixie", "6.12.107"),
        ("7.36.2", "pypi", "7.36.2"),
    ],
)
def test_the_upstream_version_has_no_epoch_and_no_revision(version: str, origin: str, upstream: str) -> None:
    assert Pin(version, origin, {}).upstream == upstream


def test_an_overlay_counts_only_while_it_stands_in_for_what_the_lock_says(tmp_path: Path) -> None:
    file, overlay = tmp_path / "lock", tmp_path / "overlay"
    stand_in = replace(ZLIB, version="1:1.3.dfsg-2", replaces=ZLIB.version)
    lock.write(file, {"zlib": ZLIB})
    lock.write(overlay, {"zlib": stand_in})
    assert lock.read_with_overlay(file, overlay)["zlib"] == stand_in
    moved = replace(ZLIB, version="1:1.4-1")
    lock.write(file, {"zlib": moved})
    assert lock.read_with_overlay(file, overlay)["zlib"] == moved


def test_a_recipe_that_was_never_locked_is_told_the_command() -> None:
    with pytest.raises(InputError, match="make lock RECIPE=new"):
        lock.pin_of("new", {}, Path("sources.lock"))


def test_the_right_content_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(b"content")
    lock.verify(file, hashlib.sha256(b"content").hexdigest(), name="a", origin="somewhere")


def test_a_mismatch_says_file_expected_got_origin_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(b"altered")
    with pytest.raises(BuildError) as caught:
        lock.verify(file, "0" * 64, name="zlib", origin="debian trixie")
    text = str(caught.value)
    for part in (
        "a.tar",
        "0" * 64,
        hashlib.sha256(b"altered").hexdigest(),
        "7 bytes",
        "debian trixie",
        str(file),
        "make lock RECIPE=zlib",
    ):
        assert part in text


def test_what_the_cache_holds_is_never_asked_of_an_archive(tmp_path: Path) -> None:
    """The suite does not exist: any question to apt would fail."""
    cache = Cache(tmp_path)
    content = b"source"
    pin = Pin("1-1", "debian nowhere", {"a.dsc": hashlib.sha256(content).hexdigest()})
    held = cache.download(pin.files["a.dsc"], "a.dsc")
    held.parent.mkdir(parents=True)
    held.write_bytes(content)
    recipe = recipes.parse(
        "name: a\nsummary: s\nlicence: MIT\nsteps: []\nsource: {debian: a, suite: nowhere}\n", Path("a.yaml")
    )
    assert obtain.obtain(recipe, pin, cache).files == {"a.dsc": held}


def test_a_version_in_no_archive_is_gone_not_merely_failed() -> None:
    assert issubclass(lock.GoneError, BuildError)
    assert debian.sort_versions({"1.10-1", "1.9-1", "1:0.1-1", "1.10~rc1-1"}) == (
        "1.9-1",
        "1.10~rc1-1",
        "1.10-1",
        "1:0.1-1",
    )
