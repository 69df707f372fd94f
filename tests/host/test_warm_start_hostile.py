# SPDX-License-Identifier: GPL-2.0-only
"""Warm starts where something is wrong: the program starts all the same, nothing foreign is restored, all is tidy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host.conftest import DEADLINE, alive, below, wait_until
from tests.host.warmth import APP, PLAIN, REPORT, SNAPSHOT, Starts, of, starts

__all__ = ["starts"]

RUN = (*SNAPSHOT, sys.executable)


def kept(starts: Starts) -> Path:
    """The checkpoint that is there."""
    (found,) = [path for path in starts.kept.iterdir() if path.is_dir()]
    return found


# ------------------------------------------------------------------------------------------------- spoiled checkpoints

SPOILERS: dict[str, Callable[[Path], object]] = {
    "shorter": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "other bytes": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.mark.parametrize("spoil", SPOILERS)
def test_each_file_of_a_checkpoint(starts: Starts, spoil: str) -> None:
    """Pages may be any bytes; whatever else is spoiled, the start is an ordinary one, or needs it not."""
    of(starts, "block")
    starts.report("app.py")
    whole = starts.folder / "whole"
    key = kept(starts).name
    shutil.copytree(kept(starts), whole)
    ordinary = 0
    for name in sorted(path.name for path in whole.iterdir()):
        if spoil == "other bytes" and name.startswith("pages-"):
            continue
        shutil.rmtree(starts.kept)
        shutil.copytree(whole, starts.kept / key)
        (starts.kept / f"{key}.failed").write_text("")  # it is not made anew
        starts.kept.chmod(0o700)
        runs = starts.runs()
        SPOILERS[spoil](starts.kept / key / name)
        assert starts.report("app.py", name)["argv"] == ["app.py", name]
        ordinary += starts.runs() - runs
    assert ordinary > 8, starts.why_not()


def test_a_start_with_less(starts: Starts) -> None:
    """One that cannot restore it does not harm those that can."""
    of(starts, "block")
    starts.report("app.py")
    for _ in range(4):
        words = ["prlimit", "--nofile=20", sys.executable, "app.py"]
        subprocess.run(
            words, cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE,
            capture_output=True,
        )  # fmt: skip
    runs = starts.runs()
    starts.report("app.py")
    assert starts.runs() == runs, starts.why_not()


# ---------------------------------------------------------------------------------------------------- where it is kept


def test_where_others_may_write(starts: Starts) -> None:
    """Nothing is taken from there, nothing put there."""
    of(starts, "block")
    starts.report("app.py")
    for mode in (0o777, 0o1777, 0o770, 0o720):
        starts.kept.chmod(mode)
        runs = starts.runs()
        starts.report("app.py")
        assert starts.runs() == runs + 1, oct(mode)
    starts.kept.chmod(0o755)
    runs = starts.runs()
    starts.report("app.py")
    assert starts.runs() == runs, starts.why_not()


def test_of_another_user(starts: Starts) -> None:
    of(starts, "block")
    starts.report("app.py")
    for path in (starts.kept, kept(starts)):
        os.chown(path, 1000, -1)
        runs = starts.runs()
        starts.report("app.py")
        assert starts.runs() == runs + 1, path
        os.chown(path, 0, -1)
        shutil.rmtree(starts.kept)
        starts.report("app.py")


def test_under_another_name(starts: Starts) -> None:
    """A checkpoint is good only for the start that it was made for, and only where it is, not through a link."""
    of(starts, "block")
    starts.report("app.py")
    first = kept(starts).name
    starts.write("other.py", APP + "\nprint('other')\n")
    starts.run("other.py")
    (second,) = [name for name in starts.names() if name != first]
    shutil.rmtree(starts.kept / second)
    for put in (os.rename, lambda old, new: os.symlink(old.name, new)):
        put(starts.kept / first, starts.kept / second)
        assert starts.run("other.py").endswith("other\n")
        if (starts.kept / second).is_dir() and not (starts.kept / first).exists():
            os.rename(starts.kept / second, starts.kept / first)
        shutil.rmtree(starts.kept / second, ignore_errors=True)
        (starts.kept / second).unlink(missing_ok=True)


def test_nowhere(starts: Starts) -> None:
    """On a full disk, on one that cannot be written, below a file."""
    of(starts, "block")
    disk = starts.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", disk], check=True)
    try:
        for _ in range(2):
            starts.report("app.py", env=starts.environment(PYCRIU_SNAPSHOTS=str(disk)))
        assert not [path for path in disk.iterdir() if path.is_dir()]
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for place in (disk, disk / "new"):
            starts.report("app.py", env=starts.environment(PYCRIU_SNAPSHOTS=str(place)))
    finally:
        subprocess.run(["umount", disk], check=True)
    starts.report("app.py", env=starts.environment(PYCRIU_SNAPSHOTS=str(starts.folder / "app.py" / "x")))
    assert starts.runs() == 5


def test_read_from_a_disk_that_cannot_be_written(starts: Starts) -> None:
    of(starts, "block")
    starts.report("app.py")
    subprocess.run(["mount", "--bind", starts.kept, starts.kept], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", starts.kept], check=True)
        starts.report("app.py")
    finally:
        subprocess.run(["umount", starts.kept], check=True)
    assert starts.runs() == 1, starts.why_not()


def test_nothing_piles_up(starts: Starts) -> None:
    """What was made before this machine was started, or has not been used for a month, goes when another is made."""
    of(starts, "block")
    starts.report("app.py")
    old = kept(starts)
    name = "0123456789abcdef" * 2
    for number, (boot, days) in enumerate({"earlier": 0, "this": 40, "ours": 1}.items()):
        other = starts.kept / f"{number}{name[1:]}"
        shutil.copytree(old, other)
        manifest = (old / "manifest").read_bytes()
        words = manifest.split(b"\0")[0].split()
        if boot == "earlier":
            (other / "manifest").write_bytes(manifest.replace(words[2], b"another-boot", 1))
        os.utime(other, (os.stat(other).st_mtime - days * 86400,) * 2)
    (starts.kept / "3.failed").write_text("of somebody else")
    starts.write("app.py", APP + "#")
    starts.report("app.py")
    assert starts.runs() == 2
    assert starts.names() == sorted([old.name, f"2{name[1:]}", "3.failed"])
    starts.run("-m", "pycriu", "snapshot", "clear")
    assert starts.names() == ["3.failed"]


def test_all_at_once_the_first_time(starts: Starts) -> None:
    """One of them makes it."""
    of(starts, "block")
    running = [starts.popen("app.py", str(number)) for number in range(6)]
    for number, process in enumerate(running):
        out, errors = process.communicate(timeout=DEADLINE)
        assert (json.loads(out)["argv"], process.returncode, errors) == (["app.py", str(number)], 0, "")
    assert [name for name in starts.names() if "." not in name] == starts.names(), starts.why_not()
    runs = starts.runs()
    starts.report("app.py")
    assert starts.runs() == runs, starts.why_not()


def test_killed_while_it_is_made(starts: Starts) -> None:
    """The next starts are ordinary ones, and when it is forgotten, one makes it."""
    of(starts, "block")
    process = starts.popen("app.py")
    wait_until(lambda: any(starts.kept.glob("*.new/*")) or any(starts.kept.glob("*.new/.*")), "it is being made")
    process.kill()
    process.communicate()
    wait_until(lambda: not any(alive(pid) for pid in below(os.getpid())), "whoever was to dump it has ended")
    starts.report("app.py")
    for path in starts.kept.glob("*.new"):
        os.utime(path, (0, 0))
    for path in starts.kept.glob("*.failed"):
        path.unlink()
    starts.report("app.py")
    runs = starts.runs()
    starts.report("app.py")
    assert starts.runs() == runs, starts.why_not()


# ------------------------------------------------------------------------------------------- what the program may be


def say(code: str = "") -> str:
    """A program that imports what counts, and tells."""
    return f"import helper\n{code}{REPORT}report()\n"


def test_an_archive_and_a_directory(starts: Starts) -> None:
    source = starts.folder / "source"
    source.mkdir()
    (source / "__main__.py").write_text(say("import inside\n"))
    (source / "inside.py").write_text("import json")
    zipapp.create_archive(source, starts.folder / "app.pyz")
    for target in ("app.pyz", "source"):
        before = starts.runs() if target == "source" else 0
        for number in range(3):
            environment = starts.environment(PYTHONPATH=path_of(starts))
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the first start of a directory changes it
            found = starts.report(*RUN, target, str(number), env=environment)
            assert (found["argv"], found["name"]) == ([target, str(number)], "__main__")
        assert starts.runs() == before + 1, starts.why_not()


def path_of(starts: Starts) -> str:
    return os.environ.get("PYTHONPATH", "") + os.pathsep + str(starts.folder)


def test_a_package_with_relative_imports(starts: Starts) -> None:
    package = starts.folder / "deep"
    package.mkdir()
    command = f"import helper\n{REPORT}\ndef main(): report()\n"
    for name, code in (
        ("__init__", ""),
        ("__main__", "from .cli import main\nmain()\n"),
        ("cli", command),
    ):
        (package / f"{name}.py").write_text(code)
    for number in range(3):
        starts.report(*RUN, "-m", "deep", str(number))
    assert starts.runs() == 1, starts.why_not()
    (package / "new.py").write_text("")
    starts.report(*RUN, "-m", "deep")
    assert starts.runs() == 2, "what can be imported has changed"


def test_a_namespace_package(starts: Starts) -> None:
    (starts.folder / "space").mkdir()
    (starts.folder / "space" / "part.py").write_text("import helper")
    starts.write("app.py", f"from space import part\n{REPORT}report()\n")
    for _ in range(2):
        starts.report(*RUN, "app.py")
    assert starts.runs() == 1, starts.why_not()
    (starts.folder / "space" / "part.py").write_text("import helper #")
    starts.report(*RUN, "app.py")
    assert starts.runs() == 2


def test_directories_with_odd_names(starts: Starts) -> None:
    folder = starts.folder / "a b\nc\udcff\x1c"
    folder.mkdir()
    (folder / "app.py").write_text(say())
    (folder / "helper.py").write_text((starts.folder / "helper.py").read_text())
    for _ in range(2):
        starts.report(*RUN, str(folder / "app.py"), "\udcfe\n")
    assert len((folder / "helper.py.ran").read_text()) == 1, starts.why_not()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere.py"], None),
        (["-m", "nowhere"], None),
        (["-m", "no.where"], None),
        (["app.py"], "def (:\n"),
        (["app.py"], "import json, no_such_module\n"),
        (["app.py"], "import json\nraise SystemExit(7)\n"),
        (["app.py"], "import json\n1 / 0\n"),
        (["app.py"], "import sys\nsys.exit('sorry')\n"),
        (["app.py"], ""),
    ],
)
def test_programs_that_fail(starts: Starts, words: list[str], code: str | None) -> None:
    """As they do without."""
    if code is not None:
        starts.write("app.py", code)
    said = []
    for how in ((), RUN[:-1], RUN[:-1]):
        command = [sys.executable, *how, *([sys.executable] if how else []), *words]
        done = subprocess.run(
            command, cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        said.append((done.returncode, done.stdout, done.stderr.splitlines()[-1:]))
    assert said[0] == said[1] == said[2]


def test_an_interpreter_behind_a_wrapper(starts: Starts) -> None:
    """Which interpreter pyenv's take depends on more than we know: they are asked each time."""
    (starts.folder / "python3").write_text(f'#!/bin/sh\necho x >>wrapped\nexec {sys.executable} "$@"\n')
    (starts.folder / "python3").chmod(0o755)
    starts.write("app.py", PLAIN)
    for key in ((), ("--key", "a")):
        before = starts.runs() if key else 0
        for number in range(3):
            words = (*SNAPSHOT[:-1], *key, "--", "./python3", "app.py", str(number))
            assert starts.report(*words)["argv"] == ["app.py", str(number)]
        assert starts.runs() == before + 1, starts.why_not()
    assert (starts.folder / "wrapped").read_text() == "x\n" * 6


