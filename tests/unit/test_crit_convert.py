# SPDX-License-Identifier: GPL-2.0-only
"""Other versions of the format: there and back nothing is lost, and what cannot go there is refused by name."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from pycriu.images import catalogue, schema, store
from pycriu.images import messages as m
from tests.unit import checkpoints as c


def rich(images: dict[str, Any]) -> None:
    """Something of everything that lies elsewhere in old versions."""
    kinds = schema.enum("fd_types")
    epoll = m.eventpoll_file_entry(
        id=4, flags=0, fown=c.fown(), tfd=[m.eventpoll_tfd_entry(id=4, tfd=2, events=1, data=7)]
    )
    handle = m.fh_entry(bytes=8, type=1, handle=[1, 2])
    watch = m.inotify_wd_entry(id=5, i_ino=9, mask=1, ignored_mask=0, s_dev=1, wd=1, f_handle=handle)
    inotify = m.inotify_file_entry(id=5, flags=0, fown=c.fown(), wd=[watch])
    images["files.img"] += [
        m.file_entry(type=kinds["EVENTPOLL"], id=4, epfd=epoll),
        m.file_entry(type=kinds["INOTIFY"], id=5, ify=inotify),
    ]
    for pid in (c.FIRST, c.SECOND):
        tc = images[f"core-{pid}.img"][0].tc
        tc.sigactions.extend(m.sa_entry(sigaction=n, flags=0, restorer=0, mask=0) for n in range(62))
    images["pipes-data.img"] = [(m.pipe_data_entry(pipe_id=5, bytes=3, size=0), b"abc")]
    images["ghost-file-1.img"] = [(m.ghost_file_entry(uid=0, gid=0, mode=0o100600), b"deleted")]
    images["pycriu-files.img"] = []


def convert(images: Path, version: str, out: Path, *words: str) -> Path:
    assert cli.main(["convert", str(images), "-o", str(out), "--to", version, *words]) == 0
    return out


@pytest.mark.parametrize("version", ["1.0", "1.1", "3", "4"])
def test_there_and_back(tmp_path: Path, version: str) -> None:
    images = c.write(tmp_path, rich)
    there = convert(images, version, tmp_path / "there")
    back = convert(there, "4", tmp_path / "back")
    assert cli.main(["diff", str(images), str(back)]) == 0
    assert sorted(path.name for path in back.iterdir()) == sorted(path.name for path in images.iterdir())
    for path in back.iterdir():
        assert path.read_bytes() == (images / path.name).read_bytes(), path.name


def first_word(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:4], "little")


def test_version_1_0(tmp_path: Path) -> None:
    there = convert(c.write(tmp_path, rich), "1.0", tmp_path / "there")
    names = {path.name for path in there.iterdir()}
    assert {
        "reg-files.img",
        "inetsk.img",
        "unixsk.img",
        "eventpoll.img",
        "eventpoll-tfd.img",
        "inotify-wd.img",
    } <= names
    assert {"sigacts-100.img", "sigacts-102.img"} <= names
    assert "files.img" not in names
    for name in names:
        kind = store.kind_of(name)
        if kind.framing == catalogue.COMMON:
            assert first_word(there / name) == kind.magic, name
    with store.ImagesDir(str(there)) as images:
        assert images.inventory().img_version == 1
        epoll: Any = images.read_one("eventpoll.img")
        assert not epoll.tfd
        runs: Any = images.read(f"pagemap-{c.FIRST}.img")[1:]
        assert not any(run.HasField("flags") or run.HasField("nr_pages") for run in runs)
        core: Any = images.read_one(f"core-{c.FIRST}.img")
        assert not core.tc.sigactions
    assert (there / "ghost-file-1.img").read_bytes().endswith(b"deleted")


def test_version_1_1_has_the_common_magic(tmp_path: Path) -> None:
    there = convert(c.write(tmp_path, rich), "1.1", tmp_path / "there")
    assert first_word(there / "reg-files.img") == catalogue.IMG_COMMON_MAGIC
    assert first_word(there / "ghost-file-1.img") == catalogue.IMG_COMMON_MAGIC


def test_version_3_counts_pages_as_it_always_did(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        run = images[f"pagemap-{c.FIRST}.img"][1]
        run.compat_nr_pages = 0  # as CRIU 4.2 writes it, which CRIU 4.1 takes for no page at all

    there = convert(c.write(tmp_path, change), "3", tmp_path / "there")
    with store.ImagesDir(str(there)) as images:
        run: Any = images.read(f"pagemap-{c.FIRST}.img")[1]
        assert (run.compat_nr_pages, run.HasField("nr_pages"), run.flags) == (1, False, 4)
        assert images.exists("files.img")


def oldest(images: dict[str, Any]) -> None:
    """Everything of the first process that ever had a file of its own has one."""
    rich(images)
    for name in (f"core-{c.FIRST}.img", f"core-{c.THREAD}.img"):
        images[name][0].thread_core.ClearField("creds")
    tc = images[f"core-{c.FIRST}.img"][0].tc
    images[f"itimers-{c.FIRST}.img"] = [m.itimer_entry(isec=0, iusec=0, vsec=n, vusec=0) for n in (0, 0, 5)]
    images[f"rlimit-{c.FIRST}.img"] = [m.rlimit_entry(cur=n, max=n) for n in range(16)]
    images[f"creds-{c.FIRST}.img"] = [c.creds(77)]
    images[f"vmas-{c.FIRST}.img"] = list(images[f"mm-{c.FIRST}.img"][0].vmas)
    images[f"signal-s-{c.FIRST}.img"] = [m.siginfo_entry(siginfo=b"s" * 128)]
    images[f"signal-p-{c.THREAD}.img"] = [m.siginfo_entry(siginfo=b"p" * 128)]
    images["fdinfo-100.img"] = images.pop("fdinfo-1000.img")
    images["fdinfo-102.img"] = images.pop("fdinfo-3000.img")
    tc.ClearField("timers")
    tc.ClearField("rlimits")
    tc.old_seccomp_mode, tc.old_seccomp_filter = 2, 3
    images[f"mm-{c.FIRST}.img"] = [c.mm([])]


def test_everything_of_a_task_that_had_files_of_its_own(tmp_path: Path) -> None:
    """Images of the oldest kind become today's."""
    old = c.write(tmp_path, oldest)
    inventory = m.inventory_entry(img_version=2).SerializeToString()
    (old / "inventory.img").write_bytes(struct.pack("<II", 0x58313116, len(inventory)) + inventory)
    there = convert(old, "4", tmp_path / "there")
    with store.ImagesDir(str(there)) as images:
        core: Any = images.read_one(f"core-{c.FIRST}.img")
        thread: Any = images.read_one(f"core-{c.THREAD}.img")
        mm: Any = images.read_one(f"mm-{c.FIRST}.img")
        assert core.tc.timers.prof.vsec == 5
        assert len(core.tc.rlimits.rlimits) == 16
        assert core.thread_core.creds.uid == thread.thread_core.creds.uid == 77
        assert core.tc.signals_s.signals[0].siginfo == b"s" * 128
        assert thread.thread_core.signals_p.signals[0].siginfo == b"p" * 128
        assert (core.thread_core.seccomp_mode, core.thread_core.seccomp_filter) == (2, 3)
        assert len(mm.vmas) == 4
        assert images.exists("fdinfo-1000.img") and not images.exists("fdinfo-100.img")
        assert images.inventory().fdinfo_per_id
        leftovers = [name for name in images.names() if store.kind_of(name).old]
        assert leftovers == []


