# SPDX-License-Identifier: GPL-2.0-only
"""`crit edit`: written whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pycriu.crit import cli
from pycriu.images import store
from tests.unit import checkpoints as c


@pytest.fixture
def drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where texts for the editor lie."""
    folder = tmp_path / "drafts"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def editor(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor: Python code that has the file's name in `path` and its text in `text`."""
    script = tmp_path / "editor.py"
    script.write_text(f"import sys\npath = sys.argv[-1]\ntext = open(path).read()\n{body}\n")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{sys.executable}' -IS {script} --wait")


def pid_of(images: Path) -> int:
    with store.ImagesDir(str(images)) as found:
        first: Any = found.read("pstree.img")[0]
        return int(first.pgid)


CHANGE = "open(path, 'w').write(text.replace('\"pgid\": 100', '\"pgid\": 555', 1))"


def test_a_change_is_written(
    tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = c.write(tmp_path)
    editor(tmp_path, CHANGE, monkeypatch)
    path = images / "pstree.img"
    path.chmod(0o640)
    assert cli.main(["edit", str(path)]) == 0
    assert "pstree.img: written" in capsys.readouterr().out
    assert pid_of(images) == 555
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not list(drafts.iterdir())
    assert not [name for name in os.listdir(images) if name.startswith(".")]


@pytest.mark.parametrize("body", ["", "open(path, 'w').write(text)", "open(path, 'w').write(text.replace('  ', ' '))"])
def test_no_change_writes_nothing(
    tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    images = c.write(tmp_path)
    editor(tmp_path, body, monkeypatch)
    before = os.stat(images / "pstree.img")
    assert cli.main(["edit", str(images / "pstree.img"), "--pretty"]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    after = os.stat(images / "pstree.img")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not list(drafts.iterdir())


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("open(path, 'w').write('{')", "not JSON"),
        ("open(path, 'w').write(text.replace('PSTREE', 'FDINFO'))", "no longer an image of the same kind"),
        ("open(path, 'w').write(text.replace('\"pid\"', '\"pit\"'))", "has no field 'pit'"),
        ("open(path, 'w').write(text.replace('\"pid\": 100,', ''))", "missing required fields"),
        ("open(path, 'w').write(text.replace('\"pid\": 100', '\"pid\": -1'))", "cannot be its value"),
        ("open(path, 'wb').write(b'\\xff')", "codec can't decode"),
        ("open(path, 'w').write('{'); sys.exit(3)", "ended with status 3"),
        ("import os; os.unlink(path)", "No such file"),
    ],
)
def test_what_is_no_image_is_not_written_and_not_lost(
    tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    body: str, sentence: str,
) -> None:  # fmt: skip
    images = c.write(tmp_path)
    editor(tmp_path, body, monkeypatch)
    before = (images / "pstree.img").read_bytes()
    assert cli.main(["edit", str(images / "pstree.img")]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert (images / "pstree.img").read_bytes() == before
    if "unlink" not in body:
        (draft,) = drafts.iterdir()
        assert f"your text is in {draft}" in said
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600


def test_somebody_else_at_work(
    tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = c.write(tmp_path)
    path = images / "pstree.img"
    editor(tmp_path, f"{CHANGE}\nopen({str(path)!r}, 'ab').write(b'')\nimport os; os.utime({str(path)!r})", monkeypatch)
    holder = os.open(images, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_SH)
    assert cli.main(["edit", str(path)]) == 1
    assert "another dump or restore is at work" in capsys.readouterr().err
    os.close(holder)
    other = (images / f"fs-{c.FIRST}.img").read_bytes()
    editor(tmp_path, f"{CHANGE}\nopen({str(path)!r}, 'wb').write({other!r})", monkeypatch)
    assert cli.main(["edit", str(path)]) == 1
    assert "somebody has written to it since" in capsys.readouterr().err
    assert path.read_bytes() == other
    assert len(list(drafts.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("pages-1.img", "holds bytes"), ("nothing.img", "No such file"), ("core-1.img", "No such file")],
)
def test_what_cannot_be_edited(
    tmp_path: Path, drafts: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    assert cli.main(["edit", str(c.write(tmp_path) / name), "-e", "false"]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(drafts.iterdir())


def test_editors_that_are_none(tmp_path: Path, drafts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(c.write(tmp_path) / "pstree.img")
    for words, sentence in (("/nowhere/editor", "No such file"), ("'unclosed", "is no command"), (" ", "no editor")):
        assert cli.main(["edit", image, "-e", words]) == 1
        assert sentence in capsys.readouterr().err


def test_on_a_terminal_one_may_try_again(tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt is no JSON, the second is: what was typed first is still there."""
    images = c.write(tmp_path)
    repaired = f"if text.startswith('broken'):\n    text = text[6:]\n    {CHANGE}"
    twice = f"{repaired}\nelse:\n    open(path, 'w').write('broken' + text)"
    editor(tmp_path, twice, monkeypatch)
    words = ["-m", "pycriu.crit", "edit", str(images / "pstree.img")]
    for answer, status, pgid in (("n", 1, 100), ("y", 0, 555)):
        with pexpect.spawn(sys.executable, words, encoding="utf-8", timeout=30) as terminal:
            terminal.expect("not JSON.*Edit again")
            terminal.sendline(answer)
            terminal.expect(pexpect.EOF)
            terminal.close()
            assert terminal.exitstatus == status
        assert pid_of(images) == pgid


@pytest.mark.parametrize("body", ["sys.exit(3)", "import os; os.unlink(path)", "import os; os.kill(os.getpid(), 9)"])
def test_an_editor_that_fails_and_has_changed_nothing_leaves_nothing(
    tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    images = c.write(tmp_path)
    editor(tmp_path, body, monkeypatch)
    assert cli.main(["edit", str(images / "pstree.img")]) == 1
    assert list(drafts.iterdir()) == []
    assert pid_of(images) == 100


def test_ctrl_c_is_for_the_editor(tmp_path: Path, drafts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = c.write(tmp_path)
    interrupt = "import os, signal, time\nsignal.signal(signal.SIGINT, lambda *_: None)\n"
    interrupt += "os.kill(os.getppid(), signal.SIGINT)\ntime.sleep(0.1)\n"
    editor(tmp_path, interrupt + CHANGE, monkeypatch)
    assert cli.main(["edit", str(images / "pstree.img")]) == 0
    assert pid_of(images) == 555
    assert list(drafts.iterdir()) == []
