# SPDX-License-Identifier: GPL-2.0-only
"""Warm starts: a block of imports that runs once, and processes that begin behind it with all that is their own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys

import pytest

from tests.host.conftest import DEADLINE, alive, children, wait_until
from tests.host.warmth import APP, ROOT, SNAPSHOT, Starts, of, starts
from tests.warm.loads import LOADS, Load

__all__ = ["starts"]


@pytest.mark.parametrize("how", ["block", "script", "module"])
def test_each_start_has_its_own(starts: Starts, how: str) -> None:
    words = of(starts, how)
    first = starts.report(*words, "one")
    assert starts.runs() == 1
    assert [name for name in starts.names() if "." not in name], starts.why_not()
    elsewhere = starts.folder / "elsewhere"
    elsewhere.mkdir()
    seen = [first]
    for number in range(3):
        process = starts.popen(*words, f"a{number}", "b", env=starts.environment(X=str(number)))
        out, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, errors) == (0, ""), starts.why_not()
        found = json.loads(out)
        assert found["argv"][1:] == [f"a{number}", "b"]
        assert found["x"] == str(number)
        assert found["parent"] == process.pid
        assert found["name"] == "__main__"
        assert found["ours"] == ["PYCRIU_SNAPSHOT_LOG"]
        seen.append(found)
    assert starts.runs() == 1, starts.why_not()
    assert len({one["random"] for one in seen}) == len(seen)
    assert len({one["pid"] for one in seen}) == len(seen)


@pytest.mark.parametrize("how", ["block", "script"])
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_what_takes_long_to_import(starts: Starts, load: Load, how: str) -> None:
    """Threads of OpenBLAS and PyTorch, hundreds of libraries, gigabytes of address space, Django with applications."""
    if not load.is_there():
        if load.name != "page":
            pytest.skip(f"what the program {load.name} needs is not here: benchmarks/warm_start.py fetches it")
        load.fetch()
    code = (
        load.warm().replace("warm_start():\n", "warm_start():\n    import helper\n") if how == "block" else load.plain()
    )
    starts.write("app.py", code if how == "block" else f"import helper\n{code}")
    words = ("app.py",) if how == "block" else (*SNAPSHOT, sys.executable, "app.py")
    path = os.pathsep.join([*load.path, str(ROOT)])
    for _ in range(3):
        assert starts.run(*words, env=starts.environment(PYTHONPATH=path)).strip() == load.says
    assert starts.runs() == 1, starts.why_not()


def test_in_another_directory(starts: Starts) -> None:
    of(starts, "block")
    path = str(starts.folder / "app.py")
    assert starts.report(path)["cwd"] == str(starts.folder)
    found = starts.report(path, cwd="/")
    assert (found["cwd"], found["argv"], starts.runs()) == ("/", [path], 1)


def test_many_at_once(starts: Starts) -> None:
    """Each a process of its own, at the same time."""
    of(starts, "block")
    starts.write("app.py", APP + "sys.stdin.read()\nprint('end')\n")
    starts.run("app.py")
    running = [starts.popen("app.py", str(number), stdin=subprocess.PIPE) for number in range(8)]
    found = []
    for process in running:
        assert process.stdout is not None
        found.append(json.loads(process.stdout.readline()))
    assert all(alive(one["pid"]) for one in found)
    assert len({one["pid"] for one in found}) == len(found)
    assert [one["argv"][1] for one in found] == [str(number) for number in range(8)]
    for process in running:
        assert process.communicate(timeout=DEADLINE)[0] == "end\n"
        assert process.returncode == 0
    assert starts.runs() == 1, starts.why_not()


def test_status_and_streams(starts: Starts) -> None:
    """What comes in, what goes out, and how it ended; in a pipe first, into a file then."""
    code = "print(sys.stdin.read().upper(), end=''); print('err', file=sys.stderr); sys.exit(3)\n"
    starts.write("app.py", APP.replace("report()\n", "") + code)
    for number in range(2):
        with open(starts.folder / "in", "w+") as given, open(starts.folder / "out", "w+") as out:
            given.write(f"hello {number}")
            given.seek(0)
            command = [sys.executable, "app.py"]
            done = subprocess.run(
                command, cwd=starts.folder, env=starts.environment(), stdin=given, check=False,
                stdout=out if number else subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=DEADLINE,
            )  # fmt: skip
            out.seek(0)
            assert (done.stdout or out.read(), done.stderr, done.returncode) == (f"HELLO {number}", "err\n", 3)
    assert starts.runs() == 1, starts.why_not()


def knows_its_terminal(starts: Starts, *, new_session: bool) -> None:
    """A start on a terminal: its program finds one."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=starts.folder, env=starts.environment(), stdin=follower, stdout=follower,
        stderr=follower, start_new_session=new_session,
    ) as process:  # fmt: skip
        os.close(follower)
        assert json.loads(os.read(leader, 4096))["terminal"] is True
        assert process.wait(DEADLINE) == 0
    os.close(leader)