def pidfd(images: dict[str, Any]) -> None:
    entry = m.pidfd_entry(id=9, ino=1, nspid=1, flags=0, fown=c.fown())
    images["files.img"].append(m.file_entry(type=20, id=9, pidfd=entry))


def shadow_stack(images: dict[str, Any]) -> None:
    images[f"mm-{c.FIRST}.img"][0].vmas[1].status |= 1 << 15


def memfd(images: dict[str, Any]) -> None:
    entry = m.memfd_file_entry(id=9, flags=0, pos=0, fown=c.fown(), inode_id=1)
    images["files.img"].append(m.file_entry(type=18, id=9, memfd=entry))


def lazy(images: dict[str, Any]) -> None:
    images[f"pagemap-{c.FIRST}.img"][1].flags = 2
    images["pages-1.img"] = images["pages-1.img"][c.PAGE :]


def wide(images: dict[str, Any]) -> None:
    images[f"pagemap-{c.FIRST}.img"][1].flags = 1
    images[f"pagemap-{c.FIRST}.img"][1].nr_pages = 1 << 33


@pytest.mark.parametrize(
    ("change", "version", "sentence"),
    [
        (pidfd, "3", "version 3 cannot hold all of this checkpoint: a pidfd (files.img[3].pidfd)"),
        (shadow_stack, "3", "a shadow stack (mm-100.img[0].vmas.status)\n  the task could not go on without"),
        (memfd, "1.1", "file 9 is a MEMFD, which images before CRIU 3.0 have no place for"),
        (lazy, "1.0", "still where the task was (lazy), which images before CRIU 3.0 cannot say"),
        (wide, "3", "a run of 8589934592 pages at 0x101000; before CRIU 4.2 a run has 32 bits"),
    ],
)
def test_what_cannot_go_there_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], version: str, sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["convert", str(c.write(tmp_path, change)), "-o", str(tmp_path / "there"), "--to", version, "--lossy"]
    assert cli.main(words) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "there").exists() or not list((tmp_path / "there").iterdir())


def test_what_is_left_out_is_left_out_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"core-{c.FIRST}.img"][0].thread_core.creds.no_new_privs = 1
        images[f"core-{c.SECOND}.img"][0].thread_core.creds.no_new_privs = 0

    images = c.write(tmp_path, change)
    assert cli.main(["convert", str(images), "-o", str(tmp_path / "no"), "--to", "3"]) == 1
    said = capsys.readouterr().err
    assert "that a task may gain no privileges (core-100.img[0].thread_core.creds.no_new_privs)" in said
    assert "--lossy leaves that out" in said
    there = convert(images, "3", tmp_path / "there", "--lossy")
    assert "left out: that a task may gain no privileges" in capsys.readouterr().out
    with store.ImagesDir(str(there)) as found:
        core: Any = found.read_one(f"core-{c.FIRST}.img")
        assert not core.thread_core.creds.HasField("no_new_privs")


