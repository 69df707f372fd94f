# SPDX-License-Identifier: GPL-2.0-only
"""crit check on recorded images: nothing is found in good ones, every fault in those into which it is planted."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from pycriu.crit.source import open_source
from pycriu.images import messages as m
from tests.faults import PAGE, found, plant_all
from tests.images import framed, least

SAMPLES = Path(__file__).parent / "samples" / "criu"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sleep that CRIU has dumped; its pages, which are not recorded, are zeros."""
    folder = tmp_path_factory.mktemp("checks") / "good"
    shutil.copytree(SAMPLES, folder, ignore=shutil.ignore_patterns("README"))
    (folder / "pages-1.img").write_bytes(bytes(26 * PAGE))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "spoilt"))


def test_nothing_is_found_in_images_of_criu(good: Path, tmp_path: Path) -> None:
    assert found(good) == []
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(good, "checkpoint")
    assert found(tmp_path / "x.tar.gz") == []


def test_every_fault_that_is_planted_is_found(good: Path, folder: Path) -> None:
    planted, missed = plant_all(good, folder)
    assert missed == []
    assert planted > 200


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: no fault found\n"
    (folder / "fs-27273.img").write_bytes(framed("fs-1.img", [m.fs_entry(cwd_id=1, root_id=999, umask=0)]))
    assert cli.main(["check", str(folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "fs-27273.img: entry 0: root_id: 999 is the id of no file" in said
    assert said[-1].startswith(f"{folder}: ")
    assert cli.main(["check", "--json", str(folder)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {"file": "fs-27273.img", "entry": 0, "field": "root_id", "text": "999 is the id of no file"} in told
    assert cli.main(["check", str(folder / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def entries_of(folder: Path, name: str) -> list[Any]:
    with open_source(str(folder)) as images:
        return images.read(name)


def change(folder: Path, name: str, edit: Callable[[list[Any]], None]) -> None:
    entries = entries_of(folder, name)
    edit(entries)
    (folder / name).write_bytes(framed(name, entries))


def test_families_that_cannot_be(folder: Path) -> None:
    def three(entries: list[Any]) -> None:
        entries.append(m.pstree_entry(pid=2, ppid=3, pgid=27273, sid=5, threads=[2]))
        entries.append(m.pstree_entry(pid=3, ppid=2, pgid=4, sid=3, threads=[3, 2]))

    change(folder, "pstree.img", three)
    text = found(folder)
    for words in (
        "pstree.img: entry 1: ppid: process 2 descends from itself",
        "pstree.img: entry 2: threads: thread 2 is there twice",
        "pstree.img: entry 1: sid: group 27273 is of session 27273 and of session 5",
        "pstree.img: entry 2: pgid: process 3 leads a session, but is of group 4",
        "core-2.img: is missing: process 2 is in pstree.img",
    ):
        assert words in text, text


def test_orphans_are_found(folder: Path) -> None:
    for old, new in (
        ("core-27273.img", "core-5.img"), ("fdinfo-2.img", "fdinfo-77.img"), ("mm-27273.img", "mm-5.img"),
        ("pagemap-27273.img", "pagemap-shmem-9.img"), ("ids-27273.img", "ids-5.img"),
    ):  # fmt: skip
        shutil.copy(folder / old, folder / new)
    (folder / "pages-2.img").write_bytes(b"")
    stream = least("tcp_stream_entry", inq_len=0, outq_len=0)
    (folder / "tcp-stream-ab.img").write_bytes(framed("tcp-stream-ab.img", [stream]))
    (folder / "core-x.img").write_bytes((folder / "core-5.img").read_bytes())
    text = "\n".join(found(folder))
    for words in (
        "core-5.img: there is no task 5", "fdinfo-77.img: no process has the table 77",
        "mm-5.img: there is no process 5", "pagemap-shmem-9.img: nobody has the shared memory 9",
        "ids-5.img: there is no process 5", "pages-2.img: no page map names it",
        "core-x.img: has no number in its name", "tcp-stream-ab.img: no socket has the inode ab",
    ):  # fmt: skip
        assert words in text, text


def test_pages_in_parents(folder: Path) -> None:
    """Found in the parent, in its parent, nowhere; without a parent; with one that leads nowhere."""

    def in_parent(entries: list[Any]) -> None:
        entries[1].flags = 1

    child = Path(shutil.copytree(folder, folder.parent / "child"))
    change(child, "pagemap-27273.img", in_parent)
    pages = entries_of(child, "pagemap-27273.img")[1].compat_nr_pages
    (child / "pages-1.img").write_bytes(bytes((26 - pages) * PAGE))
    assert any("but there is none" in line for line in found(child))
    (child / "parent").symlink_to("../spoilt")
    assert found(child) == []
    change(folder, "pagemap-27273.img", in_parent)
    assert any("are in no parent" in line for line in found(child))
    (folder / "parent").symlink_to("../grand")
    assert any("leads to no directory" in line for line in found(child))
    grand = Path(shutil.copytree(SAMPLES, folder.parent / "grand"))
    assert found(child) == []
    change(grand, "pagemap-27273.img", lambda entries: entries.pop(1))
    assert any("are not in the parent" in line for line in found(child))


def test_a_pre_dump_has_no_processes(folder: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith(("inventory", "pagemap", "pages")):
            path.unlink()
    assert found(folder) == []
    (folder / "pages-1.img").write_bytes(bytes(25 * PAGE))
    assert any("bytes of pages in it" in line for line in found(folder))


# What the sleep has not: image → entries with nothing wrong, entries with something, and the words for it.
NAMESPACE = 1  # the number of those that the sleep is in


def mount(number: int, parent: int, **more: Any) -> Any:
    return least("mnt_entry", mnt_id=number, parent_mnt_id=parent, mountpoint="/", **more)


def device(name: str, index: int) -> Any:
    return least("net_device_entry", name=name, ifindex=index)


def segment(number: int, **more: Any) -> Any:
    return least("ipc_shm_entry", desc=least("ipc_desc_entry", id=number), size=0, **more)


CASES: list[tuple[str, list[Any], list[Any], str]] = [
    ("mountpoints", [mount(1, 9), mount(2, 1)], [mount(1, 9), mount(2, 8)], "2 mounts have no parent"),
    ("mountpoints", [], [mount(1, 9), mount(1, 1)], "mount 1 is there twice"),
    ("netdev", [device("lo", 1), device("eth0", 2)], [device("lo", 1), device("lo", 2)], "lo is there twice"),
    ("netdev", [], [device("lo", 1), device("x", 1)], "1 is there twice"),
    ("utsns", [m.utsns_entry(nodename="n", domainname="d")], [m.utsns_entry(nodename="n" * 65, domainname="")], "64"),
    ("userns", [m.userns_entry(uid_map=[m.uid_gid_extent(first=0, lower_first=5, count=1)])],
     [m.userns_entry(gid_map=[m.uid_gid_extent(first=0, lower_first=5, count=0)])], "no range of ids"),
    ("ipcns-shm", [segment(3)], [segment(3), segment(3)], "3 is there twice"),
    ("ipcns-shm", [], [segment(3, in_pagemaps=True)], "the pages of segment 3"),
]  # fmt: skip
SPACES = {"mountpoints": "mnt", "netdev": "net", "utsns": "uts", "userns": "user", "ipcns-shm": "ipc"}


@pytest.mark.parametrize(("stem", "right", "wrong", "words"), CASES)
def test_namespaces(folder: Path, stem: str, right: list[Any], wrong: list[Any], words: str) -> None:
    number = getattr(entries_of(folder, "ids-27273.img")[0], f"{SPACES[stem]}_ns_id")
    name = f"{stem}-{number}.img"
    if stem == "mountpoints":  # files tell of their mounts
        change(folder, "files.img", lambda entries: [entry.reg.ClearField("mnt_id") for entry in entries] and None)
    if right:
        (folder / name).write_bytes(framed(name, right))
        assert found(folder) == []
    (folder / name).write_bytes(framed(name, wrong))
    assert words in "\n".join(found(folder))
    (folder / name).rename(folder / f"{stem}-4711.img")
    assert "nobody is in the" in "\n".join(found(folder))


def test_images_of_one_namespace_come_together(folder: Path) -> None:
    number = entries_of(folder, "ids-27273.img")[0].ipc_ns_id
    name = f"ipcns-var-{number}.img"
    (folder / name).write_bytes(framed(name, [least("ipc_var_entry")]))
    text = "\n".join(found(folder))
    assert f"ipcns-sem-{number}.img: is missing: {name} is there" in text


def test_control_groups(folder: Path) -> None:
    sets = {core.tc.cg_set for core in entries_of(folder, "core-27273.img")} - {0}
    sets |= {entry.root_cg_set for entry in entries_of(folder, "inventory.img")} - {0}
    good = m.cgroup_entry(sets=[m.cg_set_entry(id=number) for number in [*sets, 99]])
    (folder / "cgroup.img").write_bytes(framed("cgroup.img", [good]))
    assert found(folder) == []
    (folder / "cgroup.img").write_bytes(framed("cgroup.img", [m.cgroup_entry(sets=[m.cg_set_entry(id=99)] * 2)]))
    text = "\n".join(found(folder))
    assert "set 99 is there twice" in text
    assert not sets or "cgroup.img has no set" in text


def spoilt(data: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, lost or added."""
    found = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at, some = dice.randrange(len(found) + 1), dice.randbytes(dice.randrange(1, 5))
        what = dice.random()
        found[at : at + (0 if what < 0.2 else len(some))] = b"" if what > 0.8 else some
    return bytes(found)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_an_image_holds_is_an_answer_or_an_error(
    good: Path, folder: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of `check`, of every view, and of decode and encode, which give the same bytes back if they give any."""
    dice = random.Random(seed)
    names = sorted(path.name for path in good.iterdir() if path.name.endswith(".img") and "pages" not in path.name)
    for name in dice.sample(names, 8):
        data = spoilt((good / name).read_bytes(), dice)
        (folder / name).write_bytes(data)
        assert cli.main(["check", str(folder)]) in (0, 1)
        for what in ("ps", "tree", "fds", "mems", "rss", "sockets", "timers", "signals"):
            assert cli.main(["x", str(folder), what]) in (0, 1)
        text, back = folder.parent / "text", folder.parent / "back"
        if cli.main(["decode", "-i", str(folder / name), "-o", str(text)]) == 0:
            assert cli.main(["encode", "-i", str(text), "-o", str(back)]) == 0
            assert back.read_bytes() == data
        shutil.copy2(good / name, folder / name)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("pycriu-track-27273.img", {}, []),
        ("pycriu-track-1.img", {}, ["there are no pages of process 1"]),
        ("pycriu-track-27273.img", {"pages": [1, 2]}, ["1 runs, 2 lengths, 16 bytes for 3 pages"]),
        ("pycriu-track-27273.img", {"token": b"x"}, ["1 bytes"]),
    ],
)
def test_what_was_noted_of_pages(folder: Path, name: str, changes: dict[str, Any], said: list[str]) -> None:
    good = {"token": bytes(16), "boot": bytes(16), "started": 1, "start": [4096], "pages": [2], "entries": bytes(16)}
    (folder / name).write_bytes(framed(name, [m.pycriu_track_entry(**(good | changes))]))
    findings = found(folder)
    assert len(findings) == len(said)
    assert all(one in finding for one, finding in zip(said, findings, strict=True))


def test_parents_that_lead_in_a_circle_are_a_fault_though_no_page_is_in_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    (folder / "parent").symlink_to("../other")
    assert found(folder) == []
    (other / "parent").symlink_to(folder)
    assert found(folder) == [f"parent: the parents lead in a circle, back to {folder}"]
    assert cli.main(["stats", str(folder)]) == 1
    assert capsys.readouterr().err == f"crit: {folder}: the parents lead in a circle, back to {folder}\n"