def test_on_a_terminal(starts: Starts) -> None:
    of(starts, "block")
    assert starts.report("app.py")["terminal"] is False
    knows_its_terminal(starts, new_session=True)
    assert starts.runs() == 1, starts.why_not()


def test_first_on_a_terminal(starts: Starts) -> None:
    of(starts, "block")
    knows_its_terminal(starts, new_session=False)
    assert starts.report("app.py")["terminal"] is False
    assert starts.runs() == 1, starts.why_not()


# ------------------------------------------------------------------------------------------------- what is the same


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda starts: starts.write("app.py", APP + "#"), True),
        (lambda starts: starts.write("helper.py", 'open(__file__ + ".ran", "a").write("x") #'), True),
        (lambda starts: starts.write("new.py", ""), True),
        (lambda starts: starts.write("new.txt", ""), False),
    ],
    ids=["script", "import", "could be imported", "data"],
)
def test_what_has_changed_is_noticed(starts: Starts, change: object, *, again: bool) -> None:
    of(starts, "block")
    starts.report("app.py")
    change(starts)  # type: ignore[operator]
    starts.report("app.py")
    assert starts.runs() == 1 + again, starts.why_not()
    starts.report("app.py")
    assert starts.runs() == 1 + again, starts.why_not()


def test_environment_that_matters_and_keys(starts: Starts) -> None:
    words = of(starts, "script")
    runs = []
    for environment in ({}, {"X": "1"}, {"OMP_NUM_THREADS": "1"}, {"LANG": "C"}, {"LANG": "C"}):
        starts.report(*words, env=starts.environment(**environment))
        runs.append(starts.runs())
    assert runs == [1, 1, 2, 3, 3], starts.why_not()
    keyed = (*SNAPSHOT[:-1], "--key", "other", *words[4:])
    starts.report(*keyed)
    starts.report(*keyed)
    assert starts.runs() == 4, starts.why_not()
    starts.write("app.py", APP.replace("warm_start()", "warm_start(key=sys.argv[1], environment=['X'])"))
    for word, x in (("a", "1"), ("b", "1"), ("a", "1"), ("a", "2")):
        starts.report("app.py", word, env=starts.environment(X=x))
    assert starts.runs() == 7, starts.why_not()


def test_it_can_be_switched_off_and_cleared(starts: Starts) -> None:
    words = of(starts, "script")
    for _ in range(2):
        starts.report(*words, env=starts.environment(PYCRIU_WARM_START="0"))
    assert (starts.runs(), starts.names()) == (2, [])
    starts.report(*words)
    assert starts.run("-m", "pycriu", "snapshot", "clear") == "removed 1\n"
    assert starts.names() == []


# ---------------------------------------------------------------------------------------------------- whatever fails


def test_a_damaged_checkpoint(starts: Starts) -> None:
    of(starts, "block")
    starts.report("app.py")
    (kept,) = [path for path in starts.kept.iterdir() if path.is_dir()]
    (image,) = kept.glob("core-*.img")
    image.write_bytes(image.read_bytes()[:50])
    starts.report("app.py")
    assert starts.runs() == 2
    starts.report("app.py")
    assert starts.runs() == 2, starts.why_not()


def test_a_start_that_has_too_much_to_tell(starts: Starts) -> None:
    """It is an ordinary one; the others stay warm."""
    of(starts, "block")
    starts.report("app.py")
    many = {f"MANY{number}": "x" * 100_000 for number in range(3)}
    assert starts.report("app.py", env=starts.environment(**many))["argv"] == ["app.py"]
    assert starts.runs() == 2
    starts.report("app.py")
    assert starts.runs() == 2, starts.why_not()


