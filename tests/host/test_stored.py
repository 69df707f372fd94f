# SPDX-License-Identifier: GPL-2.0-only
"""Checkpoints that lie about: `pycriu ls` and `pycriu gc`, and the directories that a dump makes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycriu.stored import collect, sets
from tests.host.conftest import Host, Subject, assert_sound

HOLD = "pause_for_dump()\nsay('ok')"


def said(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        host.command(*words), cwd=host.folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def listed(host: Host, *words: str) -> dict[str, dict[str, Any]]:
    found = json.loads(said(host, "ls", "--json", *words).stdout)["sets"]
    return {os.path.basename(one["path"]): one for one in found}


def verdicts(host: Host, *words: str) -> dict[str, bool]:
    """Whether each is removed, by name."""
    done = said(host, "gc", "--json", *words)
    assert done.returncode == 0, done.stderr
    return {os.path.basename(one["path"]): one["removed"] for one in json.loads(done.stdout)["sets"]}


@pytest.fixture
def shelf(host: Host) -> tuple[Subject, Path]:
    """A pre-dump, three dumps that build upon each other, and two that do not, the last the newest; all below one."""
    subject = host.python(HOLD)
    below = host.folder / "shelf"
    for number, (name, before) in enumerate(
        [("memory", ""), ("first", "memory"), ("second", "first"), ("third", ""), ("fourth", "")]
    ):
        folder = below / name
        folder.mkdir(parents=True)
        words = ["--prev-images-dir", f"../{before}"] if before else []
        if name == "memory":
            assert host.run("pre-dump", "-t", str(subject.pid), "-D", str(folder)).ok
        else:
            assert host.dump(subject, "-R", *words, images=folder).ok
        os.utime(folder / "inventory.img", (1_700_000_000 + number, 1_700_000_000 + number))
    return subject, below


def test_what_lies_there(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    found = listed(host, "shelf")
    assert {name: one["state"] for name, one in found.items()} == {
        "memory": "pre-dump", "first": "checkpoint", "second": "checkpoint", "third": "checkpoint",
        "fourth": "checkpoint",
    }  # fmt: skip
    assert found["second"]["parents"] == [str(below / "first"), str(below / "memory")]
    assert found["third"]["parents"] == []
    one = found["fourth"]
    assert (one["root"], one["name"], one["processes"], one["threads"]) == (
        subject.pid, subject.status("Name"), 1, 1,
    )  # fmt: skip
    assert one["made"] == 1_700_000_004
    assert one["size"] == sum(
        file.stat().st_blocks * 512 for file in (below / "fourth").iterdir() if not file.name.startswith("stats-")
    )
    table = said(host, "ls", "shelf")
    assert table.returncode == 0
    assert len(table.stdout.splitlines()) == 6
    (row,) = [line for line in table.stdout.splitlines() if "shelf/second" in line]
    assert str(subject.pid) in row
    assert row.endswith(f"shelf/second <- {below}/first, {below}/memory")
    subject.go()


def test_what_is_broken_is_said(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    (host.images / f"mm-{subject.pid}.img").unlink()
    done = said(host, "ls")
    assert done.returncode == 1
    assert "broken" in done.stdout
    assert f"mm-{subject.pid}.img" in done.stdout
    assert verdicts(host, "--keep", "1", ".") == {"images": False}
    assert said(host, "ls", "nowhere").returncode == 1
    subject.go()


def test_the_newest_stay_and_what_they_need(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    before = {path: path.read_bytes() for path in below.rglob("*.img")}
    plan = {"memory": False, "first": False, "second": False, "third": False, "fourth": False}
    assert verdicts(host, "--keep", "3", "shelf") == plan
    assert verdicts(host, "--keep", "9", "shelf") == plan
    plan |= {"third": True, "memory": True, "first": True, "second": True}
    assert verdicts(host, "--keep", "1", "--dry-run", "shelf") == plan
    assert {path: path.read_bytes() for path in below.rglob("*.img")} == before, "a dry run has removed something"
    assert verdicts(host, "--keep", "1", "--older-than", "100000d", "shelf") == dict.fromkeys(plan, False)
    os.utime(below / "second/inventory.img", (1_700_000_009, 1_700_000_009))  # now it is the newest
    assert verdicts(host, "--keep", "1", "--older-than", "1s", "shelf") == {
        "memory": False, "first": False, "second": False, "third": True, "fourth": True,
    }  # fmt: skip
    assert sorted(path.name for path in below.iterdir()) == ["first", "memory", "second"]
    assert {path: path.read_bytes() for path in below.rglob("*.img")}.items() <= before.items()
    assert_sound(below / "second")
    subject.go()


def test_directories_in_each_other(host: Host, shelf: tuple[Subject, Path]) -> None:
    """The newest of each stays; one that is named twice counts once."""
    subject, _ = shelf
    found = verdicts(host, "--keep", "1", "--dry-run", "shelf", "shelf/third", "shelf/../shelf")
    assert found == {"memory": True, "first": True, "second": True, "third": False, "fourth": False}
    found = verdicts(host, "--keep", "1", "--dry-run", "shelf/third", "shelf/second", "shelf")
    assert found == {"memory": False, "first": False, "second": False, "third": False, "fourth": False}
    subject.go()


def test_who_is_at_work_is_left_alone(host: Host, shelf: tuple[Subject, Path]) -> None:
    """A restore holds a lock that others can hold, too; a dump one for itself."""
    subject, below = shelf
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        fd = os.open(below / "second", os.O_RDONLY)
        fcntl.flock(fd, kind)
        assert verdicts(host, "--keep", "1", "--dry-run", "shelf") == {
            "memory": False, "first": False, "second": False, "third": True, "fourth": False,
        }  # fmt: skip
        os.close(fd)
    subject.go()


def test_a_dump_that_has_begun_keeps_what_it_builds_upon(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    (below / "fifth/.pycriu-new").mkdir(parents=True)
    (below / "fifth/.pycriu-new/parent").symlink_to("../first")
    found = verdicts(host, "--keep", "1", "--dry-run", "shelf")
    assert found == {
        "memory": False, "first": False, "second": True, "third": True, "fourth": False, "fifth": False,
    }  # fmt: skip
    subject.go()


@pytest.fixture
def apart(host: Host) -> tuple[Path, Path]:
    """An old checkpoint and a new one in one directory, and in another one that builds upon the old one."""
    subject = host.python(HOLD)
    old, new, child = (host.folder / name for name in ("shelf/old", "shelf/new", "elsewhere/child"))
    for folder, words in ((old, ()), (new, ()), (child, ("--prev-images-dir", "../../shelf/old"))):
        folder.mkdir(parents=True)
        assert host.dump(subject, "-R", *words, images=folder).ok
    os.utime(old / "inventory.img", (1_700_000_000, 1_700_000_000))
    return old, child


# As a user who may not look, or write, where the directories do not allow it.
HUMBLE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def gone(host: Host, *before: str) -> tuple[bool, str]:
    """Whether the old one of the two would be removed, and what is said of it."""
    done = subprocess.run(
        [*before, *host.command("gc", "--json", "--dry-run", "--keep", "1", "shelf")], cwd=host.folder,
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,) = [one for one in json.loads(done.stdout)["sets"] if one["path"].endswith("/old")]
    return one["removed"], one["why"]


def test_what_one_elsewhere_needs_stays(host: Host, apart: tuple[Path, Path]) -> None:
    old, child = apart
    assert gone(host) == (False, f"{child} builds upon it")
    renamed = child.rename(child.parent / "renamed")
    assert gone(host) == (False, f"{renamed} builds upon it")
    assert verdicts(host, "--keep", "1", "shelf") == {"old": False, "new": False}
    assert_sound(renamed)
    assert verdicts(host, "--keep", "1", "--dry-run", "shelf", "elsewhere")["old"] is False
    (renamed / "parent").unlink()
    assert gone(host) == (True, "")
    shutil.rmtree(renamed)
    assert gone(host) == (True, f"{child}, which built upon it, is not there any more")
    assert "which built upon it" in said(host, "gc", "--keep", "1", "shelf").stdout
    assert not old.exists()


def test_what_one_elsewhere_needs_over_others(host: Host, apart: tuple[Path, Path]) -> None:
    """A chain: that is the newest of its directory, and what is between them is in a third one."""
    subject = host.python(HOLD)
    _, child = apart
    last = host.folder / "third/last"
    last.mkdir(parents=True)
    assert host.dump(subject, "-R", "--prev-images-dir", "../../elsewhere/child", images=last).ok
    newer = host.folder / "elsewhere/newer"
    newer.mkdir()
    assert host.dump(subject, "-R", images=newer).ok
    os.utime(child / "inventory.img", (1_700_000_000, 1_700_000_000))
    found = verdicts(host, "--keep", "1", "shelf", "elsewhere")
    assert found == {"old": False, "new": False, "child": False, "newer": False}
    shutil.rmtree(last)
    assert verdicts(host, "--keep", "1", "shelf", "elsewhere") == {
        "old": True,
        "new": False,
        "child": True,
        "newer": False,
    }
    assert list((host.folder / "elsewhere").iterdir()) == [newer]


def test_one_that_may_not_be_looked_at_may_need_it(host: Host, apart: tuple[Path, Path]) -> None:
    _, child = apart
    child.parent.chmod(0)
    assert gone(host, *HUMBLE) == (False, f"{child}, which may build upon it, cannot be looked at")


def test_a_dump_that_fails_leaves_no_note(host: Host, apart: tuple[Path, Path]) -> None:
    old, _ = apart
    before = sorted(os.listdir(old))
    holds = host.python(f"held = open('/proc/{os.getpid()}/mem')\npause_for_dump()\nsay('ok')")
    assert not host.dump(holds, "--prev-images-dir", "../shelf/old").ok
    assert sorted(os.listdir(old)) == before
    assert holds.go() == ["ok"]


def test_a_set_that_cannot_be_told(host: Host, apart: tuple[Path, Path]) -> None:
    """Its directory may not be written to: that is said, and the dump is good."""
    old, _ = apart
    subject = host.python(HOLD)
    old.chmod(0o500)
    words = host.command(
        "dump", "-R", "-t", str(subject.pid), "-D", str(host.images), "--prev-images-dir", "../shelf/old"
    )
    done = subprocess.run([*HUMBLE, *words], cwd=host.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{old} cannot be told that {host.images} builds upon it (Permission denied)" in done.stderr
    assert_sound(host.images)


def test_what_cannot_be_removed(host: Host, shelf: tuple[Subject, Path]) -> None:
    """It stays, with all that it needs; the others go. The exit status says so."""
    subject, below = shelf
    (below / "second").chmod(0o500)
    words = host.command("gc", "--json", "--keep", "1", "shelf")
    done = subprocess.run([*HUMBLE, *words], cwd=host.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = {os.path.basename(one["path"]): one for one in json.loads(done.stdout)["sets"]}
    assert {name for name, one in told.items() if one["removed"]} == {"third"}
    assert {name for name, one in told.items() if one["failed"]} == {"second"}
    assert told["second"]["why"] == "it cannot be removed: Permission denied"
    assert told["first"]["why"] == told["memory"]["why"] == f"{below}/second builds upon it, and stays"
    assert_sound(below / "second")
    subject.go()


def test_killed_while_it_removes(host: Host, shelf: tuple[Subject, Path]) -> None:
    """By the kernel, at the first, second... that it removes: what is left is whole."""
    subject, below = shelf
    code = (
        "import os, signal, sys; from pycriu.cli import main; unlink, left = os.unlink, [int(sys.argv.pop(1))]\n"
        "def count(name, **more):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    unlink(name, **more)\n"
        "os.unlink = count\n"
        "main()"
    )
    for number in range(1, 200, 2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(number), "gc", "--keep", "1", "shelf"], cwd=host.folder,
            stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        for name, one in listed(host, "shelf").items():
            looks_whole = (below / name / "inventory.img").exists()
            assert one["state"] in ("checkpoint", "pre-dump") if looks_whole else one["state"] == "broken", (name, one)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert number > 1
    subject.go()


def test_what_lies_there_is_hostile(host: Host, shelf: tuple[Subject, Path]) -> None:
    """Entries of other kinds under names of images; links that lead nowhere, or back."""
    subject, below = shelf
    for name in ("pstree.img", "core-9.img", "inventory.img"):
        spoiled = below / f"spoiled-{name}"
        shutil.copytree(below / "third", spoiled)
        (spoiled / name).unlink(missing_ok=True)
        os.mkfifo(spoiled / name)
    with (below / "third/core-8.img").open("wb") as large:
        large.truncate(1 << 40)
    (below / "loop").symlink_to(".")
    (below / "fourth/.pycriu-child-1-2").mkdir()
    (below / "first/.pycriu-child-3-4").symlink_to("x")
    odd = below / os.fsdecode(b"new\nline\xff")
    shutil.copytree(below / "fourth", odd)
    found = listed(host, "shelf")
    assert {name for name, one in found.items() if one["state"] == "broken"} == {
        "spoiled-pstree.img", "spoiled-core-9.img", "spoiled-inventory.img", "third",
    }  # fmt: skip
    assert len(said(host, "ls", "shelf").stdout.splitlines()) == 1 + 9 + 4
    plan = verdicts(host, "--keep", "1", "shelf")
    assert {name for name, gone in plan.items() if not gone} == {
        "spoiled-pstree.img", "spoiled-core-9.img", "spoiled-inventory.img", "third", "fourth",
    }  # fmt: skip
    assert sorted(os.listdir(odd)) == [".pycriu-child-1-2"]
    subject.go()


def test_others_make_and_remove_meanwhile(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    loop = "i=$(((i + 1) % 7)); cp -a shelf/third shelf/c$i; rm -rf shelf/c$(((i + 3) % 7))"
    other = subprocess.Popen(
        ["sh", "-c", f"i=0; while [ ! -e stop ]; do {loop}; done"], cwd=host.folder, stderr=subprocess.DEVNULL
    )
    for _ in range(8):
        for words in (("ls", "shelf"), ("gc", "--keep", "2", "--dry-run", "shelf"), ("gc", "--keep", "4", "shelf")):
            done = said(host, *words)
            assert "bug of pycriu" not in done.stderr, done.stderr
            assert done.stdout
    (host.folder / "stop").touch()
    other.wait()
    assert_sound(below / "fourth")
    subject.go()


def test_more_of_them_than_descriptors(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    for number in range(40):
        shutil.copytree(below / "third", below / f"copy{number}")
    words = host.command("gc", "--json", "--keep", "1", "shelf")
    done = subprocess.run(
        ["prlimit", "--nofile=24:1024", *words], cwd=host.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sum(one["removed"] for one in json.loads(done.stdout)["sets"]) == 44
    subject.go()


def test_what_may_not_be_looked_at_is_said(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    (below / "second").chmod(0)
    (below / "first/pstree.img").chmod(0)
    done = subprocess.run(
        [*HUMBLE, *host.command("ls", "shelf")], cwd=host.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shelf/second: Permission denied" in done.stderr
    assert "shelf/first/pstree.img: Permission denied" in done.stdout
    subject.go()


def test_files_of_others_stay(host: Host, shelf: tuple[Subject, Path]) -> None:
    subject, below = shelf
    (below / "third/notes").write_text("mine")
    (below / "first/sub").mkdir()
    assert verdicts(host, "--keep", "1", "shelf")["third"]
    assert [path.name for path in (below / "third").iterdir()] == ["notes"]
    assert [path.name for path in (below / "first").iterdir()] == ["sub"]
    assert not (below / "second").exists()
    subject.go()


def test_links_are_not_followed(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    (host.folder / "shelf").mkdir()
    (host.folder / "shelf/link").symlink_to(host.images)
    assert listed(host, "shelf") == {}
    assert verdicts(host, "--keep", "1", "shelf") == {}
    subject.go()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("gc", "."), "--keep is missing"),
        (("gc", "--keep", "0", "."), "--keep 0: not a positive number"),
        (("gc", "--keep", "1"), "gc needs a directory"),
        (("gc", "--keep", "1", "--older-than", "soon", "."), "--older-than soon: not an age"),
        (("gc", "--keep", "1", "nowhere"), "nowhere: no such directory"),
    ],
)
def test_bad_requests(host: Host, words: tuple[str, ...], error: str) -> None:
    done = said(host, *words)
    assert done.returncode == 1
    assert error in done.stderr


def test_ages() -> None:
    assert [collect.age(text) for text in ("7", "7d", "90m", "12h", "2w", "30s")] == [
        604800, 604800, 5400, 43200, 1209600, 30,
    ]  # fmt: skip


def test_a_loop_of_parents_ends(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "parent").symlink_to(f"../{other}")
    assert sets.parents(str(tmp_path / "one")) == (str(tmp_path / "two"), str(tmp_path / "one"))


def test_a_dump_makes_its_directory(host: Host) -> None:
    """For its owner alone; and takes it away again if there is no dump."""
    subject = host.python(HOLD)
    fresh = host.folder / "fresh"
    before = os.umask(0)
    try:
        assert host.dump(subject, "-R", images=fresh).ok
    finally:
        os.umask(before)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in fresh.iterdir() if file.suffix == ".img"} == {0o600}
    refused = host.folder / "refused"
    outcome = host.run("dump", "-t", "999999999", "-D", str(refused))
    assert not outcome.ok
    assert not refused.exists()
    outcome = host.run("dump", "-t", str(subject.pid), "-D", str(refused), "--dry-run")
    assert outcome.ok
    assert not refused.exists()
    outcome = host.run("dump", "-t", str(subject.pid), "-D", str(refused / "deeper"))
    assert "no such directory" in outcome.log
    subject.go()