def test_damaged_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = c.write(tmp_path, rich)
    old = convert(images, "1.0", tmp_path / "old")
    (old / "eventpoll.img").unlink()
    assert cli.main(["convert", str(old), "-o", str(tmp_path / "a")]) == 1
    assert "an entry of file 4, which eventpoll.img does not have" in capsys.readouterr().err
    (images / f"core-{c.THREAD}.img").unlink()
    assert cli.main(["convert", str(images), "-o", str(tmp_path / "b")]) == 1
    assert f"core-{c.THREAD}.img is missing" in capsys.readouterr().err
    assert cli.main(["convert", str(images), "-o", str(images)]) == 1


def test_pages_of_before_there_were_pagemaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        del images[f"pagemap-{c.FIRST}.img"]
        images[f"pages-{c.FIRST}.img"] = b"old"

    assert cli.main(["convert", str(c.write(tmp_path, change)), "-o", str(tmp_path / "a")]) == 1
    assert "is from before there were pagemaps" in capsys.readouterr().err


def test_holes_stay_holes(tmp_path: Path) -> None:
    """Of a set that has given up pages, a hole says so, and a page of zeros does not."""
    images = c.write(tmp_path, lambda images: images.update({"pages-1.img": b""}))
    with open(images / "pages-1.img", "wb") as file:
        file.write(bytes(c.PAGE))
        file.truncate(3 * c.PAGE)
    there = convert(images, "3", tmp_path / "there") / "pages-1.img"
    with open(there, "rb") as file:
        assert os.fstat(file.fileno()).st_size == 3 * c.PAGE
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == c.PAGE


def test_threads_of_who_has_ended_mean_nothing(tmp_path: Path) -> None:
    """CRIU writes what is in its memory."""

    def change(images: dict[str, Any]) -> None:
        images["pstree.img"].append(
            m.pstree_entry(pid=107, ppid=c.FIRST, pgid=c.FIRST, sid=c.FIRST, threads=[2097948640])
        )
        images["core-107.img"] = [m.core_entry(mtype=1, tc=c.task("ended"))]
        images["core-107.img"][0].tc.task_state = 2

    there = convert(c.write(tmp_path, change), "1.0", tmp_path / "there")
    with store.ImagesDir(str(convert(there, "4", tmp_path / "back"))) as found:
        core: Any = found.read_one("core-107.img")
        assert core.tc.comm == "ended"


def test_cgroups_are_of_processes_before_version_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread that is where its process is loses nothing; one that is elsewhere is told."""

    def change(images: dict[str, Any]) -> None:
        for tid, cgroups in ((c.FIRST, 1), (c.SECOND, 2), (c.THREAD, 1)):
            images[f"core-{tid}.img"][0].thread_core.cg_set = cgroups

    def elsewhere(images: dict[str, Any]) -> None:
        change(images)
        images[f"core-{c.THREAD}.img"][0].thread_core.cg_set = 3

    there = convert(c.write(tmp_path, change), "3", tmp_path / "there")
    back = convert(there, "4", tmp_path / "back")
    for tid, cgroups in ((c.FIRST, 1), (c.SECOND, 2), (c.THREAD, 1)):
        with store.ImagesDir(str(there)) as old, store.ImagesDir(str(back)) as new:
            before: Any = old.read_one(f"core-{tid}.img")
            after: Any = new.read_one(f"core-{tid}.img")
        assert not before.thread_core.HasField("cg_set")
        assert before.HasField("tc") == (tid != c.THREAD)
        assert not before.HasField("tc") or before.tc.cg_set == cgroups
        assert after.thread_core.cg_set == cgroups
    (tmp_path / "other").mkdir()
    images = c.write(tmp_path / "other", elsewhere)
    assert cli.main(["convert", str(images), "-o", str(tmp_path / "no"), "--to", "3"]) == 1
    assert f"the cgroup of a thread (core-{c.THREAD}.img[0].thread_core.cg_set)" in capsys.readouterr().err


def test_what_lies_apart_says_whose_it_is(tmp_path: Path) -> None:
    """Inside the entry of an epoll file, CRIU leaves the number of the file zero."""

    def change(images: dict[str, Any]) -> None:
        target = m.eventpoll_tfd_entry(id=0, tfd=2, events=1, data=7)
        epoll = m.eventpoll_file_entry(id=4, flags=0, fown=c.fown(), tfd=[target])
        images["files.img"].append(m.file_entry(type=schema.enum("fd_types")["EVENTPOLL"], id=4, epfd=epoll))

    there = convert(c.write(tmp_path, change), "1.0", tmp_path / "there")
    with store.ImagesDir(str(there)) as found:
        target: Any = found.read_one("eventpoll-tfd.img")
        assert (target.id, target.tfd) == (4, 2)
    convert(there, "4", tmp_path / "back")