@pytest.mark.parametrize(
    "block",
    ["import fcntl; lock = open('l', 'w'); fcntl.flock(lock, 2)", "os.fork() or signal.pause()"],
    ids=["lock", "child"],
)
def test_what_cannot_be_kept(starts: Starts, block: str) -> None:
    """Each start is an ordinary one, and for an hour none tries to be another."""
    starts.write("app.py", APP.replace("    import helper", f"    import helper, os, signal; {block}"))
    for number in (1, 2, 3):
        process = starts.popen("app.py", start_new_session=True)
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert starts.runs() == number
    assert [name for name in starts.names() if name.endswith(".failed")], starts.names()


def test_without_the_rights(starts: Starts) -> None:
    """Whether to make a checkpoint or to use one that is there."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this machine: apt-get install util-linux")
    of(starts, "block")
    weak = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "app.py"]
    for _ in range(2):
        done = subprocess.run(
            weak, cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=DEADLINE, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["argv"] == ["app.py"]
        assert done.stderr == ""
    assert starts.runs() == 2
    assert "CAP_" in starts.why_not()


def test_a_program_that_is_not_python(starts: Starts) -> None:
    assert starts.run(*SNAPSHOT, "echo", "hello") == "hello\n"
    assert starts.run(*SNAPSHOT, sys.executable, "-c", "print(1)") == "1\n"
    assert starts.names() == []


# --------------------------------------------------------------------------------------------- a process like others


WAITING = (
    APP.replace("report()\n", "")
    + """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"USR1\\n"))
report()
while True: time.sleep(0.05)
"""
)


@pytest.fixture
def warm(starts: Starts) -> subprocess.Popen[str]:
    """A restored program that waits."""
    starts.write("app.py", WAITING)
    for _ in range(2):
        process = starts.popen("app.py")
        assert process.stdout is not None
        pid = json.loads(process.stdout.readline())["pid"]
        if pid != process.pid:
            assert children(process.pid) == [pid]
            return process
        process.kill()
        process.communicate()
    raise AssertionError(starts.why_not())


def test_signals_go_to_it_and_its_end_is_ours(warm: subprocess.Popen[str]) -> None:
    assert warm.stdout is not None
    warm.send_signal(signal.SIGUSR1)
    assert warm.stdout.readline() == "USR1\n"
    warm.send_signal(signal.SIGTERM)
    assert warm.wait(DEADLINE) == -signal.SIGTERM


def test_it_does_not_outlive_whom_others_know(warm: subprocess.Popen[str]) -> None:
    (pid,) = children(warm.pid)
    warm.kill()
    wait_until(lambda: not alive(pid), "it has ended, too")


THREADS = (
    APP.replace(
        "    import helper",
        """    import helper
    import ctypes, signal, subprocess, threading, time, multiprocessing
    libc = ctypes.CDLL(None)
    go, done = threading.Event(), threading.Event()
    def work():
        go.wait()
        ids.append((threading.get_native_id(), libc.gettid()))
        done.wait()
    ids = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
""",
    )
    + """
signal.signal(signal.SIGUSR1, lambda *_: ids.append("signal"))
signal.pthread_kill(thread.ident, signal.SIGUSR1)  # by the id that the C library keeps
signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
go.set()
while len(ids) < 3: time.sleep(0.01)
(pair,) = [one for one in ids if one != "signal"]
print(ids.count("signal"), pair[0] == pair[1])
print(threading.main_thread().native_id == os.getpid(), libc.gettid() == os.getpid())
done.set()
thread.join()
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout.strip())
child = os.fork()
if not child: os._exit(libc.gettid() != os.getpid())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(multiprocessing.get_context("fork").Pool(2).map(abs, [-1, -2]))
"""
)


def test_threads_and_children(starts: Starts) -> None:
    """Threads of the block live on, under other ids, of which the C library knows."""
    starts.write("app.py", THREADS)
    first = starts.run("app.py").splitlines()[1:]
    second = starts.run("app.py").splitlines()[1:]
    assert starts.runs() == 1, starts.why_not()
    assert first == second
    assert second == ["2 True", "True True", "child", "0", "[1, 2]"]
