# SPDX-License-Identifier: GPL-2.0-only
"""A directory holds one whole checkpoint or none, whatever happens; nothing hostile in it is followed or believed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pycriu.errors import ImageError, UserError
from pycriu.images import commit, messages, store

OLD, NEW = 111, 222  # the PID of the only process tells which checkpoint it is
PAGE = 4096

# Names that only one of the two has, so that a mixture would show.
ONLY_OLD, ONLY_NEW = "filelocks.img", "cgroup.img"


def write(directory: Path, pid: int, *, pages: int = 4) -> None:
    with store.NewCheckpoint(str(directory)) as new:
        fill(new, pid, pages)
        new.commit()


def fill(new: store.NewCheckpoint, pid: int, pages: int) -> None:
    new.write("pstree.img", [messages.pstree_entry(pid=pid, ppid=0, pgid=pid, sid=pid, threads=[pid])])
    new.write(f"pagemap-{pid}.img", [messages.pagemap_head(pages_id=1)])
    file = new.create_raw("pages-1.img")
    for _ in range(pages):
        file.write(pid.to_bytes(2, "little") * (PAGE // 2))
    if pid == OLD:
        lock = messages.file_lock_entry(flag=1, type=1, pid=1, fd=1, start=0, len=0)
        new.write(ONLY_OLD, [lock])
    else:
        new.write(ONLY_NEW, [messages.cgroup_entry()])
    new.write("inventory.img", [messages.inventory_entry(img_version=2, root_cg_set=pid)])


def found(directory: Path) -> int:
    """Which checkpoint the directory holds, after looking at all of it."""
    with store.ImagesDir(str(directory)) as images:
        pid: int = images.inventory().root_cg_set
        assert images.read_one("pstree.img").pid == pid  # type: ignore[attr-defined]
        with images.raw("pages-1.img") as pages:
            assert set(pages.read()) == set(pid.to_bytes(2, "little"))
        assert images.exists(f"pagemap-{pid}.img")
        assert images.names() == sorted(
            ["inventory.img", "pages-1.img", f"pagemap-{pid}.img", "pstree.img", ONLY_OLD if pid == OLD else ONLY_NEW]
        )
        return pid


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    assert found(tmp_path) == OLD
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_new_one_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text("a log is no image")
    (tmp_path / "parent").symlink_to("/nonexistent")
    write(tmp_path, OLD)
    write(tmp_path, NEW)
    assert found(tmp_path) == NEW
    assert (tmp_path / "dump.log").read_text() == "a log is no image"
    assert not (tmp_path / "parent").is_symlink()


def test_images_of_a_failed_dump_of_criu_go_too(tmp_path: Path) -> None:
    (tmp_path / "core-5.img").write_bytes(b"half")
    write(tmp_path, NEW)
    assert found(tmp_path) == NEW


def test_what_is_not_committed_leaves_no_trace(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ZeroDivisionError), store.NewCheckpoint(str(tmp_path)) as new:
        fill(new, NEW, 4)
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == before
    assert found(tmp_path) == OLD


def test_no_commit_without_an_inventory(tmp_path: Path) -> None:
    with store.NewCheckpoint(str(tmp_path)) as new:
        new.write("pstree.img", [])
        with pytest.raises(ImageError, match=r"without inventory\.img"):
            new.commit()
    assert os.listdir(tmp_path) == []


# --- killed at every step ---

STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")


def killed_at(step: int, directory: Path) -> bool:
    """Write the new checkpoint in a child that is killed before its n-th step; whether it came that far."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        return status != 0
    left = step

    def count(event: str, _arguments: object) -> None:
        nonlocal left
        if event not in STEPS:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        sys.addaudithook(count)
        write(directory, NEW)
        status = 0
    except BaseException:  # the test's own process must not run on in the child
        traceback.print_exc()
    os._exit(status)


@pytest.mark.parametrize("old", [False, True], ids=["first checkpoint", "second checkpoint"])
def test_killed_at_every_step(tmp_path: Path, *, old: bool) -> None:
    outcomes = []
    for step in range(1, 200):
        directory = tmp_path / str(step)
        directory.mkdir()
        if old:
            write(directory, OLD)
        if not killed_at(step, directory):
            break
        seen_by_criu = (directory / "inventory.img").exists()
        try:
            outcomes.append(found(directory))
        except ImageError as error:
            assert not old
            assert "no whole checkpoint here" in error.message
            outcomes.append(0)
        else:
            assert found(directory) == outcomes[-1]
            assert (directory / "inventory.img").exists() or not seen_by_criu
        write(directory, OLD)  # whatever was left is no obstacle
        assert found(directory) == OLD
        assert not [name for name in os.listdir(directory) if name.startswith(".")]
    before = OLD if old else 0
    assert set(outcomes) == {before, NEW}
    assert outcomes == sorted(outcomes)  # once it is the new one it stays the new one
    assert len(outcomes) > 12