def test_an_environment_of_its_own(starts: Starts) -> None:
    """A virtual environment behind a link; another interpreter or configuration makes it anew."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "real"], cwd=starts.folder, check=True)
    (starts.folder / "env").symlink_to("real")
    python = str(starts.folder / "env" / "bin" / "python")
    starts.write(
        "app.py",
        f"import sys\nimport helper\n{REPORT}\nreport()\nassert sys.prefix == {str(starts.folder / 'env')!r}\n",
    )
    for _ in range(3):
        starts.report(*SNAPSHOT, python, "app.py")
    assert starts.runs() == 1, starts.why_not()
    with (starts.folder / "real" / "pyvenv.cfg").open("a") as file:
        file.write("\n")
    starts.report(*SNAPSHOT, python, "app.py")
    assert starts.runs() == 2
    (folder,) = (starts.folder / "real" / "lib").glob("python*/site-packages")
    (folder / "editable.pth").write_text(str(starts.folder / "elsewhere") + "\n")
    starts.report(*SNAPSHOT, python, "app.py")
    assert starts.runs() == 3
    other = starts.folder / "real" / "bin" / "python"
    copy = starts.folder / "copy"
    shutil.copy(os.path.realpath(other), copy)
    other.unlink()
    copy.rename(other)
    starts.report(*SNAPSHOT, python, "app.py")
    assert starts.runs() == 4
    starts.report(*SNAPSHOT, python, "app.py")
    assert starts.runs() == 4, starts.why_not()


BLOCKS = {
    "a connection": "import socket; pair = socket.create_server(('127.0.0.1', 0)); "
    "left = socket.create_connection(pair.getsockname()); right = pair.accept()",
    "a server": "import socket; server = socket.create_server(('127.0.0.1', 0))",
    "a file that is gone": "file = open('gone', 'w+'); file.write('kept'); file.flush(); os.unlink('gone')",
    "a temporary directory": "import tempfile; folder = tempfile.mkdtemp(); file = open(folder + '/x', 'w')",
    "an error": "\n    try: 1 / 0\n    except ZeroDivisionError: pass",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_block_may_do(starts: Starts, block: str) -> None:
    """Warm or not: each start works, and says nothing."""
    starts.write(
        "app.py",
        APP.replace("import helper", f"import helper; {BLOCKS[block]}").replace("import sys;", "import os, sys;"),
    )
    temporary = starts.folder / "temporary"
    for number in range(3):
        temporary.mkdir()
        process = starts.popen("app.py", str(number), env=starts.environment(TMPDIR=str(temporary)))
        out, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, errors) == (0, ""), starts.why_not()
        assert json.loads(out)["argv"] == ["app.py", str(number)]
        shutil.rmtree(temporary)


def test_a_block_that_fails(starts: Starts) -> None:
    """Its exception is the program's, and nothing is kept."""
    starts.write("app.py", APP.replace("import helper", "import helper; raise KeyError('x')"))
    starts.run("app.py", status=1)
    assert starts.names() == []


def test_a_source_that_changes_meanwhile(starts: Starts) -> None:
    """Behind its import, and before the checkpoint: that has the old one, and is not kept."""
    change = "import helper\n    if len(open('helper.py.ran').read()) == 1: open('helper.py', 'a').write('#')"
    starts.write("app.py", APP.replace("import helper", change))
    for runs in (1, 2, 2):
        starts.report("app.py")
        assert starts.runs() == runs, starts.why_not()


def test_ptrace_is_forbidden(starts: Starts) -> None:
    """By a filter, as in containers: each start is an ordinary one, and says nothing."""
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the filter here is for x86_64 and aarch64")
    of(starts, "block")
    number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    code = f"""
import ctypes, os, struct, sys
filters = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
libc = ctypes.CDLL(None)
room = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in filters))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(room)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "app.py"])
"""
    for number in (1, 2):
        starts.report("-c", code)
        assert starts.runs() == number
    assert starts.why_not()
