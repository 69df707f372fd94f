# SPDX-License-Identifier: GPL-2.0-only
"""Threaded programs of several languages: each runtime has its own ideas of stacks, signals and futexes.

The program judges itself: sums that must come out right, thread-local values, everybody advancing afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pycriu.errors import TraceeGone
from pycriu.kernel import procfs
from pycriu.sharing import refuse_own_parts
from tests.host.conftest import Host, Subject, alive, wait_until

FOLDER = Path(__file__).parent / "threaded"
# language: compilers, the command that follows them, Debian's package, what the program says
LANGUAGES = {
    "cpp": (("g++", "c++"), ("-O1", "-pthread", "-o"), "g++", "caught, wrong 0, turns of all 1"),
    "rs": (
        ("rustc",),
        ("-O", "-o"),
        "rustc",
        "wrong 0, turns of all true, ended [0, 1, 2, 3, 4, 5], worker 0 to worker 5, panic caught true",
    ),
    "go": (("go",), ("build", "-o"), "golang-go", "wrong 0, turns of all true, read 4"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compile the program of a language, once; the path of the executable."""
    folder = tmp_path_factory.mktemp("threaded")

    def build(language: str) -> str:
        compilers, words, package, _ = LANGUAGES[language]
        compiler = next((path for name in compilers if (path := shutil.which(name))), None)
        if compiler is None:
            pytest.skip(f"no {compilers[0]} on this machine: apt-get install {package}")
        target = folder / language
        if not target.exists():
            command = [compiler, *words, str(target), str(FOLDER / f"program.{language}")]
            environment = os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}
            subprocess.run(command, check=True, env=environment, capture_output=True)
        return str(target)

    return build


@pytest.mark.parametrize("language", LANGUAGES)
def test_threads_of_a_language(host: Host, built: Callable[[str], str], language: str) -> None:
    subject = host.start(built(language))
    before = sorted(os.listdir(f"/proc/{subject.pid}/task"))
    assert len(before) > 2
    for _ in range(3):
        host.round_trip(subject)
        time.sleep(0.1)
        assert host.dump(subject, "-R").ok
    assert set(before) <= set(os.listdir(f"/proc/{subject.pid}/task"))
    assert subject.go() == [LANGUAGES[language][3]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_threads_that_come_and_go(host: Host, built: Callable[[str], str], language: str) -> None:
    """A dump that is asked for again and again, while the program works."""
    subject = host.start(built(language))
    for _ in range(8):
        assert host.dump(subject, "-R").ok
    assert subject.go() == [LANGUAGES[language][3]]


CHURN = """
import threading
over = []
def child(depth):
    if depth: threading.Thread(target=child, args=(depth - 1,)).start()
def churn():
    while not over:
        child(5)
        time.sleep(0.001)
threads = [threading.Thread(target=churn) for _ in range(3)]
for one in threads: one.start()
pause_for_dump()
over.append(1)
for one in threads: one.join()
while len(os.listdir("/proc/self/task")) > 1: time.sleep(0.01)
say("ended", threading.active_count())
"""


@pytest.mark.prolific
def test_threads_that_are_made_while_the_tree_is_being_stopped(host: Host) -> None:
    subject = host.python(CHURN)
    for number in range(6):
        if number % 2:
            host.round_trip(subject)
        else:
            assert host.dump(subject, "-R").ok
    assert subject.go() == ["ended 1"]


@pytest.mark.prolific
def test_threads_that_are_ending_have_nothing_of_their_own(host: Host) -> None:
    """Nor have they what they shared: the kernel takes it away from them before they are gone."""
    subject = host.python(CHURN)
    looked = ended = 0
    while looked < 50_000 or not ended:
        for tid in procfs.threads(subject.pid):
            looked += 1
            try:
                refuse_own_parts(subject.pid, tid)
            except TraceeGone:
                ended += 1
    assert subject.go() == ["ended 1"]


FAILING = """
import threading
over = threading.Event()
for _ in range(20): threading.Thread(target=over.wait).start()
pause_for_dump()
over.set()
say("ok")
"""


def test_a_restore_that_fails_leaves_no_thread(host: Host) -> None:
    """The id of one of its threads is taken by somebody else: refused, before anything exists."""
    subject = host.python(FAILING)
    tids = sorted(int(name) for name in os.listdir(f"/proc/{subject.pid}/task"))
    assert host.dump(subject).ok
    holder = _process_with_pid(tids[7])
    restored = host.restore()
    assert not restored.ok
    assert f"PID {tids[7]} is in use" in restored.errors()
    assert not alive(subject.pid)
    os.kill(holder, 9)
    os.waitpid(holder, 0)
    assert host.restore().ok
    assert sorted(map(int, os.listdir(f"/proc/{subject.pid}/task"))) == tids
    assert subject.go() == ["ok"]


def _process_with_pid(pid: int) -> int:
    from pycriu.kernel import libc

    if libc.clone3_set_tid(pid, flags=0, exit_signal=17) == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def test_killing_one_thread_of_a_restored_process_kills_it(host: Host) -> None:
    """It is one process, whichever thread is meant."""
    subject = host.python(FAILING)
    host.round_trip(subject)
    tid = max(int(name) for name in os.listdir(f"/proc/{subject.pid}/task"))
    os.kill(tid, 9)
    wait_until(lambda: not alive(subject.pid), "the end of all threads")


def test_leave_stopped_stops_all_threads(host: Host) -> None:
    subject = host.python(FAILING)
    for act in (lambda: host.dump(subject, "-s"), _dump_and_restore_stopped(host, subject)):
        assert act().ok
        states = [Path(f"/proc/{subject.pid}/task/{tid}/stat") for tid in os.listdir(f"/proc/{subject.pid}/task")]
        wait_until(lambda states=states: all(") T " in one.read_text() for one in states), "all threads stopped")
        os.kill(subject.pid, 18)
    assert subject.go() == ["ok"]


def _dump_and_restore_stopped(host: Host, subject: Subject) -> Callable[[], object]:
    def act() -> object:
        assert host.dump(subject).ok
        return host.restore("-s")

    return act


def test_stopped_threads_come_back_stopped(host: Host) -> None:
    subject = host.python(FAILING)
    os.kill(subject.pid, 19)
    for _ in range(2):
        states = [Path(f"/proc/{subject.pid}/task/{tid}/stat") for tid in os.listdir(f"/proc/{subject.pid}/task")]
        assert len(states) == 21
        wait_until(lambda states=states: all(") T " in one.read_text() for one in states), "all threads stopped")
        host.round_trip(subject)
    os.kill(subject.pid, 18)
    assert subject.go() == ["ok"]