@pytest.fixture
def between(tmp_path: Path) -> Callable[[str], Path]:
    """A directory that a dump was killed in, in a state of the table."""
    directory, other = tmp_path / "images", tmp_path / "other"
    for path, pid in ((directory, OLD), (other, NEW)):
        path.mkdir()
        write(path, pid)
    steps: dict[str, Callable[[], object]] = {
        "S2": partial(other.rename, directory / commit.NEW),
        "S3": partial((directory / commit.NEW).rename, directory / commit.WHOLE),
        "S4": partial((directory / "inventory.img").unlink),
        "S5": partial(become_s5, directory),
        "S6": partial(become_s6, directory),
    }

    def make(state: str) -> Path:
        for name, step in steps.items():
            if name <= state:
                step()
        return directory

    return make


def become_s5(directory: Path) -> None:
    for path in directory.glob("*.img"):
        path.unlink()
    (directory / commit.WHOLE).rename(directory / commit.MOVING)


def become_s6(directory: Path) -> None:
    for path in (directory / commit.MOVING).iterdir():
        if path.name != "inventory.img":
            path.rename(directory / path.name)


STATES = [("S2", OLD), ("S3", NEW), ("S4", NEW), ("S5", NEW), ("S6", NEW)]


@pytest.mark.parametrize(("state", "pid"), STATES)
def test_who_opens_the_directory_finishes(between: Callable[[str], Path], state: str, pid: int) -> None:
    directory = between(state)
    assert found(directory) == pid
    assert state == "S2" or not [name for name in os.listdir(directory) if name.startswith(".")]


