# SPDX-License-Identifier: GPL-2.0-only
"""The cache: names appear whole, writers take turns, unchanged files are left alone."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from layer import cache
from layer.cache import Cache


def test_the_root_is_the_named_one_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYER_CACHE", "/some/where")
    assert cache.default().root == Path("/some/where")
    monkeypatch.delenv("LAYER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/u/.cache")
    assert cache.default().root == Path("/home/u/.cache/pycriu-layer")


def test_writing_what_is_there_already_does_not_touch_the_file(tmp_path: Path) -> None:
    file = tmp_path / "deep/file"
    assert cache.write_if_changed(file, "text")
    os.utime(file, (1, 1))
    assert not cache.write_if_changed(file, "text")
    assert file.stat().st_mtime == 1
    assert cache.write_if_changed(file, "other")
    assert file.read_text() == "other"
    assert list(file.parent.iterdir()) == [file], "nothing is left beside it"


def test_whoever_settles_first_wins_and_the_other_is_removed(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        cache.settle(tmp_path / name, tmp_path / "outputs/final")
    assert (tmp_path / "outputs/final/who").read_text() == "first"
    assert not (tmp_path / "second").exists()


def test_a_failure_to_settle_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.settle(tmp_path / "never made", tmp_path / "final")


def test_read_only_trees_links_and_missing_things_can_be_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("")
    (tree / "link").symlink_to(tmp_path)
    (tree / "sub").chmod(0o555)
    cache.remove(tree)
    cache.remove(tree)
    assert not tree.exists() and tmp_path.exists()


def test_who_must_wait_is_told_so(tmp_path: Path) -> None:
    told: list[str] = []
    with Cache(tmp_path).turn("one", lambda: told.append("free")):
        assert told == []
        with (tmp_path / "locks/one.lock").open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    waiter = multiprocessing.Process(target=_hold_shortly, args=(tmp_path,))
    waiter.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with Cache(tmp_path).turn("one", lambda: told.append("waited")):
        assert told == ["waited"]
    waiter.join()


def _hold_shortly(root: Path) -> None:
    with Cache(root).turn("one"):
        (root / "held").touch()
        time.sleep(0.3)


def _append(root: Path, word: str) -> None:
    with Cache(root).turn("one"):
        for _ in range(3):
            with (root / "log").open("a") as log:
                log.write(word)
            time.sleep(0.02)


def test_two_processes_take_turns(tmp_path: Path) -> None:
    workers = [multiprocessing.Process(target=_append, args=(tmp_path, word)) for word in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() in {"aaabbb", "bbbaaa"}
