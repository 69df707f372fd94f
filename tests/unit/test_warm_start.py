# SPDX-License-Identifier: GPL-2.0-only
"""Which starts are the same, what is kept of one and told to the next, and where a checkpoint lies meanwhile."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from pycriu.command import streams
from pycriu.errors import ImageError
from pycriu.hooks import asking
from pycriu.hooks.asking import Outcome
from pycriu.restoring import newlife
from pycriu.warmstart import boot, identity, program, shelf
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


class Odd(ModuleType):
    """As of libraries that import when they are asked for something: they fail where that is not installed."""

    def __getattr__(self, name: str) -> object:
        raise ModuleNotFoundError(name)


def test_modules_are_not_asked_for_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor is one imported that is to be when it is used first."""
    (tmp_path / "lazy_one.py").write_text("raise AssertionError('imported')")
    spec = importlib.util.spec_from_file_location("lazy_one", tmp_path / "lazy_one.py")
    assert spec is not None
    assert spec.loader is not None
    lazy = importlib.util.module_from_spec(spec)
    importlib.util.LazyLoader(spec.loader).exec_module(lazy)
    monkeypatch.setitem(sys.modules, "lazy_one", lazy)
    monkeypatch.setitem(sys.modules, "odd_one", Odd("odd_one"))
    monkeypatch.setitem(sys.modules, "no_module", None)
    command = identity.parsed([sys.executable, "-m", "x"])
    assert command is not None
    assert str(tmp_path / "lazy_one.py") in identity.manifest(command)


def test_whatever_keeps_a_checkpoint_from_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said beside the place, and nothing to the program."""

    def failing(*_: object, **__: object) -> Outcome:
        raise subprocess.CalledProcessError(2, "sh")  # of a shell that cannot fork

    monkeypatch.setattr(asking, "checkpoint", failing)
    monkeypatch.setattr(program, "_has_children", lambda: False)
    place = shelf.Place(str(tmp_path), KEY)
    command = identity.parsed([sys.executable, "-m", "x"])
    assert command is not None
    program.keep(place, command, [])
    assert "returned non-zero exit status 2" in (tmp_path / f"{KEY}.failed").read_text()


def test_a_start_that_cannot_be_had_in_a_new_life_ends() -> None:
    """It must not go on as another one that it was before."""
    code = """
import os
from pycriu.hooks.moment import Moment
from pycriu.warmstart import program
from pycriu.warmstart.letter import Letter
letter = Letter(["a"], ["p", "a"], {}, "/no/such/directory")
letter.parent = os.getppid()
moment = Moment()
moment.message = letter.packed()
try: program._arrive(moment)
finally: print("goes on")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/directory" in done.stderr


def test_a_place_that_is_anothers_by_now(tmp_path: Path) -> None:
    """What could not be restored has gone meanwhile: the new one is not blamed for that."""
    place, other = shelf.Place(str(tmp_path), KEY), shelf.Place(str(tmp_path), KEY)
    assert other.begin()
    other.keep("pycriu-snapshot 2")
    assert place.usable()
    assert other.begin()
    other.keep("pycriu-snapshot 2")
    place.discard("images are missing", certain=True)
    assert other.usable()
    shelf.remove(other.path)
    place.discard("images are missing", certain=True)
    assert os.listdir(tmp_path) == []


def test_two_after_somebody_who_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them makes it, whenever the other one looks."""
    first = shelf.Place(str(tmp_path), KEY)
    assert first.begin()
    old = os.stat(first.new).st_mtime - 1000
    os.utime(first.new, (old, old))
    begun: list[bool] = []
    other = threading.Thread(target=lambda: begun.append(shelf.Place(str(tmp_path), KEY).begin()))
    age = shelf._age

    def slow(path: str) -> float:
        found = age(path)
        if path == first.new and threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.3)
        return found

    monkeypatch.setattr(shelf, "_age", slow)
    begun.append(first.begin())
    other.join()
    assert sorted(begun) == [False, True]


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
    assert place.usable()
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