@pytest.mark.parametrize(("state", "pid"), STATES)
def test_who_may_not_write_reads_in_place(between: Callable[[str], Path], state: str, pid: int) -> None:
    directory = between(state)
    with mounted("--bind", str(directory), directory):
        done = subprocess.run(
            ["mount", "-o", "remount,bind,ro", str(directory)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot make a read-only mount here: {done.stderr.strip()}")
        before = sorted(os.listdir(directory))
        assert found(directory) == pid
        with pytest.raises(UserError, match="Read-only file system"):
            write(directory, NEW)
        assert sorted(os.listdir(directory)) == before


# --- no room ---


class mounted:  # noqa: N801 - reads as a word
    """A mount for the length of a block; skips the test where mounting is not allowed."""

    def __init__(self, *arguments: str | Path) -> None:
        self._arguments = [str(argument) for argument in arguments]

    def __enter__(self) -> None:
        done = subprocess.run(["mount", *self._arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self._arguments[-1]], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB with the old checkpoint."""
    with mounted("-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path):
        write(tmp_path, OLD)
        yield tmp_path


def test_too_large_is_refused_beforehand(small: Path) -> None:
    with store.NewCheckpoint(str(small)) as new, pytest.raises(UserError, match="needs about 101 MiB, 1 MiB are free"):
        new.reserve(100 << 20)
    assert found(small) == OLD


def test_a_full_disk_costs_only_the_new_one(small: Path) -> None:
    with store.NewCheckpoint(str(small)) as new:
        with pytest.raises(OSError, match="No space left") as caught:
            fill(new, NEW, 100)
        refusal = store.refusal(caught.value, "pages-1.img")
        assert isinstance(refusal, UserError)
        assert "make room" in str(refusal.hint)
    assert found(small) == OLD
    assert commit.NEW not in os.listdir(small)


def test_a_disk_that_fills_up_while_messages_are_written(small: Path) -> None:
    with store.NewCheckpoint(str(small)) as new:
        entry = messages.pstree_entry(pid=1, ppid=0, pgid=1, sid=1, threads=range(200_000))
        with pytest.raises(UserError, match=r"pstree\.img: No space left on device"):
            new.write("pstree.img", [entry])
    assert found(small) == OLD


# --- more than one at work, and hostile directories ---


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with store.NewCheckpoint(str(tmp_path)):
        with pytest.raises(UserError, match="another dump or restore is at work"), store.NewCheckpoint(str(tmp_path)):
            pass
        with pytest.raises(UserError, match="another dump or restore is at work"):
            store.ImagesDir(str(tmp_path))
    first, second = store.ImagesDir(str(tmp_path)), store.ImagesDir(str(tmp_path))
    with first, second, pytest.raises(UserError, match="is at work"), store.NewCheckpoint(str(tmp_path)):
        pass
    assert found(tmp_path) == OLD


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    write(tmp_path, OLD)
    assert found(tmp_path) == OLD
    (tmp_path / "inventory.img").write_bytes(b"")
    with store.ImagesDir(str(tmp_path)) as images, pytest.raises(ImageError):
        images.inventory()
    with store.NewCheckpoint(str(tmp_path)) as new:
        new.create_raw("pages-1.img")
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    for opened in (store.NewCheckpoint, store.ImagesDir):
        with pytest.raises(UserError), opened(str(tmp_path)):  # type: ignore[attr-defined]
            pass
    os.close(held)
    assert os.listdir("/proc/self/fd") == before


def test_no_directory(tmp_path: Path) -> None:
    for opened in (store.ImagesDir, store.NewCheckpoint):
        with pytest.raises(UserError, match="No such file or directory"):
            opened(str(tmp_path / "none"))
        with pytest.raises(UserError, match="Not a directory"):
            opened(__file__)


def test_a_directory_without_a_checkpoint(tmp_path: Path) -> None:
    with store.ImagesDir(str(tmp_path)) as images:
        assert images.names() == []
        with pytest.raises(ImageError, match=r"inventory\.img is missing"):
            images.inventory()
        with pytest.raises(ImageError, match=r"core-1\.img: No such file"):
            images.read("core-1.img")


@pytest.mark.parametrize("version", [0, 3, 0xFFFFFFFF])
def test_an_inventory_from_the_future(tmp_path: Path, version: int) -> None:
    with store.NewCheckpoint(str(tmp_path)) as new:
        new.write("inventory.img", [messages.inventory_entry(img_version=version)])
        new.write("pstree.img", [])  # without, 0 is that of a pre-dump
        new.commit()
    with (
        store.ImagesDir(str(tmp_path)) as images,
        pytest.raises(ImageError, match=f"img_version {version} is not known"),
    ):
        images.inventory()


def test_links_and_fifos_are_not_followed(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "core-1.img")
    os.mkfifo(tmp_path / "core-2.img")
    os.mkdir(tmp_path / "core-3.img")
    os.symlink("/dev/zero", tmp_path / "pages-1.img")
    with store.ImagesDir(str(tmp_path)) as images:
        for name in ("core-1.img", "pages-1.img"):
            with pytest.raises(ImageError, match="Too many levels of symbolic links"):
                images.raw(name)
        for name in ("core-2.img", "core-3.img"):
            with pytest.raises(ImageError, match="not a regular file"):
                images.read(name)
        for name in ("../core-1.img", "core-1.img/../../etc/passwd", "passwd"):
            with pytest.raises(ImageError, match="no image has this name"):
                images.raw(name)


def test_a_link_in_the_place_of_our_own_directories_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    directory = tmp_path / "images"
    directory.mkdir()
    for name in (commit.NEW, commit.MOVING, commit.WHOLE):
        (directory / name).symlink_to(elsewhere)
        for opened in (store.NewCheckpoint, store.ImagesDir):
            if opened is store.ImagesDir and name == commit.NEW:
                continue  # readers do not look there
            with pytest.raises((UserError, ImageError), match="not a directory"), opened(str(directory)):
                pass
        (directory / name).unlink()
    assert os.listdir(elsewhere) == ["precious"]


def test_strange_files_in_a_commit_are_refused(tmp_path: Path) -> None:
    (tmp_path / commit.MOVING).mkdir()
    (tmp_path / commit.MOVING / "authorized_keys").write_text("x")
    with pytest.raises(ImageError, match="no image has this name"):
        store.ImagesDir(str(tmp_path))


def test_an_image_of_messages_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "core-1.img").open("wb") as file:
        file.truncate(store.MAX_IMAGE + 1)
    with store.ImagesDir(str(tmp_path)) as images, pytest.raises(ImageError, match="at most"):
        images.read("core-1.img")


def test_bytes_and_messages_are_not_confused(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with store.ImagesDir(str(tmp_path)) as images:
        with pytest.raises(ImageError, match="holds bytes, not messages"):
            images.read("pages-1.img")
        with pytest.raises(ImageError, match="0 entries where one is expected"):
            (tmp_path / "pstree.img").write_bytes((tmp_path / "pstree.img").read_bytes()[:8])
            images.read_one("pstree.img")
    with store.NewCheckpoint(str(tmp_path)) as new, pytest.raises(ImageError, match="holds messages, not bytes"):
        new.create_raw("core-1.img")


def test_service_images_lie_in_the_work_directory(tmp_path: Path) -> None:
    statistics = messages.stats_entry(restore=messages.restore_stats_entry(
        pages_compared=0, pages_skipped_cow=0, forking_time=5, restore_time=9
    ))  # fmt: skip
    store.write_service(str(tmp_path), "stats-restore", statistics)
    assert os.listdir(tmp_path) == ["stats-restore"]
    with store.ImagesDir(str(tmp_path)) as images:
        assert images.read_one("stats-restore") == statistics
    with pytest.raises(UserError, match="No such file"):
        store.write_service(str(tmp_path / "none"), "stats-restore", statistics)


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    """It is told, what lies outside is undone, and the next dump begins anew."""
    undone: list[str] = []
    with pytest.raises(UserError, match="no room"), store.NewCheckpoint(str(tmp_path)) as new:
        fill(new, OLD, 1)
        new.unless_committed(undone.append, "outside")
        (tmp_path / commit.NEW / "strange").mkdir()
        raise UserError("no room")
    assert undone == ["outside"]
    (tmp_path / commit.NEW / "strange").rmdir()
    write(tmp_path, NEW)
    assert found(tmp_path) == NEW
