# SPDX-License-Identifier: GPL-2.0-only
"""Which starts are the same, what is kept of one and told to the next, and where a checkpoint lies meanwhile."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from pycriu.command import streams
from pycriu.errors import ImageError
from pycriu.restoring import newlife
from pycriu.warmstart import boot, identity, shelf
from pycriu.warmstart.letter import Letter, unpacked

KEY = "0123456789abcdef" * 2
PYTHON = os.path.abspath(sys.executable)


@pytest.mark.parametrize(
    ("words", "options", "target", "arguments", "module"),
    [
        ("app.py", [], "app.py", [], False),
        ("-O -X dev -W error app.py -x --y", ["-O", "-X", "dev", "-W", "error"], "app.py", ["-x", "--y"], False),
        ("-IS -Wignore app.py", ["-IS", "-Wignore"], "app.py", [], False),
        ("-u -m http.server 80", ["-u"], "http.server", ["80"], True),
    ],
)
def test_commands(words: str, options: list[str], target: str, arguments: list[str], *, module: bool) -> None:
    command = identity.parsed([PYTHON, *words.split()])
    assert command is not None
    assert (command.python, command.options, command.target) == (PYTHON, options, target)
    assert (command.arguments, command.module) == (arguments, module)


@pytest.mark.parametrize("words", ["-c 1", "-", "", "-i app.py", "-Ic 1", "--version", "-V", "-m"])
def test_commands_that_begin_nowhere(words: str) -> None:
    assert identity.parsed([PYTHON, *words.split()]) is None


def test_programs_that_are_no_python() -> None:
    assert identity.parsed(["/bin/sh", "app.py"]) is None
    assert identity.parsed(["no-such-program", "app.py"]) is None


def test_where_a_program_is(tmp_path: Path) -> None:
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python9").write_text("")
        (tmp_path / name / "python9").chmod(mode)
    path = f"{tmp_path}/nowhere:{tmp_path}/a:{tmp_path}/b"
    assert identity.found("python9", path) == f"{tmp_path}/b/python9"
    assert identity.found("python10", path) is None


def test_keys() -> None:
    command = identity.parsed([PYTHON, "app.py", "x"])
    other = identity.parsed([PYTHON, "-O", "app.py"])
    assert command
    assert other
    same = identity.key(command, None, {"LANG": "C"})
    assert same == identity.key(command, None, {"LANG": "C", "COLUMNS": "80"})
    others = [
        identity.key(other, None, {"LANG": "C"}),
        identity.key(command, "more", {"LANG": "C"}),
        identity.key(command, None, {"LANG": "D"}),
        identity.key(command, None, {"LANG": "C", "PYTHONPATH": "/x"}),
        identity.key(command, None, {"LANG": "C", "OMP_NUM_THREADS": "1"}),
    ]
    assert len({same, *others}) == len(others) + 1


def test_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text("1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "nowhere"), *sys.path])
    command = identity.parsed([PYTHON, "app.py"])
    assert command is not None
    content = identity.manifest(command)
    assert identity.holds(content)
    assert ast.__file__ in content
    (tmp_path / "data").write_text("")
    assert identity.holds(content)
    (tmp_path / "new.py").write_text("")
    assert not identity.holds(content)
    (tmp_path / "new.py").unlink()
    assert identity.holds(content)
    (tmp_path / "app.py").write_text("22")
    assert not identity.holds(content)


@pytest.mark.parametrize(
    "content",
    ["", "something else", *(f"pycriu-snapshot 2\0{line}" for line in ("x y /no/such/file", "x", ""))],
)
def test_manifests_that_do_not_hold(content: str) -> None:
    assert not identity.holds(content)


def test_letters() -> None:
    letter = Letter(["a", "", "ü"], ["p", "-O", "a"], {"X": "1=2", "EMPTY": "", "B": "\udcff"}, "/tmp")
    letter.module, letter.umask, letter.ignored, letter.blocked = True, 0o27, (1, 15), (2,)
    read = unpacked(letter.packed())
    assert [getattr(read, name) for name in Letter.__slots__] == [getattr(letter, name) for name in Letter.__slots__]


def test_a_place(tmp_path: Path) -> None:
    place = shelf.Place(str(tmp_path), KEY)
    assert not place.usable()
    assert place.begin()
    assert not shelf.Place(str(tmp_path), KEY).begin(), "two make it"
    place.keep("pycriu-snapshot 2")
    assert place.usable()
    (tmp_path / KEY).chmod(0o755)
    assert not place.usable(), "others can write there"
    (tmp_path / KEY).chmod(0o700)
    place.discard("damaged", certain=True)
    assert not place.usable()
    assert place.begin(), "the first time it may be made anew"
    place.keep("pycriu-snapshot 2")
    for left in (True, True, False):
        place.discard("damaged, perhaps", certain=False)
        assert place.usable() is left
    assert not place.begin(), "the second time not for an hour"
    old = os.stat(tmp_path / f"{KEY}.failed").st_mtime - 4000
    os.utime(tmp_path / f"{KEY}.failed", (old, old))
    assert place.begin()
    place.give_up("no")
    assert (tmp_path / f"{KEY}.failed").read_text() == "no\n"
    assert not place.begin()


def test_somebody_who_was_killed_while_making_one(tmp_path: Path) -> None:
    place = shelf.Place(str(tmp_path), KEY)
    assert place.begin()
    old = os.stat(place.new).st_mtime - 1000
    os.utime(place.new, (old, old))
    assert shelf.Place(str(tmp_path), KEY).begin()


def test_imports_of_a_script() -> None:
    code = """
'''What it is.'''
from __future__ import annotations
import a, b.c as d
def f():
    import e
from g.h import i
os.environ["THREADS"] = "1"
import j
"""
    assert [ast.unparse(node) for node in boot.imports(ast.parse(code))] == [
        "import a, b.c as d", "from g.h import i"
    ]  # fmt: skip
    assert len(boot.imports(ast.parse("from . import a\nimport b"))) == 2


def test_streams_are_named_by_what_they_are(tmp_path: Path) -> None:
    """In a child, whose descriptors can be changed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(writing, 1)
        os.dup2(out, 2)
        names = streams.external()
        pipe, file = sorted(names, reverse=True)
        right = pipe == f"pipe[{os.fstat(writing).st_ino}]" and file.endswith(f":{os.fstat(out).st_ino:x}]")
        os._exit(not (right and [names[pipe], names[file]] == [1, 2]))
    os.close(writing)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -------------------------------------------------------------------------------------------------------- another PID


def test_free_ids() -> None:
    ids = newlife.free_ids(5)
    assert len(set(ids)) == 5
    assert not any(os.path.exists(f"/proc/{number}") for number in ids)


def test_no_images_no_life(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        newlife.NewLife(str(tmp_path), newlife.Start())
